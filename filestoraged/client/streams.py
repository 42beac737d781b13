"""Content without a known size, such as that of a pipe: read in pieces, each of which is in memory once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# Bytes. A piece can be sent again after a lost connection; with fewer bytes, a daemon would sync more often.
PIECE_SIZE = 8 * 1024 * 1024


class Piece(NamedTuple):
    """`start` is its offset in bytes."""

    start: int
    data: bytes
    is_last: bool


def pieces(stream: BinaryIO) -> Iterator[Piece]:
    """Yield the pieces of a stream, at least one. Each is read before the one in front of it is yielded."""
    start = 0
    data = _read(stream)
    while True:
        following = _read(stream) if len(data) == PIECE_SIZE else b""
        yield Piece(start, data, not following)
        if not following:
            return
        start += len(data)
        data = following


def _read(stream: BinaryIO) -> bytes:
    """Return PIECE_SIZE bytes, fewer at the end alone: a pipe gives what it has."""
    collected = bytearray()
    while len(collected) < PIECE_SIZE and (data := stream.read(PIECE_SIZE - len(collected))):
        collected += data
    return bytes(collected)
