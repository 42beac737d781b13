"""Forks the master process, whose threads have all ended by then."""

from __future__ import annotations

import gc
import os
import threading

from filestoraged.clock import SYSTEM_CLOCK, Clock

# Of this process, a directory for each thread.
_THREADS = "/proc/self/task"

# Seconds until threads that have ended are waited for no longer. They take microseconds, unless the machine is busy.
_END_TIMEOUT = 5.0
_END_PAUSE = 0.001


def fork() -> int:
    """Return what `os.fork` returns. Raises OSError.

    The garbage collector of the child never visits the objects that it has of this process. A visit writes to them, and
    so copies the pages that all processes share.
    """
    wait_for_ended_threads()
    gc.freeze()
    pid = -1
    try:
        pid = os.fork()
        return pid
    finally:
        if pid:
            gc.unfreeze()


def wait_for_ended_threads(clock: Clock = SYSTEM_CLOCK, directory: str = _THREADS) -> None:
    """Wait until the kernel has no thread of this process any more that has ended in Python.

    `directory` has an entry for each thread.

    Before Python 3.13, `Thread.join` returns while the thread still releases what C libraries keep for it, under their
    locks. A child that is forked meanwhile has such a lock and no thread to release it: with OpenSSL's, the first hash
    of each new thread would wait for ever.
    """
    deadline = clock.now() + _END_TIMEOUT
    while _count_entries(directory) > threading.active_count() and clock.now() < deadline:
        clock.sleep(_END_PAUSE)


def _count_entries(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        # /proc is not mounted.
        return 0
