"""The transport of a connection: its socket, the halves that receive and send, and what the poller watches it for.

It knows neither requests nor states.
"""

from __future__ import annotations

import math
import select
import socket

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
