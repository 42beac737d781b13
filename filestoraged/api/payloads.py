"""Receives request bodies that are processed in memory, within a bound for all of them together."""

from __future__ import annotations

import threading

from filestoraged.errors import TooLarge, Unavailable
from filestoraged.web.message import Request

# Maximum size of all request bodies in flight for one interface in a worker, in bytes. The first bytes of each do not
# count, so that slow large bodies do not cause the refusal of small ones.
_MAX_IN_FLIGHT = 64 * 1024 * 1024


class Payloads:
    """Any thread calls it. The lock guards the total of the bodies in flight."""

    def __init__(self, max_size: int, *, small: int) -> None:
        """Both are sizes of a body in bytes: the largest that is accepted, and up to which a body does not count."""
        self._max_size = max_size
        self._small = small
        self._size = 0
        self._lock = threading.Lock()

    async def gather(self, request: Request) -> bytes:
        """Receive a body. Raises TooLarge, and Unavailable if too many bytes are in flight."""
        if (request.size or 0) > self._max_size:
            raise TooLarge(self._max_size, size=request.size)
        received = self.received(request)
        if received is not None:
            return received
        # One buffer: a list of pieces would take a thousand times the memory for a body that arrives byte by byte.
        body = bytearray()
        try:
            async for piece in request.body:
                if len(body) + len(piece) > self._max_size:
                    raise TooLarge(self._max_size)
                self._reserve(self._counted(len(body) + len(piece)) - self._counted(len(body)))
                body += piece
        finally:
            self._release(self._counted(len(body)))
        return bytes(body)

    def received(self, request: Request) -> bytes | None:
        """A small body that has arrived with its head, as most do. It does not count as in flight."""
        return request.body.take_buffered() if request.size is not None and request.size <= self._small else None

    def _reserve(self, size: int) -> None:
        with self._lock:
            if size and self._size + size > _MAX_IN_FLIGHT:
                raise Unavailable(f"More than {_MAX_IN_FLIGHT} bytes of request bodies are in flight; retry later.")
            self._size += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._size -= size

    def _counted(self, size: int) -> int:
        return max(0, size - self._small)
