"""Reading a whole file for its digest, as fast as the hash is or as slowly as one is told."""

from __future__ import annotations

import os
from collections.abc import Callable

from filestoraged.check.throttle import Throttle
from filestoraged.digest import new_hash

# The hash runs without Python's lock from 2 KiB on, so the larger a piece, the less threads wait for one another; what
# is larger than this falls out of the processor's cache between reading and hashing.
_SIZE = 256 * 1024

# Reading a file of this size is over before another thread could be told to.
_SMALL = 16 * 1024

# A file that nobody has asked for lately leaves the page cache as it was, each time that so many bytes were read of it.
_BEHIND = 8 * 1024 * 1024


class Reader:
    """One thread uses it: it has one buffer, for all files."""

    def __init__(self, pace: Throttle) -> None:
        self._pace = pace
        self._buffer = memoryview(bytearray(pace.piece(_SIZE)))
        self._glance = self._buffer[:_SMALL]

    def digest(self, descriptor: int, algorithm: str, count: Callable[[int], None]) -> str:
        """The digest of a file, from its beginning. `count` is told of each piece. Raises OSError, and Stopped."""
        hash_ = new_hash(algorithm)
        size = self._read_cached(descriptor)
        # What the kernel does not have at hand, nobody has read lately, nor will soon because of us.
        cold = size < 0
        if cold:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
            size = os.preadv(descriptor, (self._buffer,), 0)
        position = behind = 0
        while size:
            hash_.update(self._buffer[:size])
            position += size
            count(size)
            self._pace.pay(size)
            if cold and position - behind >= _BEHIND:
                os.posix_fadvise(descriptor, behind, position - behind, os.POSIX_FADV_DONTNEED)
                behind = position
            size = os.preadv(descriptor, (self._buffer,), position)
        if cold:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return hash_.hexdigest()

    def is_small_and_whole(self, descriptor: int, algorithm: str, digest: str, count: Callable[[int], None]) -> bool:
        """Whether the bytes that one read gives without waiting have that digest: then there are no others."""
        try:
            size = os.preadv(descriptor, (self._glance,), 0, os.RWF_NOWAIT)
        except OSError:
            return False
        if size == len(self._glance):
            return False
        hash_ = new_hash(algorithm)
        hash_.update(self._glance[:size])
        if hash_.hexdigest() != digest:
            return False
        count(size)
        self._pace.pay(size)
        return True

    def _read_cached(self, descriptor: int) -> int:
        """Read the beginning if that takes no waiting for the disk. Returns how much, -1 where it does."""
        try:
            return os.preadv(descriptor, (self._buffer,), 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return -1
        except OSError:
            # The file system cannot tell, or the disk has failed: which of the two, the next attempt says.
            return os.preadv(descriptor, (self._buffer,), 0)
