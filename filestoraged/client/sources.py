"""What is uploaded: bytes, a regular file, or a stream; with its digest, which is computed while it is sent.

A file is read once, into buffers that go from the socket to the hash and back: so the digest is that of the bytes sent.
Sending a file by `sendfile` saves a copy here, costs the receiver more than that, and the hash would read it again.
A stream has no known size, such as that of a pipe: it is read in pieces, each of which is in memory once.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, NamedTuple, Protocol

from filestoraged.client.hashing import BLOCK_SIZE, MAX_WAITING, BackgroundHash
from filestoraged.client.refusals import SourceChanged
from filestoraged.digest import Digest

# As many as wait, one that is hashed, and one that is sent.
_BUFFERS = MAX_WAITING + 2

# Bytes. A piece can be sent again after a lost connection; with fewer bytes, a daemon would sync more often.
PIECE_SIZE = 8 * 1024 * 1024

# Called with the bytes that are done, and with all of them; None where that is unknown.
Progress = Callable[[int, int | None], None]


class Source(Protocol):
    """Content of a known size, in bytes, which can be read several times."""

    size: int

    def read(self, start: int, stop: int, buffer: memoryview) -> memoryview:
        """Return bytes from `start` on, up to `stop` and as many as the buffer has at most, in it or elsewhere."""

    def check(self) -> None:
        """Raise SourceChanged if the content is not what it was at first."""


class BytesSource:
    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = memoryview(data)

    def read(self, start: int, stop: int, buffer: memoryview) -> memoryview:
        return self._data[start : min(stop, start + len(buffer))]

    def check(self) -> None:
        pass


class FileSource:
    """An open regular file. Its position is not used."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._identity = self._identify()
        self.size, self.modified = self._identity

    def read(self, start: int, stop: int, buffer: memoryview) -> memoryview:
        count = os.preadv(self._descriptor, [buffer[: stop - start]], start)
        if not count:
            raise SourceChanged("the file became shorter while it was uploaded")
        return buffer[:count]

    def check(self) -> None:
        if self._identify() != self._identity:
            raise SourceChanged("the file was changed while it was uploaded")

    def _identify(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


class HashedSource:
    """A source, hashed as it is sent for the first time. One thread uses it; leaving the with-block ends the other."""

    def __init__(self, source: Source, algorithm: str, progress: Progress | None = None) -> None:
        self.size = source.size
        self._source = source
        self._hash = BackgroundHash([algorithm])
        self._progress = progress
        # Buffers that are neither sent nor hashed. New ones are made until there are enough.
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._made = 0

    def __enter__(self) -> HashedSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._hash.close()

    def blocks(self, start: int) -> Iterator[memoryview]:
        """Yield the bytes from `start` on, each block until the next one is asked for.

        Raises SourceChanged, before the last block if the file was changed.
        """
        # In front is what an earlier run of the program has sent.
        self._hash_until(self._hash, start)
        while start < self.size:
            buffer = self._acquire()
            block = self._source.read(start, self.size, buffer)
            if start + len(block) == self.size:
                # A request without its last block stores nothing.
                self._source.check()
            try:
                yield block
            except GeneratorExit:
                # The connection broke.
                self._free.put(buffer)
                raise
            self._add(start, block, buffer)
            start += len(block)
            if self._progress is not None:
                self._progress(start, self.size)

    def check(self) -> None:
        """Raise SourceChanged if the content is not what it was at first."""
        self._source.check()

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of the whole. It is read again if it was hashed by another algorithm."""
        if algorithm in self._hash.algorithms and self._hash.position == self.size:
            return self._hash.digest(algorithm)
        with BackgroundHash([algorithm]) as again:
            self._hash_until(again, self.size)
            return again.digest(algorithm)

    def _add(self, start: int, block: memoryview, buffer: memoryview) -> None:
        """Hash what was not sent before; the buffer is free after that."""
        known = self._hash.position - start
        if known < len(block):
            self._hash.update(block[known:], partial(self._free.put, buffer))
        else:
            self._free.put(buffer)

    def _hash_until(self, hashed: BackgroundHash, stop: int) -> None:
        while hashed.position < stop:
            buffer = self._acquire()
            block = self._source.read(hashed.position, stop, buffer)
            hashed.update(block, partial(self._free.put, buffer))

    def _acquire(self) -> memoryview:
        """Return a buffer. Waits for the hash if all are in use."""
        if self._made < _BUFFERS and self._free.empty():
            self._made += 1
            return memoryview(bytearray(min(BLOCK_SIZE, max(self.size, 1))))
        return self._free.get()


class Piece(NamedTuple):
    """`start` is its offset in bytes."""

    start: int
    data: bytes
    is_last: bool


def pieces(stream: BinaryIO) -> Iterator[Piece]:
    """Yield the pieces of a stream, at least one. Each is read before the one in front of it is yielded."""
    start = 0
    data = _read_piece(stream)
    while True:
        following = _read_piece(stream) if len(data) == PIECE_SIZE else b""
        yield Piece(start, data, not following)
        if not following:
            return
        start += len(data)
        data = following


def _read_piece(stream: BinaryIO) -> bytes:
    """Return PIECE_SIZE bytes, fewer at the end alone: a pipe gives what it has."""
    collected = bytearray()
    while len(collected) < PIECE_SIZE and (data := stream.read(PIECE_SIZE - len(collected))):
        collected += data
    return bytes(collected)
