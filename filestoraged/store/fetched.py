"""An object that was fetched as a whole: as a blob, or as a stream. Its memory is given back as it is read."""

from __future__ import annotations

import io
from typing import Any, List, Sequence

from filestoraged.digest import Bytes
from filestoraged.store.budget import Budget
from filestoraged.store.contract import Blob, Sink
from filestoraged.store.manifest import CHUNK_SIZE, Manifest


class FetchedBlob(Blob):
    """Sent once, from front to back: pieces before what is asked for are dropped."""

    def __init__(self, manifest: Manifest, pieces: Sequence[Bytes], budget: Budget) -> None:
        """Take over the object's `pieces`, of CHUNK_SIZE but for the last one, and their share of the `budget`."""
        self.digest = manifest.digest
        self.size = manifest.size
        self.modified = manifest.modified
        self._pieces: List[Bytes] = list(pieces)
        self._budget = budget
        self._dropped = 0

    def send(self, sink: Sink, start: int, stop: int) -> int:
        self._drop_before(start)
        while start < stop:
            piece = self._at(start)[: stop - start]
            taken = sink.write(piece)
            start += taken
            if taken < len(piece):
                break
        return start

    def read_into(self, buffer: memoryview, start: int) -> int:
        """Begin to fill the `buffer` with what is from `start` on. Returns how many bytes, 0 at the end."""
        self._drop_before(start)
        if start == self.size:
            return 0
        piece = self._at(start)[: len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._drop(len(self._pieces))

    def _at(self, start: int) -> memoryview:
        number, offset = divmod(start, CHUNK_SIZE)
        return memoryview(self._pieces[number])[offset:]

    def _drop_before(self, start: int) -> None:
        self._drop(start // CHUNK_SIZE)

    def _drop(self, count: int) -> None:
        """Drop the first `count` pieces."""
        while self._dropped < count:
            self._budget.give(len(self._pieces[self._dropped]))
            self._pieces[self._dropped] = b""
            self._dropped += 1


class Stream(io.RawIOBase):
    """A fetched blob from front to back; for `io.BufferedReader`, which has lines and small reads."""

    def __init__(self, blob: FetchedBlob) -> None:
        self._blob = blob
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = self._blob.read_into(memoryview(buffer), self._position)
        self._position += read
        return read

    def close(self) -> None:
        self._blob.close()
        super().close()
