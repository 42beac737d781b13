"""The write lock of a database that several processes share, and what these processes tell each other.

Both are a small file beside the database: its lock, and a few numbers that a process reads as it reads memory. It
writes them by system calls, never through the mapping: a store to mapped memory needs a block of the disk where the
file has a hole, and a new block on file systems that copy on write, and a full disk then kills the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator

from filestoraged.store import layout

# The numbers, each of 64 bits: how often something was committed; whether the log is in doubt; and how much was written
# to the log since it was last copied into the database.
_COMMITS, _DOUBT, _WRITTEN = range(3)
_NUMBER = struct.Struct("=Q")
_SIZE = 4096

# Seconds between two attempts of `acquire_within`.
_PAUSE = 0.02


class WriteLock:
    """Made after the fork. One thread of a process takes the lock, any thread reads the numbers.

    A with-block waits for the lock, in the kernel and in order, where SQLite's own lock is asked for again and again.
    Where the file cannot be opened yet, because the disk is full, the with-block tries again; raises OSError.
    """

    def __init__(self, database: str) -> None:
        self._path = layout.write_lock(database)
        self._descriptor = -1
        # Odd: nothing is trusted before the file is open.
        self._numbers = memoryview(bytes([1]) + bytes(_NUMBER.size * 3 - 1)).cast("Q")
        with contextlib.suppress(OSError):
            self._open()

    def __enter__(self) -> None:
        self._open()
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def acquire_within(self, seconds: float) -> Iterator[None]:
        """Hold the lock for a block. Raises TimeoutError where others hold it for that long."""
        self._open()
        deadline = time.monotonic() + seconds
        while not self._try_acquire():
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has held the write lock for {seconds:g} s")
            time.sleep(_PAUSE)
        with contextlib.ExitStack() as stack:
            stack.push(self.__exit__)
            yield

    @property
    def commits(self) -> int:
        """As long as this stays the same and even, nothing was committed. Odd, a commit may be in progress."""
        return self._numbers[_COMMITS]

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Count a commit, before and after it. Within the lock.

        A process killed in between leaves the count odd: nothing that was remembered is trusted until the next commit.
        """
        self._write(_COMMITS, self.commits | 1)
        yield
        with contextlib.suppress(OSError):
            self._write(_COMMITS, self.commits + 1)

    @property
    def is_doubtful(self) -> bool:
        """Whether a process failed or died while it wrote to the log, so that the disk may lack some of it."""
        return self._numbers[_DOUBT] != 0

    @property
    def written(self) -> int:
        """What was written since the last checkpoint, in the caller's unit."""
        return self._numbers[_WRITTEN]

    def begin_writing(self) -> None:
        """Mark the log as doubtful, for all processes and for those that start later. Within the lock."""
        self._write(_DOUBT, 1)

    def end_writing(self, written: int) -> None:
        """All writes and syncs since `begin_writing` have succeeded. Within the lock."""
        # Where this fails the log stays in doubt, which costs a checkpoint.
        with contextlib.suppress(OSError):
            self._write(_DOUBT, 0, written)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        # Not for others on the machine: whoever can open it can hold the lock.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _SIZE:
                # Behind the numbers, which another process may be using already. On a tmpfs it allocates their page.
                os.pwrite(descriptor, b"\0", _SIZE - 1)
            mapped = mmap.mmap(descriptor, _SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
        except ValueError as error:
            os.close(descriptor)
            raise OSError(errno.EAGAIN, "the file of the write lock was truncated") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._numbers = memoryview(mapped).cast("Q")
        self._descriptor = descriptor

    def _try_acquire(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write(self, first: int, *numbers: int) -> None:
        os.pwrite(self._descriptor, b"".join(map(_NUMBER.pack, numbers)), first * _NUMBER.size)
