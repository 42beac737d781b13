"""A socket whose other end sends what a test says, when it says so, on a clock of its own: no time passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

# Seconds until the bytes come, and the bytes.
Sent = tuple[float, bytes]


class VirtualSocket:
    """It is closed behind what is sent. What is sent to it is ignored."""

    def __init__(self, sent: Iterable[Sent]) -> None:
        self.now = 0.0
        # Bytes that were read.
        self.received = 0
        self.is_closed = False
        self._sent: Iterator[Sent] = iter(sent)
        self._next: Sent | None = None
        self._timeout = 0.0

    def clock(self) -> float:
        return self.now

    def settimeout(self, seconds: float) -> None:
        self._timeout = seconds

    def sendall(self, data: bytes, flags: int = 0) -> None:
        pass

    def send(self, data: Any) -> int:
        return len(data)

    def recv(self, size: int) -> bytes:
        buffer = memoryview(bytearray(size))
        return bytes(buffer[: self.recv_into(buffer)])

    def recv_into(self, buffer: Any) -> int:
        delay, data = self._next or next(self._sent, (0.0, b""))
        if delay > self._timeout:
            self.now += self._timeout
            self._next = (delay - self._timeout, data)
            raise TimeoutError("timed out")
        self.now += delay
        piece = data[: len(buffer)]
        buffer[: len(piece)] = piece
        self._next = (0.0, data[len(piece) :]) if len(piece) < len(data) else None
        self.received += len(piece)
        return len(piece)

    def close(self) -> None:
        self.is_closed = True


def at_once(*pieces: bytes) -> Iterator[Sent]:
    for piece in pieces:
        yield 0.0, piece


def dripping(data: bytes, seconds: float) -> Iterator[Sent]:
    """A byte at a time."""
    for number in range(len(data)):
        yield seconds, data[number : number + 1]


def endless(piece: bytes, seconds: float = 0.0) -> Iterator[Sent]:
    while True:
        yield seconds, piece
