"""Objects in memcached as their readers get them: all chunks are fetched and checked before the first byte goes out."""

from __future__ import annotations

from contextlib import closing

from filestoraged.errors import CorruptObject
from filestoraged.store.contract import CopiedBlob, Sink
from filestoraged.store.hashing import HashThreads, OverlappedHasher
from filestoraged.store.memcached.buffers import ReservedBuffer
from filestoraged.store.memcached.client import LINE_END
from filestoraged.store.memcached.manifest import Manifest
from filestoraged.store.memcached.pool import ServerPool


class MemcachedBlob(CopiedBlob):
    """Read once, from front to back: memory of bytes that were passed on is given back.

    All bytes are in memory, so `send` does not wait for a server.
    """

    def __init__(self, manifest: Manifest, buffer: ReservedBuffer) -> None:
        """Take over the `buffer` that contains the object."""
        self.digest = manifest.digest
        self.size = manifest.size
        self.modified = manifest.modified
        self._buffer = buffer

    def send(self, sink: Sink, start: int, stop: int) -> int:
        start += sink.write(self._buffer.view[start:stop])
        self._buffer.drop_before(start)
        return start

    def read_into(self, target: memoryview, start: int) -> int:
        data = self._buffer.view[start : min(start + len(target), self.size)]
        target[: len(data)] = data
        self._buffer.drop_before(start + len(data))
        return len(data)

    def close(self) -> None:
        self._buffer.close()


def fetch(pool: ServerPool, manifest: Manifest, threads: HashThreads, view: memoryview | None = None) -> None:
    """Fetch and check all bytes of an object, and leave them in `view`, if given. Raises CorruptObject."""
    with closing(OverlappedHasher(manifest.algorithm, (), threads)) as hasher:
        start = 0
        for number, chunk in enumerate(manifest.chunks):
            # The line end that follows a chunk is overwritten by the next chunk.
            buffer = None if view is None else view[start : start + chunk.size + LINE_END]
            data = pool.get(chunk.key, buffer)
            if data is None:
                raise _damaged(manifest, number, "is missing")
            if len(data) != chunk.size:
                raise _damaged(manifest, number, f"has {len(data)} bytes instead of {chunk.size}")
            hasher.update_marked(data)
            start += chunk.size
        hasher.update(manifest.tail)
        if view is not None:
            view[start : manifest.size] = manifest.tail
        if hasher.finish() != manifest.digest:
            for number, checksum in enumerate(manifest.checksums):
                if hasher.marks[number] != checksum:
                    raise _damaged(manifest, number, "has other bytes than were stored")
            raise CorruptObject(manifest.digest, "its bytes have another digest")


def is_whole(pool: ServerPool, manifest: Manifest, threads: HashThreads) -> bool:
    """Whether all bytes of an object are present and correct."""
    try:
        fetch(pool, manifest, threads)
    except CorruptObject:
        return False
    return True


def _damaged(manifest: Manifest, number: int, reason: str) -> CorruptObject:
    return CorruptObject(manifest.digest, f"chunk {number + 1} of {len(manifest.checksums)} {reason}")
