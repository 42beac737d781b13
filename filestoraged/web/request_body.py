"""A body on its way from a connection into a page, as far as it has come."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from filestoraged.web.limits import Limits
from filestoraged.web.message import Receiving, Response
from filestoraged.web.receiver import Receiver
from filestoraged.wire.body import Framing

# 256 KiB: hashing one such piece takes 0.6 ms, far more than the calls around it.
_PIECE = 256 * 1024

# Bytes that one connection may bring before others have their turn, where some wait.
_TURN = 4 * 1024 * 1024


class RequestBody:
    """Feeds a page that wants a body. One thread at a time has it.

    Each piece is released once the page has asked for the next. A page that still has it has a view of nothing: it
    keeps no buffer in memory while a slow client pauses, and a use by mistake raises ValueError.
    """

    __slots__ = ("_framing", "_page", "_receiver", "awaited", "began", "received", "silent")

    def __init__(self, receiver: Receiver, framing: Framing, page: Receiving) -> None:
        self._receiver = receiver
        self._framing = framing
        self._page = page
        # Bytes of the body that the page was fed.
        self.received = 0
        # When the body was asked for, on the monotonic clock.
        self.began = time.monotonic()
        # Whether it stopped because nothing came.
        self.silent = False
        # What the page waits for, if it is no piece.
        self.awaited: Future[Any] | None = None

    def start(self) -> Response | None:
        """Run the page up to where it wants the body. Returns its answer, where it does not."""
        return self._feed(None)

    def go_on(self) -> Response | None:
        """Feed what has come, or the result that was awaited. Returns the page's answer, or None while there is none.

        Raises ClientGone, or MalformedRequest where a chunk is.
        """
        self.silent = False
        if self.awaited is not None:
            return self._feed_result()
        response = self._feed_buffered()
        if response is None and not self._framing.done:
            response = self._feed_arriving()
        if response is None and self._framing.done:
            response = self._feed(b"")
        return response

    def is_slow(self, limits: Limits, now: float) -> bool:
        """Whether the body comes more slowly than it may."""
        seconds = now - self.began
        return seconds >= limits.body_rate_from and self.received < limits.body_rate * seconds

    def fail(self, error: Exception) -> Response:
        """Tell the page that what it waits for will not come. Returns its answer."""
        try:
            self._page.throw(error)
        except StopIteration as ended:
            return _answer(ended)
        raise AssertionError("a page goes on without what it waits for") from error

    def close(self) -> None:
        """The client left: what the page has begun is to be undone."""
        self._page.close()

    def _feed_buffered(self) -> Response | None:
        receiver = self._receiver
        while receiver.buffer and not self._framing.done:
            data = receiver.buffer
            response, used = self._decode(memoryview(data))
            receiver.buffer = data[used:]
            if response is not None:
                return response
        return None

    def _feed_arriving(self) -> Response | None:
        # Of a body with a length not a byte too many is read: what follows is the next request's.
        framing = self._framing
        buffer = memoryview(bytearray(int(min(_PIECE, framing.left))))
        turn = _TURN
        while not framing.done and turn > 0:
            window = buffer[: int(min(_PIECE, framing.left))]
            received = self._receiver.receive_into(window)
            if not received:
                self.silent = True
                return None
            response, used = self._decode(window[:received])
            self._receiver.buffer = bytes(window[used:received])
            if response is not None:
                return response
            turn -= received
        return None

    def _feed_result(self) -> Response | None:
        assert self.awaited is not None
        try:
            result = self.awaited.result()
        except Exception as error:
            return self.fail(error)
        return self._feed(result)

    def _decode(self, data: memoryview) -> tuple[Response | None, int]:
        pieces, used = self._framing.decode(data)
        for piece in pieces:
            self.received += len(piece)
            with piece:
                response = self._feed(piece)
            if response is not None:
                return response, used
        return None, used

    def _feed(self, piece: Any) -> Response | None:
        try:
            self.awaited = self._page.send(piece)
        except StopIteration as ended:
            return _answer(ended)
        return None


def _answer(ended: StopIteration) -> Response:
    response: Response = ended.value
    return response
