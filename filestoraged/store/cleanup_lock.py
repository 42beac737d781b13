"""The lock by which one janitor of all processes cleans up at a time. Two at once would do no harm."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.file_lock import try_lock
from filestoraged.store.path_identity import PathIdentity

# A janitor that has the lock and has done nothing for so many seconds is stopped, or its disk hangs: another one then
# works without the lock.
JANITOR_TIMEOUT = 60.0


class CleanupLock(Protocol):
    """One thread calls it."""

    def hold(self) -> AbstractContextManager[bool]:
        """Hold the lock for the block, unless another process does. Returns whether this one does. Raises an Error or
        OSError.
        """

    def renew(self) -> None:
        """Called from time to time within the block: this process is not stopped."""


class FileLock:
    """A lock on a file, created where it is missing. The time of its last change is the heartbeat."""

    def __init__(
        self,
        path: str,
        root: PathIdentity | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        timeout: float = JANITOR_TIMEOUT,
    ) -> None:
        """Without `root`, the directory that it is in, the file is created in whatever is there.

        The date of the clock is that of the file system. With an infinite `timeout`, no other process works
        while one that is stopped has the lock.
        """
        self._path = path
        self._root = root
        self._clock = clock
        self._timeout = timeout

    @contextlib.contextmanager
    def hold(self) -> Iterator[bool]:
        if self._root is not None:
            self._root.check()
        lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield not self._is_locked(lock)
        finally:
            # Unlocks it, as the end of the process would.
            os.close(lock)

    def renew(self) -> None:
        with contextlib.suppress(OSError):
            os.utime(self._path, follow_symlinks=False)

    def _is_locked(self, lock: int) -> bool:
        """Lock the file. Returns whether a process has it locked that is alive."""
        return not try_lock(lock) and abs(self._clock.date() - os.fstat(lock).st_mtime) < self._timeout
