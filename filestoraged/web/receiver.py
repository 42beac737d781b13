"""The receiving half of a connection: heads, and the bytes of bodies. Nothing here blocks longer than its caller may.

One thread at a time has a receiver.
"""

from __future__ import annotations

import socket

from filestoraged.errors import ClientGone, MalformedRequest
from filestoraged.wire.head import find_head_end, skip_empty_lines

# A plain number: the enumeration's members are slow to combine.
DONT_WAIT = int(socket.MSG_DONTWAIT)

# A head with the small body behind it comes by one call.
_RECEIVE_SIZE = 64 * 1024

# Empty lines that a client may send before a request: old clients send one behind a body (RFC 9112, section 2.2). As
# many as a head may have fields.
_MAX_EMPTY_LINES = 100


class Receiver:
    """The receiving half of a connection. `buffer` has what came and was not used yet.

    `flags` says how long a call may wait: not at all by MSG_DONTWAIT, else as long as the socket's SO_RCVTIMEO. The
    kernel keeps that time: Python's own timeouts cost a `poll` before every `recv`.
    """

    __slots__ = ("_connection", "_seen", "buffer", "flags", "skipped")

    def __init__(self, connection: socket.socket) -> None:
        self.buffer = b""
        self.flags = DONT_WAIT
        self._connection = connection
        # How much of the buffer was searched for the end of a head already.
        self._seen = 0
        # Bytes of empty lines that came since the last head.
        self.skipped = 0

    def receive(self) -> bool:
        """Add what has come to the buffer. Returns whether that is anything. Raises ClientGone."""
        try:
            data = self._connection.recv(_RECEIVE_SIZE, self.flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ClientGone("The client hung up.") from error
        if not data:
            raise ClientGone("The client closed the connection.")
        self.buffer = self.buffer + data if self.buffer else data
        return True

    @property
    def is_broken(self) -> bool:
        """Whether the connection was reset. The kernel reports it once."""
        return self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def take_head(self) -> bytes | None:
        """Take a head off the buffer, or return None where it is not whole.

        Raises what `find_head_end` says of it, and MalformedRequest for too many empty lines before it.
        """
        data = skip_empty_lines(self.buffer)
        if len(data) < len(self.buffer):
            self.skipped += len(self.buffer) - len(data)
            if self.skipped > 2 * _MAX_EMPTY_LINES:
                raise MalformedRequest(f"More than {_MAX_EMPTY_LINES} empty lines came before a request.")
        end = find_head_end(data, self._seen if data is self.buffer else 0)
        if end < 0:
            self.buffer = data
            self._seen = len(data)
            return None
        self.buffer = data[end:]
        self._seen = self.skipped = 0
        return data[:end]

    def receive_into(self, buffer: memoryview) -> int:
        """Fill some of `buffer` with what comes next. Returns how much, 0 where nothing has. Raises ClientGone."""
        try:
            received = self._connection.recv_into(buffer, 0, self.flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone("The client hung up within a body.") from error
        if not received:
            raise ClientGone("The client closed the connection within a body.")
        return received
