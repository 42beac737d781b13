"""What a connection sends: heads, and bodies as they arrive. One thread at a time has a receiver.

The socket stays blocking and the kernel keeps the time (SO_RCVTIMEO): Python's own timeouts cost a `poll`
before every `recv`.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Callable, Iterator, Optional

from filestoraged.errors import ClientGone, RequestTimeout
from filestoraged.web.limits import Limits
from filestoraged.wire.body import Framing
from filestoraged.wire.head import find_end, skip_empty_lines

# A head with the small body behind it comes by one call.
_RECEIVE_SIZE = 64 * 1024

# 256 KiB: hashing one such piece takes 0.6 ms, far more than the calls around it.
_BODY_SIZE = 256 * 1024


class Receiver:
    """The receiving half of a connection. `buffer` has what came and was not asked for yet."""

    def __init__(self, connection: socket.socket, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.buffer = b""
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._timeout = 0.0

    def has_next(self, timeout: float) -> bool:
        """Whether something comes within `timeout` seconds; 0 asks only for what is there already.

        Raises ClientGone where it is the connection's end.
        """
        if self.buffer:
            return True
        flags = 0 if timeout else socket.MSG_DONTWAIT
        if timeout:
            self._set_timeout(timeout)
        try:
            self.buffer = self._connection.recv(_RECEIVE_SIZE, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClientGone("The client hung up.") from error
        if not self.buffer:
            raise ClientGone("The client closed the connection between requests.")
        return True

    def read_head(self) -> bytes:
        """Return the next head, whole. Call it when `has_next`.

        Raises RequestTimeout where it comes too slowly, ClientGone, or what `find_end` says of it.
        """
        data = skip_empty_lines(self.buffer)
        end = find_end(data)
        if end < 0:
            data, end = self._await_head(data)
        self.buffer = data[end:]
        return data[:end]

    def _await_head(self, data: bytes) -> "tuple[bytes, int]":
        deadline = self._clock() + self._limits.head
        end = -1
        while end < 0:
            left = deadline - self._clock()
            if left <= 0:
                raise RequestTimeout("The head of the request came too slowly.")
            self._set_timeout(left)
            try:
                received = self._connection.recv(_RECEIVE_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise ClientGone("The client hung up within a head.") from error
            if not received:
                raise ClientGone("The client closed the connection within a head.")
            data = skip_empty_lines(data + received)
            end = find_end(data)
        return data, end

    def receive_into(self, buffer: memoryview) -> int:
        """Fill some of `buffer` with what comes next of a body. Raises RequestTimeout or ClientGone."""
        self._set_timeout(self._limits.body)
        try:
            received = self._connection.recv_into(buffer)
        except BlockingIOError as error:
            raise RequestTimeout("The body of the request fell silent.") from error
        except OSError as error:
            raise ClientGone("The client hung up within a body.") from error
        if not received:
            raise ClientGone("The client closed the connection within a body.")
        return received

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout:
            # A whole microsecond at least: nought would mean for ever.
            micros = max(1, int(seconds * 1_000_000))
            value = struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._timeout = seconds


class ReceivedBody:
    """A body on its way. `on_start` is called before the first byte is waited for, where the client wants a `100`."""

    def __init__(self, receiver: Receiver, framing: Framing, on_start: Optional[Callable[[], None]]) -> None:
        self.size: Optional[int] = framing.size
        self._receiver = receiver
        self._framing = framing
        self._on_start = on_start

    @property
    def done(self) -> bool:
        return self._framing.done

    @property
    def left(self) -> float:
        """How many bytes are still to come; no number is larger where nobody knows."""
        return self._framing.left

    @property
    def awaits_continue(self) -> bool:
        """Whether the client may be waiting for a `100` that was not sent."""
        return self._on_start is not None

    def __iter__(self) -> Iterator[memoryview]:
        """The body's bytes. Each view is good until the next one is asked for.

        Raises ClientGone, RequestTimeout, or MalformedRequest where a chunk is.
        """
        on_start, self._on_start = self._on_start, None
        if on_start is not None and not self._receiver.buffer and not self.done:
            on_start()
        while self._receiver.buffer and not self.done:
            yield from self._decode_buffered()
        if not self.done:
            yield from self._decode_arriving()

    def _decode_buffered(self) -> Iterator[memoryview]:
        data = self._receiver.buffer
        pieces, used = self._framing.decode(memoryview(data))
        self._receiver.buffer = data[used:]
        yield from pieces

    def _decode_arriving(self) -> Iterator[memoryview]:
        # Of a body with a length not a byte too many is read: what follows is the next request's.
        buffer = memoryview(bytearray(int(min(_BODY_SIZE, self.left))))
        while not self.done:
            window = buffer[: int(min(_BODY_SIZE, self.left))]
            view = window[: self._receiver.receive_into(window)]
            pieces, used = self._framing.decode(view)
            self._receiver.buffer = bytes(view[used:])
            yield from pieces
