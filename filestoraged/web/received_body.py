"""A request body that was received whole with its head, as a page reads it."""

from __future__ import annotations


class ReceivedBody:
    """The same interface as `RequestBody`, but nothing is waited for."""

    __slots__ = ("_data", "is_wanted", "received")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.received = 0
        self.is_wanted = False

    def take_buffered(self) -> bytes | None:
        if self.received:
            return None
        data, self._data = self._data, b""
        self.received = len(data)
        return data

    def __aiter__(self) -> ReceivedBody:
        return self

    async def __anext__(self) -> bytes:
        data = self.take_buffered()
        if not data:
            raise StopAsyncIteration
        return data
