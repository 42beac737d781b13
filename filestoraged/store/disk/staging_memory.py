"""The memory that the stagings of a process share."""

from __future__ import annotations

import threading

from filestoraged.digest import Bytes


class StagingMemory:
    """The lock guards the sum."""

    def __init__(self, size: int, *, most: int) -> None:
        """`size` is in bytes; `most` is what one staging may have of it."""
        self.most = most
        self._left = size
        self._lock = threading.Lock()

    def stage(self, size: int | None) -> MemoryStaging | None:
        """Reserve memory for `size` bytes, if that is known. Returns None if that is too much, or none is left."""
        reserved = size or 0
        if reserved > self.most or not self.reserve(reserved):
            return None
        return MemoryStaging(self, reserved)

    def reserve(self, size: int) -> bool:
        """Reserve memory. Returns False if there is not enough."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def release(self, size: int) -> None:
        with self._lock:
            self._left += size


class MemoryStaging:
    """Bytes in memory that is reserved for them. One thread at a time calls it."""

    __slots__ = ("_memory", "_reserved", "data")

    def __init__(self, memory: StagingMemory, reserved: int) -> None:
        """`reserved` bytes are reserved already."""
        self._memory = memory
        self._reserved = reserved
        self.data = bytearray()

    def append(self, data: Bytes) -> bool:
        """Returns False if there would be too many bytes, or no memory is left for them."""
        size = len(self.data) + len(data)
        missing = size - self._reserved
        if missing > 0:
            if size > self._memory.most or not self._memory.reserve(missing):
                return False
            self._reserved += missing
        self.data += data
        return True

    def discard(self) -> None:
        """Forget the bytes, and give the memory back. A second call does nothing."""
        reserved, self._reserved = self._reserved, 0
        self.data = bytearray()
        self._memory.release(reserved)
