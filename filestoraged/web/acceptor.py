"""A worker's listening sockets, and whether it accepts connections from them or leaves them to other workers.

The kernel wakes one of the workers that watch a listener, and would wake the same one again and again. So a worker
that has many more connections than another stops watching, and wakes the others; it resumes when they have caught up.
A worker without a place, free or idle, does the same, until it has one. Connections that then still wait, from the
first check to the second, no worker has a place for: they are accepted and refused.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Collection, Sequence
from typing import Any

from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.poller import Poller

_CONNECT = select.EPOLLIN | select.EPOLLEXCLUSIVE

# Unsent bytes of a response that the kernel buffers. Without a bound, a client that reads nothing makes it buffer up to
# net.ipv4.tcp_wmem, 4 MiB; with 128 KiB, it wakes the sender in time for the next piece.
_MAX_UNSENT = 128 * 1024

# Connections that are accepted in one round from one listener.
_ACCEPTS_PER_ROUND = 16

# A connection without a place is refused at this check after it was left to the others: after half a second, in which
# each of them has had a check, and before the end of the next.
_REFUSING_CHECK = 2


class Acceptor:
    """Used by the server's loop alone."""

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        poller: Poller[Any],
        limit: ConnectionLimit,
        accept: Callable[[socket.socket], bool],
        has_place: Callable[[], bool],
        *,
        reserved: Collection[socket.socket] = (),
    ) -> None:
        """`accept` accepts a connection from a listener, and returns whether there was one.

        `has_place` tells whether this worker has a place for a connection. Those to `reserved` listeners are not left
        to others for want of one.
        """
        self._listeners: dict[int, socket.socket] = {listener.fileno(): listener for listener in listeners}
        self._poller = poller
        self._limit = limit
        self._accept = accept
        self._has_place = has_place
        self._reserved = {listener.fileno() for listener in reserved}
        # Those whose connections are not left to others, and whether any are.
        self._watched: set[int] = set()
        self.is_paused = True
        # Whether connections are left to others because this worker has no place, and for how many checks; then the
        # listeners whose connections are accepted, to be refused.
        self.is_full = False
        self._full_checks = 0
        self._refusing: set[int] = set()
        # Whether this worker accepts although it is ahead, because no other does.
        self._helps = False
        # With how many connections this worker lacked descriptors or memory for another; None while it lacks none.
        self._exhausted_at: int | None = None
        self.resume()
        poller.watch(limit.wake_descriptor, select.EPOLLIN)

    def on_event(self, descriptor: int) -> None:
        """Handle an event of a descriptor that is no connection's."""
        if descriptor == self._limit.wake_descriptor:
            self._limit.take_wakes()
            if not self.is_paused:
                self._watch_anew()
            return
        listener = self._listeners.get(descriptor)
        # None where the event is of a connection that another event of the same round has closed.
        if listener is None:
            return
        left = _ACCEPTS_PER_ROUND
        while left and self._accept(listener) and not self._has_enough():
            left -= 1
        if left:
            # Those that waited for a place have their answers.
            self._refusing.discard(descriptor)
        if self._has_enough():
            self.pause()
            self._limit.wake_others()
            for each in self._listeners.values():
                # The kernel may have woken this worker for it a moment ago, and wakes no other for the same connection.
                self._accept(each)

    def leave_to_others(self, listener: socket.socket) -> bool:
        """Leave the connections of a listener to workers that have a place. Returns False if none had one in time."""
        if listener.fileno() in self._reserved | self._refusing:
            return False
        self._watch(self._reserved & self._watched)
        if not self.is_full:
            self.is_full = True
            self._full_checks = 0
            self._limit.wake_others()
        return True

    def on_exhausted(self) -> None:
        """Accept nothing more until a connection of this worker ends, or until the next check.

        The listener stays readable: watched all the same, it would keep the loop busy.
        """
        self._exhausted_at = self._limit.own
        self.pause()

    def end_round(self) -> None:
        if self._exhausted_at is not None and self._limit.own < self._exhausted_at:
            self._exhausted_at = None
        if self.is_full:
            self.is_full = not self._has_place()
        if self.is_paused and self._exhausted_at is None and not self._limit.is_ahead and not self.is_full:
            self.resume()

    def check(self) -> None:
        """Accept, even if ahead, connections that no other worker accepts. Called at intervals."""
        self._exhausted_at = None
        waiting = self._waiting()
        self._helps = self.is_paused and bool(waiting)
        self.is_full = self.is_full and bool(waiting)
        self._full_checks += 1
        self._refusing = set()
        if self.is_full and self._full_checks >= _REFUSING_CHECK:
            self._full_checks = 0
            self._refusing = waiting
        if waiting:
            # Also where this worker is not paused: the kernel may have woken, for these connections, one that lacks
            # descriptors or a place.
            self._watch_anew()

    def _waiting(self) -> set[int]:
        """The listeners that have connections to accept."""
        poll = select.poll()
        for descriptor in self._listeners:
            poll.register(descriptor, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(0)}

    def pause(self) -> None:
        """Leave connections to other workers."""
        self._watch(set())

    def close(self) -> None:
        """Stop accepting. Other processes that have the listeners go on."""
        self.pause()
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def resume(self) -> None:
        self._watch(set(self._listeners))

    def _watch_anew(self) -> None:
        """The kernel then reports connections that wait already, whichever worker it has woken for them."""
        self.pause()
        self.resume()

    def _watch(self, wanted: set[int]) -> None:
        for descriptor in self._watched - wanted:
            self._poller.unwatch(descriptor)
        for descriptor in wanted - self._watched:
            self._poller.watch(descriptor, _CONNECT)
        self._watched = wanted
        self.is_paused = len(wanted) < len(self._listeners)

    def _has_enough(self) -> bool:
        return self._limit.is_ahead and not self._helps


def prepare_listener(listener: socket.socket, linger: float) -> None:
    """Let connections inherit their options, which saves a system call for each; those that wait already have not."""
    # Another worker may have accepted the connection that woke this one.
    listener.setblocking(False)
    set_options(listener, linger)


def set_options(socket_: socket.socket, linger: float) -> None:
    """Of a connection or a listener. `linger` is how long a thread waits for a client, in seconds."""
    micros = int(linger * 1_000_000)
    # The kernel keeps that time.
    value = struct.pack("@ll", micros // 1_000_000, micros % 1_000_000)
    socket_.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    socket_.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
    if socket_.family != socket.AF_UNIX:
        # A response in two segments would wait 40 ms for Nagle's algorithm.
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        socket_.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT)
