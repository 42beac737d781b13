"""The write lock of a database that several processes share, with a few numbers that they share too.

Both are in a small file beside the database: its lock, and numbers that a process reads through a mapping. It writes
them by system calls, never through the mapping: a store to mapped memory may need a new disk block, in a hole of the
file or on a copy-on-write file system, and on a full disk that kills the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
from collections.abc import Iterator

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error
from filestoraged.file_lock import lock, try_lock_within, unlock
from filestoraged.store import layout
from filestoraged.store.path_identity import PathIdentity, database_identity

# The numbers, each of 64 bits: the count of commits; whether the log is in doubt; the pages written to the log since it
# was last copied into the database; and the boot of the machine in which the log was last written.
_COMMITS, _DOUBT, _WRITTEN, _BOOT = range(4)
_UINT64 = struct.Struct("=Q")
_FILE_SIZE = 4096

# Seconds between two attempts of `acquire_within`.
_ATTEMPT_PAUSE = 0.02

# A random number, new with each boot; Linux, "Documentation for /proc/sys/kernel/", section "random".
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class WriteLock:
    """Make it after the fork. One thread of a process acquires the lock, any thread reads the numbers.

    A with-block waits for the lock in the kernel, in order, while SQLite polls its own lock. If the file could not be
    opened before, because the disk is full, the with-block tries again. Raises OSError, and StoreDetached if the
    database is not the one that was opened. That costs one `stat` for each group of changes, which are made within the
    lock.
    """

    def __init__(self, database: str, identity: PathIdentity | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        """Without the `identity` of the database, any file at its path will do."""
        self._path = layout.write_lock(database)
        self._identity = identity or database_identity(database)
        self._clock = clock
        self._descriptor = -1
        self._boot = _boot()
        # Odd: no cached value is valid before the file is open.
        self._numbers = memoryview(bytes([1]) + bytes(_UINT64.size * 4 - 1)).cast("Q")
        with contextlib.suppress(OSError, Error):
            self._open()

    def __enter__(self) -> None:
        self._open()
        lock(self._descriptor)
        self._check_identity()

    def __exit__(self, *_: object) -> None:
        unlock(self._descriptor)

    @contextlib.contextmanager
    def acquire_within(self, seconds: float) -> Iterator[None]:
        """Hold the lock for a block.

        Raises TimeoutError if other processes hold it for that long, and StoreDetached as the with-block does.
        """
        self._open()
        if not try_lock_within(self._descriptor, seconds, self._clock, pause=_ATTEMPT_PAUSE):
            raise TimeoutError(errno.ETIMEDOUT, f"another process has held the write lock for {seconds:g} s")
        self._check_identity()
        with contextlib.ExitStack() as stack:
            stack.push(self.__exit__)
            yield

    @property
    def commits(self) -> int:
        """The count of commits. Even and unchanged: nothing was committed. Odd: a commit may be in progress."""
        return self._numbers[_COMMITS]

    @contextlib.contextmanager
    def committing(self) -> Iterator[None]:
        """Count a commit, before and after it. Call it within the lock.

        A process that is killed in between leaves the count odd: no cached value is valid until the next commit.
        """
        self._write(_COMMITS, self.commits | 1)
        yield
        with contextlib.suppress(OSError):
            self._write(_COMMITS, self.commits + 1)

    @property
    def is_doubtful(self) -> bool:
        """Whether a process failed or died while it wrote to the log, so that a part of it may not be on disk."""
        return self._numbers[_DOUBT] != 0

    @property
    def written(self) -> int:
        """The pages written since the last checkpoint."""
        return self._numbers[_WRITTEN]

    def begin_writing(self) -> None:
        """Mark the log as doubtful, for all processes, also those that start later. Call it within the lock."""
        self._write(_DOUBT, 1)

    def end_writing(self, written: int) -> None:
        """Clear the doubt: all writes and syncs since `begin_writing` have succeeded. Call it within the lock."""
        # If this fails, the log stays in doubt, which costs a checkpoint.
        with contextlib.suppress(OSError):
            self._write(_DOUBT, 0, written, self._boot)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _open(self) -> None:
        if self._descriptor >= 0:
            return
        self._identity.check()
        # Private: any user who can open the file can hold the lock. O_NOFOLLOW: it is written, and no foreign file is.
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _FILE_SIZE:
                # Behind the numbers, which another process may be using already. On a tmpfs this allocates their page.
                os.pwrite(descriptor, b"\0", _FILE_SIZE - 1)
            mapped = mmap.mmap(descriptor, _FILE_SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
            # The lock beside a copy of the database would be another one.
            self._identity.check()
        except ValueError as error:
            os.close(descriptor)
            raise OSError(errno.EAGAIN, "the file of the write lock was truncated") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._numbers = memoryview(mapped).cast("Q")
        self._descriptor = descriptor

    def _check_identity(self) -> None:
        """Check the database within the lock: the wait for it may have been long. Unlocks it on an error."""
        try:
            self._identity.check()
        except BaseException:
            self.__exit__()
            raise

    def _write(self, first: int, *numbers: int) -> None:
        os.pwrite(self._descriptor, b"".join(map(_UINT64.pack, numbers)), first * _UINT64.size)


def is_of_this_boot(database: str) -> bool:
    """Whether the log was last written since the machine started: all that was written to it is in the page cache.

    Changes nothing, and does not need the lock.
    """
    try:
        descriptor = os.open(layout.write_lock(database), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        written = os.pread(descriptor, _UINT64.size, _BOOT * _UINT64.size)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return _boot() != 0 and written == _UINT64.pack(_boot())


def _boot(path: str = _BOOT_ID) -> int:
    """A number for the current boot, 0 if the kernel does not tell."""
    try:
        with open(path) as file:
            return int(file.read(18).replace("-", ""), 16)
    except (OSError, ValueError):
        return 0
