"""Which connections are closed for the sake of others: idle ones for new ones, and slow readers for memory.

The connection of this worker that is idle longest is evicted first. It is found by a scan of all connections, sorted
once and used up one by one: requests cost nothing for it.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

from filestoraged.digest import Bytes
from filestoraged.web.poller import Poller, Watched
from filestoraged.web.receiver import DONT_WAIT

_PEEK = int(socket.MSG_PEEK) | DONT_WAIT

# Seconds until the next scan, for each connection: a scan takes a tenth of that. Where few connections are idle, those
# that want a place do not delay the others.
_PAUSE = 1e-5


class Evictable(Watched, Protocol):
    """A connection that may be evicted. The deadlines of idle ones are in the order in which they became idle."""

    @property
    def is_idle(self) -> bool: ...

    def evict(self) -> None: ...


_Evictable = TypeVar("_Evictable", bound=Evictable)


class Eviction(Generic[_Evictable]):
    """Used by the server's loop alone."""

    def __init__(self, poller: Poller[_Evictable], now: Callable[[], float]) -> None:
        self._poller = poller
        self._now = now
        # Connections with places of their own: to close one gives no place to others.
        self.reserved: set[socket.socket] = set()
        # Connections that were idle at the last scan and their deadlines then, in the order of these.
        self._candidates: deque[tuple[float, _Evictable]] = deque()
        self._next_scan = 0.0

    @property
    def has_idle(self) -> bool:
        """Whether there is a connection to evict."""
        return self._oldest() is not None

    def close_longest(self) -> bool:
        """Close the longest idle connection. Returns whether there was one."""
        oldest = self._oldest()
        if oldest is None:
            return False
        self._candidates.popleft()
        oldest.evict()
        return True

    def forget(self) -> None:
        """Forget the last scan, which keeps connections in memory that have been closed. Called at intervals."""
        self._candidates.clear()

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
        free = [each for each in connections if each.is_idle and each.transport.socket not in self.reserved]
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


class Reader(Protocol):
    """A connection whose client reads a response: `unread` is in memory, and was asked for at `since`."""

    since: float

    @property
    def unread(self) -> Bytes: ...


_Reader = TypeVar("_Reader", bound=Reader)


def excess_readers(readers: Sequence[_Reader], limit: int) -> list[_Reader]:
    """Those to cut off so that no more than `limit` bytes are unread. The first had the most time to read."""
    # Responses from a cache share their bytes.
    sharing = Counter(id(each.unread) for each in readers)
    excess = sum({id(each.unread): len(each.unread) for each in readers}.values()) - limit
    chosen = []
    # Those that share bytes last: only the end of all of them gains something.
    for each in sorted(readers, key=lambda each: (sharing[id(each.unread)] > 1, each.since)):
        if excess <= 0:
            break
        sharing[id(each.unread)] -= 1
        if not sharing[id(each.unread)]:
            excess -= len(each.unread)
        chosen.append(each)
    return chosen
