"""The receiving half of a connection: heads, and the bytes of bodies. Nothing here blocks longer than its caller may.

One thread at a time has a receiver.
"""

from __future__ import annotations

import errno
import socket
from typing import NoReturn

from filestoraged.errors import ClientGone, MalformedRequest
from filestoraged.wire.head import find_head_end, skip_empty_lines

# Plain numbers: the enumeration's members are slow to combine.
DONT_WAIT = int(socket.MSG_DONTWAIT)

_WAIT_ALL = int(socket.MSG_WAITALL)

# What a connected socket reports of its peer, or of the network between the two: of TCP and Unix sockets themselves,
# and what the kernel makes of ICMP messages if nothing is acknowledged any more. All others are the server's.
_PEER_ERRORS = frozenset(
    (
        *(errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN),
        *(errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.ENETRESET, errno.ENONET),
        *(errno.ECONNREFUSED, errno.ENOPROTOOPT, errno.EPROTO, errno.EOPNOTSUPP, errno.EMSGSIZE, errno.EACCES),
    )
)

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
            raise_client_gone(error)
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

    def receive_some(self, size: int) -> bytes:
        """Return what has come of the next `size` bytes, empty if nothing has. Raises ClientGone."""
        return self._receive(size, self.flags)

    def receive_all(self, size: int) -> bytes:
        """Return the next `size` bytes, or fewer if the rest does not come in time. Raises ClientGone."""
        return self._receive(size, self.flags | _WAIT_ALL)

    def _receive(self, size: int, flags: int) -> bytes:
        # Not into a buffer: bytes need not be copied for a thread that hashes them later, nor filled with zeros before.
        try:
            data = self._connection.recv(size, flags)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise_client_gone(error)
        if not data:
            raise ClientGone("The client closed the connection within a body.")
        return data


def raise_client_gone(error: OSError) -> NoReturn:
    """Raise ClientGone for what a socket reports of its peer. Any other error is raised as it is."""
    if error.errno in _PEER_ERRORS:
        raise ClientGone("The client hung up.") from error
    raise error
