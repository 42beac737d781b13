"""A request body, as a page reads it: `async for piece in request.body`. Fed from a connection as far as it came."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager

from filestoraged.digest import Bytes
from filestoraged.web.limits import Limits
from filestoraged.web.receiver import Receiver
from filestoraged.wire.body import Framing

# In bytes. Hashing such a piece takes 0.3 ms, ten times as long as passing it to another thread.
_PIECE = 512 * 1024

# Bytes that a thread receives from one connection, and seconds, before others that wait get the thread: a client that
# sends a byte now and then is never silent.
_QUANTUM = 4 * 1024 * 1024
_TURN = 0.02


class RequestBody:
    """One thread at a time has it.

    Each piece is a view of bytes that never change, and is released when the page asks for the next. A page that keeps
    it has a view of nothing: it holds no buffer in memory while a slow client pauses, and a use by mistake raises
    ValueError. A view of the view remains valid.
    """

    __slots__ = (
        "_decoding",
        "_framing",
        "_now",
        "_receiver",
        "_undelivered",
        "arrived",
        "is_silent",
        "is_wanted",
        "received",
        "started",
    )

    def __init__(
        self, receiver: Receiver, framing: Framing, now: Callable[[], float], decoding: AbstractContextManager[object]
    ) -> None:
        """`decoding` is held while chunks are decoded, by one thread of the server at a time."""
        self._receiver = receiver
        self._decoding = decoding
        self._framing = framing
        self._now = now
        # What came in one read with a piece after which the page awaited something else.
        self._undelivered = b""
        # Bytes that the page was fed.
        self.received = 0
        # Whether the page has asked for a piece, and when it first did, on the clock.
        self.is_wanted = False
        self.started = 0.0
        # When a part of it was last received, on the clock.
        self.arrived = 0.0
        # Whether delivery stopped because nothing has come.
        self.is_silent = False

    def __aiter__(self) -> RequestBody:
        return self

    @types.coroutine
    def __anext__(self) -> Generator[None, Bytes, Bytes]:
        piece = yield None
        if not piece:
            raise StopAsyncIteration
        return piece

    def take_buffered(self) -> bytes | None:
        """Return the whole body where it has come with the head, else None: the page then reads it piece by piece."""
        size, data = self._framing.size, self._receiver.buffer
        if size is None or self.received or len(data) < size:
            return None
        self._framing.decode(memoryview(data))
        self._receiver.buffer = data[size:]
        self.received = size
        return data[:size]

    def open(self) -> bool:
        """The page wants its first piece. Returns whether the client may wait to be asked for it."""
        self.is_wanted = True
        self.started = self._now()
        return not self._receiver.buffer and not self._framing.done

    def deliver(self, feed: Callable[[Bytes], bool]) -> None:
        """Feed what has come, and an empty piece at the end, until `feed` returns False.

        Raises ClientGone, or MalformedRequest for the framing of a chunk.
        """
        self.is_silent = False
        if self._undelivered and not self._deliver_kept(feed):
            return
        if not self._deliver_buffered(feed):
            return
        if not self._framing.done and not self._deliver_arriving(feed):
            return
        if self._framing.done:
            feed(b"")

    def is_slow(self, limits: Limits, now: float) -> bool:
        """Whether the mean rate is below the least."""
        seconds = now - self.started
        return seconds >= limits.body_rate_from and self.received < limits.body_rate * seconds

    # Each returns whether the page wants more.

    def _deliver_kept(self, feed: Callable[[Bytes], bool]) -> bool:
        piece, self._undelivered = self._undelivered, b""
        self.received += len(piece)
        return feed(piece)

    def _deliver_buffered(self, feed: Callable[[Bytes], bool]) -> bool:
        receiver, framing = self._receiver, self._framing
        while receiver.buffer and not framing.done:
            data = receiver.buffer
            used, is_wanted = self._decode(memoryview(data), feed)
            receiver.buffer = data[used:]
            if not is_wanted:
                return False
        return True

    def _deliver_arriving(self, feed: Callable[[Bytes], bool]) -> bool:
        quantum, end = _QUANTUM, self._now() + _TURN
        while not self._framing.done and quantum > 0 and self.arrived < end:
            received, is_wanted = self._deliver_next(feed)
            if not is_wanted:
                return False
            if not received:
                self.is_silent = True
                return True
            quantum -= received
        return True

    def _deliver_next(self, feed: Callable[[Bytes], bool]) -> tuple[int, bool]:
        """Feed what comes next. Returns how many bytes came, and whether the page wants more."""
        data = self._receive()
        self.arrived = self._now()
        if not data:
            # Nothing is fed: an empty piece is the end of the body.
            return 0, True
        used, is_wanted = self._decode(memoryview(data), feed)
        self._receiver.buffer = data[used:]
        return len(data), is_wanted

    def _receive(self) -> bytes:
        framing = self._framing
        if framing.size is None:
            return self._receiver.receive_some(_PIECE)
        # Not a byte too many: what follows belongs to the next request.
        return self._receiver.receive_all(int(min(_PIECE, framing.left)))

    def _decode(self, data: memoryview, feed: Callable[[Bytes], bool]) -> tuple[int, bool]:
        if self._framing.size is None:
            # A client may send each byte in a chunk of its own. If several threads decoded, the loop would wait for the
            # interpreter's lock behind each of them: 32 such clients delayed all others by 9 s, and by 0.03 s now.
            with self._decoding:
                pieces, used = self._framing.decode(data)
        else:
            pieces, used = self._framing.decode(data)
        is_wanted = True
        kept = []
        for piece in pieces:
            if is_wanted:
                self.received += len(piece)
                with piece:
                    is_wanted = feed(piece)
            else:
                kept.append(bytes(piece))
        if kept:
            self._undelivered = b"".join(kept)
        return used, is_wanted
