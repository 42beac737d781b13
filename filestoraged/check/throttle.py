"""Reading at a limited rate, which all threads of a check share, and stopping all of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import new_hash

# A read is limited to what the rate allows in an eighth of a second, and to 4 KiB at least.
_READS_PER_SECOND = 8
_MIN_READ_SIZE = 4096

# Seconds by which reading may lag behind the rate and catch up: waits and reads may last a little longer than planned.
_MAX_LAG = 0.1

# In bytes. Hashing releases Python's lock from 2 KiB on, so larger reads make threads wait less for each other; reads
# that are larger than this leave the processor's cache between reading and hashing.
_READ_SIZE = 256 * 1024

# In bytes. A file below this size is read faster than the work could be passed to another thread.
_SMALL_FILE = 16 * 1024

# In bytes. A file that was not in the page cache is dropped from it after each read of this size.
_DROP_BEHIND = 8 * 1024 * 1024


class CheckStopped(Exception):
    """The check was stopped, and no result is needed."""


class Throttle:
    """Any thread calls it. The lock guards the time until which all reads are paid for."""

    def __init__(self, limit: int | None = None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """`limit` is in bytes per second, None for no limit."""
        # Of all that the check waits for.
        self.clock = clock
        self._limit = limit
        self._paid_until = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def read_size(self, size: int) -> int:
        """The number of bytes to read at once into a buffer of `size` bytes."""
        return size if self._limit is None else min(size, max(_MIN_READ_SIZE, self._limit // _READS_PER_SECOND))

    def pay(self, size: int) -> None:
        """Wait as long as the limit demands after a read of `size` bytes. Raises CheckStopped."""
        if self._limit is not None:
            with self._lock:
                now = self.clock.now()
                self._paid_until = max(self._paid_until, now - _MAX_LAG) + size / self._limit
                wait = self._paid_until - now
            if wait > 0:
                self.clock.wait(self._stopped, wait)
        self.raise_if_stopped()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`. Raises CheckStopped."""
        self.clock.wait(self._stopped, seconds)
        self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise CheckStopped

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """End all threads soon. A signal handler may call it."""
        self._stopped.set()


class FileHasher:
    """Hashes files at the rate of a throttle. One thread uses it: it has one buffer for all files."""

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle
        self._buffer = memoryview(bytearray(throttle.read_size(_READ_SIZE)))
        self._small_buffer = self._buffer[:_SMALL_FILE]

    def digest(self, descriptor: int, algorithm: str, count: Callable[[int], None]) -> str:
        """The digest of a whole file. Calls `count` with the size of each read. Raises OSError and CheckStopped."""
        hash_ = new_hash(algorithm)
        size = self._read_cached(descriptor)
        # A file that is not in the page cache has not been read lately, and should not displace files that were.
        is_cold = size < 0
        if is_cold:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            size = os.preadv(descriptor, (self._buffer,), 0)
        position = dropped = 0
        while size:
            hash_.update(self._buffer[:size])
            position += size
            count(size)
            self._throttle.pay(size)
            if is_cold and position - dropped >= _DROP_BEHIND:
                os.posix_fadvise(descriptor, dropped, position - dropped, os.POSIX_FADV_DONTNEED)
                dropped = position
            size = os.preadv(descriptor, (self._buffer,), position)
        if is_cold:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return hash_.hexdigest()

    def is_small_and_whole(self, descriptor: int, algorithm: str, digest: str, count: Callable[[int], None]) -> bool:
        """Whether the file is small, in the page cache, and has that digest. False means that it must be hashed."""
        try:
            size = os.preadv(descriptor, (self._small_buffer,), 0, os.RWF_NOWAIT)
        except OSError:
            return False
        if size == len(self._small_buffer):
            return False
        hash_ = new_hash(algorithm)
        hash_.update(self._small_buffer[:size])
        if hash_.hexdigest() != digest:
            return False
        count(size)
        self._throttle.pay(size)
        return True

    def _read_cached(self, descriptor: int) -> int:
        """Read the start of a file from the page cache. Returns its size, or -1 if the disk would have to be read."""
        try:
            return os.preadv(descriptor, (self._buffer,), 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return -1
        except OSError:
            # The file system does not support RWF_NOWAIT, or the disk failed; a plain read tells which.
            return os.preadv(descriptor, (self._buffer,), 0)
