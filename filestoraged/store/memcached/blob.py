"""An object that was fetched as a whole: as a blob, or as a stream."""

from __future__ import annotations

import io
from typing import Any

from filestoraged.store.contract import Blob, Sink
from filestoraged.store.memcached.buffers import BufferBudget
from filestoraged.store.memcached.manifest import Manifest


class MemcachedBlob(Blob):
    """It is read once, from front to back: the memory of what has been handed on is given back."""

    def __init__(self, manifest: Manifest, memory: BufferBudget) -> None:
        """Take over the `memory` that holds the object."""
        self.digest = manifest.digest
        self.size = manifest.size
        self.modified = manifest.modified
        self._memory = memory

    def send(self, sink: Sink, start: int, stop: int) -> int:
        start += sink.write(self._memory.view[start:stop])
        self._memory.drop_before(start)
        return start

    def read_into(self, buffer: memoryview, start: int) -> int:
        """Copy what is from `start` on. Returns how many bytes, 0 at the end."""
        data = self._memory.view[start : min(start + len(buffer), self.size)]
        buffer[: len(data)] = data
        self._memory.drop_before(start + len(data))
        return len(data)

    def close(self) -> None:
        self._memory.close()


class Stream(io.RawIOBase):
    """A fetched blob from front to back; for `io.BufferedReader`, which has lines and small reads."""

    def __init__(self, blob: MemcachedBlob) -> None:
        self._blob = blob
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._blob.read_into(buffer, self._position)
        self._position += count
        return count

    def close(self) -> None:
        self._blob.close()
        super().close()
