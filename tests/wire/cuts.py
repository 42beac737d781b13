"""Cuts of a byte stream, as a network may deliver it to an incremental parser."""

from __future__ import annotations

from collections.abc import Iterator


def cuts(data: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Yield `data` whole, byte by byte, and in two pieces for each position, with a name for the subtest."""
    yield "whole", [data]
    yield "byte by byte", one_by_one(data)
    for position in range(1, len(data)):
        yield f"cut at {position}", [data[:position], data[position:]]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]
