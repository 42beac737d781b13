"""Connections that nobody serves: silent ones, which cost a socket and a deadline, and those being seen off.

One thread watches them all. A parked connection that talks goes back to the pool; one that is silent past its
deadline is closed. One that is seen off has got an answer that it may not have read yet: it is half-closed
and read on, within bounds of time and bytes, because closing a socket with unread bytes resets it and takes
the answer along.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from typing import Callable, Dict, Union

from filestoraged.web.limits import Limits

log = logging.getLogger(__name__)

_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class _Parked:
    """A silent connection, and what to do when it talks."""

    def __init__(self, connection: socket.socket, resume: Callable[[], None], deadline: float) -> None:
        self.connection = connection
        self.resume = resume
        self.deadline = deadline


class _SeenOff:
    """A connection read on without anybody reading it."""

    def __init__(self, connection: socket.socket, limits: Limits, now: float) -> None:
        self.connection = connection
        self.deadline = now + limits.farewell
        self._limits = limits
        self._last = now + limits.farewell_total
        self._left = limits.farewell_bytes

    def read_on(self, buffer: bytearray, now: float) -> bool:
        """Drop what has come. Returns whether to go on."""
        try:
            received = self.connection.recv_into(buffer, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._left -= received
        self.deadline = min(now + self._limits.farewell, self._last)
        return received > 0 and self._left > 0


class Parking:
    """Watches connections on one thread. `park` and `see_off` are called from any; the lock guards the tables.

    A connection is in the tables exactly while it is registered with the epoll.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        # In the order of their deadlines, since all are parked for the same time.
        self._parked: Dict[int, _Parked] = {}
        self._seen_off: Dict[int, _SeenOff] = {}
        self._epoll = select.epoll()
        self._draining = False
        self._end = math.inf
        self._buffer = bytearray(256 * 1024)
        self._thread = threading.Thread(target=self._run, name="parking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def park(self, connection: socket.socket, resume: Callable[[], None]) -> None:
        """Call `resume` on the parking's thread when the connection talks or ends; close it when it does not."""
        with self._lock:
            if self._draining:
                connection.close()
                return
            descriptor = connection.fileno()
            self._parked[descriptor] = _Parked(connection, resume, self._clock() + self._limits.idle)
            self._epoll.register(descriptor, _EVENTS)

    def see_off(self, connection: socket.socket) -> None:
        """Half-close a connection and read it on for a while."""
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        with self._lock:
            descriptor = connection.fileno()
            self._seen_off[descriptor] = _SeenOff(connection, self._limits, self._clock())
            self._epoll.register(descriptor, _EVENTS)

    def drain(self) -> None:
        """Close what is parked, now and from now on."""
        with self._lock:
            self._draining = True
            for descriptor in list(self._parked):
                self._forget(self._parked, descriptor)

    def stop(self, grace: float) -> None:
        """End the thread and close all; those being seen off have `grace` more seconds."""
        self._end = self._clock() + grace
        self._thread.join()
        self.drain()
        with self._lock:
            for descriptor in list(self._seen_off):
                self._forget(self._seen_off, descriptor)
        self._epoll.close()

    def _run(self) -> None:
        while self._clock() < self._end and (self._seen_off or self._end == math.inf):
            try:
                for descriptor, _ in self._epoll.poll(self._limits.notice):
                    self._on_event(descriptor)
                self._expire()
            except Exception:
                log.exception("watching idle connections failed")

    def _on_event(self, descriptor: int) -> None:
        with self._lock:
            parked = self._parked.pop(descriptor, None)
            seen_off = self._seen_off.get(descriptor)
            if parked is not None:
                self._epoll.unregister(descriptor)
        if parked is not None:
            parked.resume()
        elif seen_off is not None:
            self._read_on(descriptor, seen_off)

    def _read_on(self, descriptor: int, seen_off: _SeenOff) -> None:
        # Outside the lock: nobody else takes one out of that table while this thread runs.
        goes_on = seen_off.read_on(self._buffer, self._clock())
        with self._lock:
            if goes_on:
                self._epoll.modify(descriptor, _EVENTS)
            else:
                self._forget(self._seen_off, descriptor)

    def _expire(self) -> None:
        with self._lock:
            now = self._clock()
            for descriptor, parked in list(self._parked.items()):
                if parked.deadline > now:
                    break
                self._forget(self._parked, descriptor)
            for descriptor, seen_off in list(self._seen_off.items()):
                if seen_off.deadline <= now:
                    self._forget(self._seen_off, descriptor)

    def _forget(self, table: Union[Dict[int, _Parked], Dict[int, _SeenOff]], descriptor: int) -> None:
        # Closing takes it out of the epoll too.
        table.pop(descriptor).connection.close()
