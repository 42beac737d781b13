"""Locks on open files. They end with their process, however that ends.

A lock belongs to an open file: to all copies of its descriptor, those of forked processes too, and it ends when the
last copy is closed. What was opened before a fork is locked by `try_lock_as_process`, which tells the processes apart.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable

from filestoraged.clock import SYSTEM_CLOCK, Clock

EXCLUSIVE, SHARED = fcntl.LOCK_EX, fcntl.LOCK_SH

# As `fcntl.flock`.
Flock = Callable[[int, int], object]


def lock(descriptor: int, kind: int = EXCLUSIVE, *, flock: Flock = fcntl.flock) -> None:
    """Lock a file. It waits in the kernel, in order. Raises OSError."""
    flock(descriptor, kind)


def unlock(descriptor: int, *, flock: Flock = fcntl.flock) -> None:
    flock(descriptor, fcntl.LOCK_UN)


def try_lock(descriptor: int, kind: int = EXCLUSIVE, *, flock: Flock = fcntl.flock) -> bool:
    """Lock a file, unless it is locked. Returns whether it was free. Raises OSError."""
    try:
        flock(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # EACCES: what network file systems may answer if another machine has the lock, see fcntl(2).
        return False
    return True


def try_lock_within(descriptor: int, seconds: float, clock: Clock = SYSTEM_CLOCK, *, pause: float) -> bool:
    """Lock a file within that time. Returns False if others have it locked for so long. Raises OSError.

    `pause` is the time between two attempts, in seconds.
    """
    deadline = clock.now() + seconds
    while not try_lock(descriptor):
        if clock.now() >= deadline:
            return False
        clock.sleep(pause)
    return True


def try_lock_as_process(descriptor: int, position: int = 0) -> bool:
    """Lock one byte of a file for this process alone, unless another one has it. Returns whether it was free.

    Such a lock also ends when the process closes any descriptor of the file: nothing else may open it.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, position)
    except OSError:
        return False
    return True


def unlock_as_process(descriptor: int) -> None:
    fcntl.lockf(descriptor, fcntl.LOCK_UN)
