"""Eviction of idle connections for new ones: the connection idle longest in all workers is closed first.

Each worker publishes since when its longest idle connection is idle. A worker that needs a place, or is asked for one,
closes its own where that is the oldest of all, and else asks the worker that has the oldest. It finds its own by a scan
of all its connections, sorted once and used up one by one: requests cost nothing for it.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Container
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.poller import Poller, Watched
from filestoraged.web.receiver import DONT_WAIT

_PEEK = int(socket.MSG_PEEK) | DONT_WAIT

# Seconds until the next scan, for each connection: a scan takes a tenth of that. Where few connections are idle, those
# that want a place do not delay the others.
_PAUSE = 1e-5


class Evictable(Watched, Protocol):
    """A connection that may be evicted. An idle one has its deadline `idle` seconds after it became idle."""

    @property
    def is_idle(self) -> bool: ...

    def evict(self) -> None: ...


_Evictable = TypeVar("_Evictable", bound=Evictable)


class Eviction(Generic[_Evictable]):
    """Used by the server's loop alone. `idle` is how long connections may be idle, in seconds.

    `reserved` are the connections with places of their own: to close one gives no place to others.
    """

    def __init__(
        self,
        poller: Poller[_Evictable],
        limit: ConnectionLimit,
        now: Callable[[], float],
        *,
        idle: float,
        reserved: Container[socket.socket],
    ) -> None:
        self._poller = poller
        self._limit = limit
        self._now = now
        self._idle = idle
        self._reserved = reserved
        # Connections that were idle at the last scan and their deadlines then, in the order of these.
        self._candidates: deque[tuple[float, _Evictable]] = deque()
        self._next_scan = 0.0

    def close_longest(self) -> bool:
        """Close this worker's longest idle connection where no other has an older one. Returns whether it did."""
        return self.publish() is not None and self._limit.longest_idle() == self._limit.slot and self.close_own()

    def close_own(self) -> bool:
        """Close this worker's longest idle connection. Returns whether there was one."""
        oldest = self._oldest()
        if oldest is None:
            return False
        self._candidates.popleft()
        oldest.evict()
        return True

    def request(self) -> None:
        """Ask the worker that has the longest idle connection, as far as is known, to close it."""
        slot = self._limit.longest_idle()
        if slot is not None and slot != self._limit.slot:
            self._limit.request_eviction(slot)

    def answer_request(self) -> None:
        """Evict a connection for another worker, or pass the request on; wake workers with connections that wait.

        A worker that waits asks again, so there may be a free place by now: then no connection is closed.
        """
        if self._limit.waiting <= self._limit.limit - self._limit.count or self.close_longest():
            self._limit.wake_others()
        else:
            self.request()

    def publish(self) -> _Evictable | None:
        """Publish since when this worker's longest idle connection is idle. Returns it."""
        oldest = self._oldest()
        self._limit.publish_idle(None if oldest is None else oldest.transport.deadline - self._idle)
        return oldest

    def publish_newcomer(self) -> None:
        """Publish when a connection has come, which is idle from now on."""
        if self.publish() is None:
            self._limit.publish_idle(self._now())

    def prepare(self) -> None:
        """Publish idle connections if few places are free, else forget them. Called at intervals."""
        if self._limit.count > self._limit.limit - self._limit.margin:
            self.publish()
        else:
            self._candidates.clear()
            self._limit.publish_idle(None)

    def _oldest(self) -> _Evictable | None:
        while self._candidates or self._scan():
            deadline, connection = self._candidates[0]
            # One that has sent a request since has another deadline.
            if connection.transport.deadline == deadline and _is_idle(connection):
                return connection
            self._candidates.popleft()
        return None

    def _scan(self) -> bool:
        """Collect idle connections, unless the last scan is too recent. Returns whether there are any."""
        now = self._now()
        if now < self._next_scan:
            return False
        connections = self._poller.all()
        self._next_scan = now + _PAUSE * len(connections)
        free = [each for each in connections if each.is_idle and each.transport.socket not in self._reserved]
        idle = [(each.transport.deadline, each) for each in free]
        idle.sort(key=itemgetter(0))
        self._candidates.extend(idle)
        return bool(idle)


def _is_idle(connection: Evictable) -> bool:
    """Whether no input has come either. A connection that is not watched is being served, or closed."""
    if not connection.transport.watched or not connection.is_idle:
        return False
    try:
        return not connection.transport.socket.recv(1, _PEEK)
    except BlockingIOError:
        return True
    except OSError:
        # Reset; the loop gets an event for it.
        return True
