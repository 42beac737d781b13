"""A lingering close: the sending half is shut down, and input is discarded until the client closes.

Closing a socket with unread bytes resets the connection, and the client may then not be able to read the response.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from filestoraged.web.limits import Limits
from filestoraged.web.receiver import DONT_WAIT


class LingeringClose:
    """`deadline`, on the clock, is the next moment of too much silence, or the end of the whole."""

    __slots__ = ("_connection", "_end", "_left", "_now", "_silence", "deadline")

    def __init__(self, connection: socket.socket, limits: Limits, now: Callable[[], float]) -> None:
        """Raises OSError where the client is gone."""
        connection.shutdown(socket.SHUT_WR)
        began = now()
        self._connection = connection
        self._now = now
        self._silence = limits.farewell
        self._left = limits.farewell_bytes
        self._end = began + limits.farewell_total
        self.deadline = began + limits.farewell

    def discard(self, scratch: memoryview) -> bool:
        """Discard what has come. Returns whether more may come."""
        try:
            received = self._connection.recv_into(scratch, 0, DONT_WAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._left -= received
        self.deadline = min(self._now() + self._silence, self._end)
        return received > 0 and self._left > 0
