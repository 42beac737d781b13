"""A worker's listening sockets, and whose turn it is to take a connection from them.

The kernel wakes one of the workers that watch a listener, and would wake the same one again and again. So one that
has more connections than another stops watching, and tells the others; it comes back when they have caught up.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.poller import Poller

_CONNECT = select.EPOLLIN | select.EPOLLEXCLUSIVE

# Bytes that the kernel takes of an answer beyond what the client has room for. Without a bound, a reader that takes
# nothing has it hold up to net.ipv4.tcp_wmem, 4 MiB; with 128 KiB, it wakes the sender in time for the next piece.
_UNSENT = 128 * 1024

# Connections that are accepted in one round from one listener.
_ACCEPTED = 16


class Acceptor:
    """`accept` takes a connection from a listener, and returns whether there was one. By the server's loop alone."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        poller: Poller[Any],
        limit: ConnectionLimit,
        accept: Callable[[socket.socket], bool],
        give_way: Callable[[], object],
    ) -> None:
        """`give_way` is called when another worker asks for the place of an idle connection."""
        self._listeners: dict[int, socket.socket] = {listener.fileno(): listener for listener in listeners}
        self._poller = poller
        self._limit = limit
        self._accept = accept
        self._give_way = give_way
        # Whether connections are left waiting.
        self._stands_back = True
        # Whether nobody else has taken those that were.
        self._helps = False
        self.step_forward()
        poller.watch(limit.bell, select.EPOLLIN)

    def on_event(self, descriptor: int) -> None:
        """Do what an event asks for that is no connection's."""
        if descriptor == self._limit.bell:
            for _ in range(self._limit.hear()):
                self._give_way()
            return
        listener = self._listeners.get(descriptor)
        # None where an event came for a connection that another event of the same round has closed.
        if listener is None:
            return
        left = _ACCEPTED
        while left and self._accept(listener) and not self._has_enough():
            left -= 1
        if self._has_enough():
            self.stand_back()
            self._limit.ring()
            for each in self._listeners.values():
                # It may have woken this worker a moment ago, and wakes nobody else for the same connection.
                self._accept(each)

    def end_round(self) -> None:
        if self._stands_back and not self._limit.ahead:
            self.step_forward()

    def look_around(self) -> None:
        """Every now and then, see whether those who wait were left alone: then help, whoever's turn it is."""
        self._helps = self._stands_back and self._has_waiting()
        if self._helps:
            self.step_forward()

    def _has_waiting(self) -> bool:
        poll = select.poll()
        for descriptor in self._listeners:
            poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))

    def stand_back(self) -> None:
        """Leave connections waiting, for others or for descriptors that come free."""
        if not self._stands_back:
            self._stands_back = True
            for descriptor in self._listeners:
                self._poller.unwatch(descriptor)

    def close(self) -> None:
        """Leave those who come to the other processes that listen there; where there is none, nobody does any more."""
        self.stand_back()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def step_forward(self) -> None:
        if self._stands_back:
            self._stands_back = False
            for descriptor in self._listeners:
                self._poller.watch(descriptor, _CONNECT)

    def _has_enough(self) -> bool:
        return self._limit.ahead and not self._helps


def prepare(listener: socket.socket, linger: float) -> None:
    """Set what connections inherit from a listener, for a system call less each."""
    # Another worker may have taken the connection that woke this one.
    listener.setblocking(False)
    set_timeouts(listener, linger)
    if listener.family != socket.AF_UNIX:
        # An answer in two segments would wait 40 ms for Nagle's algorithm.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


def set_timeouts(connection: socket.socket, linger: float) -> None:
    """Have the kernel keep the time that a thread waits for a client, in seconds."""
    micros = int(linger * 1_000_000)
    value = struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
