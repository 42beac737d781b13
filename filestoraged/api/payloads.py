"""Receives request bodies that are processed in memory, within a bound for all of them together."""

from __future__ import annotations

import threading

from filestoraged.errors import TooLarge, Unavailable
from filestoraged.web.request import Request

# Maximum size of all request bodies in flight for one interface in a worker, in bytes. The first bytes of each do not
# count, so that slow large bodies do not cause the refusal of small ones.
_MAX_IN_FLIGHT = 64 * 1024 * 1024


class Payload:
    """The body of one request. It counts as in flight from its first byte until the end of the with-block."""

    def __init__(self, payloads: Payloads, request: Request) -> None:
        self._payloads = payloads
        self._request = request
        self._counted = 0

    def __enter__(self) -> Payload:
        return self

    def __exit__(self, *_: object) -> None:
        self._payloads.release(self._counted)

    async def receive(self) -> bytes:
        """Raises TooLarge, and Unavailable if too many bytes are in flight."""
        received = self._payloads.received(self._request)
        if received is not None:
            return received
        limit = self._payloads.max_size
        # One buffer: a list of pieces would take a thousand times the memory for a body that arrives byte by byte.
        body = bytearray()
        async for piece in self._request.body:
            if len(body) + len(piece) > limit:
                raise TooLarge(limit)
            counted = self._payloads.count(len(body) + len(piece))
            self._payloads.reserve(counted - self._counted)
            self._counted = counted
            body += piece
        return bytes(body)


class Payloads:
    """Any thread calls it. The lock guards the total of the bodies in flight."""

    def __init__(self, max_size: int, *, small: int, max_in_flight: int = _MAX_IN_FLIGHT) -> None:
        """Sizes in bytes: of the largest body, of one that does not count, and of all that are in flight."""
        self.max_size = max_size
        self._small = small
        self._max_in_flight = max_in_flight
        self._size = 0
        self._lock = threading.Lock()

    def open(self, request: Request) -> Payload:
        """Raises TooLarge for a body that the client declares to be too large."""
        if (request.size or 0) > self.max_size:
            raise TooLarge(self.max_size, size=request.size)
        return Payload(self, request)

    async def gather(self, request: Request) -> bytes:
        """Receive a body that becomes something else at once, so that it does not count any longer."""
        with self.open(request) as payload:
            return await payload.receive()

    def received(self, request: Request) -> bytes | None:
        """A small body that has arrived with its head, as most do. It does not count as in flight."""
        return request.body.take_buffered() if request.size is not None and request.size <= self._small else None

    def count(self, size: int) -> int:
        """How many bytes of a body of that size count."""
        return max(0, size - self._small)

    def reserve(self, size: int) -> None:
        """Count so many bytes more as in flight. Raises Unavailable."""
        with self._lock:
            if size and self._size + size > self._max_in_flight:
                raise Unavailable(
                    f"More than {self._max_in_flight} bytes of request bodies are in flight; retry later."
                )
            self._size += size

    def release(self, size: int) -> None:
        with self._lock:
            self._size -= size
