"""Every way in which a network may cut bytes that matters to a reader of a stream."""

from __future__ import annotations

from collections.abc import Iterator


def cuts(data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Yield `data` whole, one byte at a time, and in two at each position; the name is for a subtest."""
    yield "whole", [data]
    yield "byte by byte", one_by_one(data)
    for position in range(1, len(data)):
        yield f"cut at {position}", [data[:position], data[position:]]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]
