"""The transport of a connection: its socket, the halves that receive and send, and what the poller watches it for.

Where the client may still send, a lingering close ends it. It knows neither requests nor states.
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable

from filestoraged.web.limits import Limits
from filestoraged.web.receiver import DONT_WAIT, Receiver
from filestoraged.web.sender import Sender

# `Transport.awaits` is an epoll mask, or one of these.
THREAD = 0
LOOP = -1
RESULT = -2

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT


class Transport:
    """Owned with its connection, by the loop or the thread that takes the present step; `watched` is the poller's."""

    # Ten thousand of them may be idle.
    __slots__ = ("awaits", "deadline", "descriptor", "receiver", "sender", "socket", "watched")

    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket
        self.descriptor = socket.fileno()
        self.receiver = Receiver(socket)
        self.sender = self.make_sender()
        # What is waited for: an epoll mask, or one of the constants above; and until when, on the clock.
        self.awaits = READABLE
        self.deadline = math.inf
        # What epoll watches for.
        self.watched = 0

    def make_sender(self) -> Sender:
        return Sender(self.socket)

    def begin_thread(self, flags: int) -> None:
        """A thread takes the next steps. It waits for the client not at all, or with `flags` 0 as the socket says."""
        self.receiver.flags = flags
        self.sender.send_at_once(flags)

    def end_thread(self) -> None:
        self.receiver.flags = DONT_WAIT
        self.sender.hold()


class LingeringClose:
    """The sending half is shut down, and input is discarded until the client closes.

    Closing a socket with unread bytes resets the connection, and the client may then not be able to read the response.
    `deadline`, on the clock, is the next moment of too much silence, or the end of the whole.
    """

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
