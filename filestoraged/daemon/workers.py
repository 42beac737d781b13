"""The master of several workers: it forks them, replaces those that die, and passes its end on to them.

It has no threads, opens nothing but what it was handed, and never serves. The signals it waits for stay blocked
in the workers too, so that none is lost between a fork and its first wait. A worker drains on SIGTERM, which only
the master sends, or when the master is gone: it then finds a pipe closed whose other end was the master's.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import Callable, Dict, NamedTuple

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)
_AWAITED = (*STOP, signal.SIGCHLD)

# A worker that lived this long, in seconds, did not die of how it was started, and is replaced at once.
_GROWN_UP = 10.0

# Seconds before one that died young is replaced: doubled each time, so that a fault does not keep a core busy.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0

# Runs the worker of a slot: calls its second argument when it serves, and returns the exit status when it has drained.
Work = Callable[[int, Callable[[], None]], int]


class _Started(NamedTuple):
    # From 0 up; the one that replaces a worker has its slot.
    slot: int
    # On the monotonic clock.
    time: float


class Workers:
    """`count` processes that each run `work`. All by the main thread of the master."""

    def __init__(self, count: int, work: Work) -> None:
        self._count = count
        self._work = work
        self._started: Dict[int, _Started] = {}
        self._pause = _FIRST_PAUSE
        # Nothing is ever written to it: its end is the message.
        self._alive, self._master = os.pipe()

    def start(self) -> None:
        """Fork the workers, and return when each of them serves or has died."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        all_serve, one_serves = os.pipe()
        for _ in range(self._count):
            self._fork(lambda: os.close(one_serves))
        os.close(one_serves)
        # Each has a copy of that end, and closes it once it serves. Nothing is read until the last one has.
        os.read(all_serve, 1)
        os.close(all_serve)

    def run(self) -> signal.Signals:
        """Replace workers that die, until a signal asks for the end. Returns that signal."""
        while True:
            missing = self._count - len(self._started)
            received = signal.sigtimedwait(_AWAITED, self._pause) if missing else signal.sigwaitinfo(_AWAITED)
            if received is not None and received.si_signo in STOP:
                return signal.Signals(received.si_signo)
            self._bury()
            if received is None:
                self._pause = min(self._pause * 2, _LONGEST_PAUSE)
                self._fork(lambda: None)

    def drain(self, timeout: float) -> bool:
        """Have all finish. Returns whether they did, within `timeout` seconds; those that did not are killed.

        A second signal ends the workers and this process at once.
        """
        deadline = time.monotonic() + timeout
        self._signal(signal.SIGTERM)
        while self._started:
            received = signal.sigtimedwait(_AWAITED, max(0.0, deadline - time.monotonic()))
            if received is None:
                self._signal(signal.SIGKILL)
                return False
            if received.si_signo in STOP:
                self._signal(signal.SIGKILL)
                _die_of(received.si_signo)
            self._bury()
        return True

    def _fork(self, on_serving: Callable[[], None]) -> None:
        slot = min(set(range(self._count)) - {each.slot for each in self._started.values()})
        pid = os.fork()
        if pid:
            self._started[pid] = _Started(slot, time.monotonic())
            return
        status = 1
        try:
            os.close(self._master)
            threading.Thread(target=self._await_masters_end, name="master", daemon=True).start()
            status = self._work(slot, on_serving)
        except Exception:
            log.exception("a worker failed")
        finally:
            # Not by `sys.exit`: what is to be tidied up is the master's.
            os._exit(status)

    def _await_masters_end(self) -> None:
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _bury(self) -> None:
        """Take note of the workers that are dead. One that grew up is replaced at once, others after a pause."""
        while self._started:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            lived = time.monotonic() - self._started.pop(pid).time
            if status:
                log.error("worker %d died after %.1f s: %s", pid, lived, _cause(status))
            if lived >= _GROWN_UP:
                self._pause = _FIRST_PAUSE

    def _signal(self, number: int) -> None:
        for pid in self._started:
            os.kill(pid, number)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
