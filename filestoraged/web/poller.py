"""epoll, and the table of what it watches. What waits here costs a socket and a deadline, and no thread.

What a connection waits for, until when, and what happens then is its own business. Its last step registers it; from
then on the polling thread owns it, and only that thread takes connections out.
"""

from __future__ import annotations

import contextlib
import select
from typing import Generic, Protocol, TypeVar

from filestoraged.web.transport import Transport


class Watched(Protocol):
    """What waits by its transport, whose `awaits` and `watched` are epoll masks: wanted, and registered (0: none)."""

    transport: Transport


class Epoll(Protocol):
    """What is used of `select.epoll`."""

    def register(self, fd: int, eventmask: int, /) -> None: ...

    def modify(self, fd: int, eventmask: int, /) -> None: ...

    def unregister(self, fd: int, /) -> None: ...

    def poll(self, timeout: float, maxevents: int, /) -> list[tuple[int, int]]: ...

    def close(self) -> None: ...


_Watched = TypeVar("_Watched", bound=Watched)


class Poller(Generic[_Watched]):
    """A connection is in the table while it is registered with epoll."""

    def __init__(self, epoll: Epoll | None = None) -> None:
        self._epoll = epoll or select.epoll()
        self._table: dict[int, _Watched] = {}
        # The methods themselves: the polling thread calls nothing more often.
        self.poll = self._epoll.poll
        self.find = self._table.get

    def register(self, connection: _Watched) -> None:
        """Watch for what the connection awaits. Any thread may call it, and no longer owns the connection.

        Raises OSError.
        """
        transport = connection.transport
        events, watched = transport.awaits, transport.watched
        if events == watched:
            return
        transport.watched = events
        if watched:
            self._epoll.modify(transport.descriptor, events)
            return
        # First into the table: its next event may come before `register` returns.
        self._table[transport.descriptor] = connection
        try:
            self._epoll.register(transport.descriptor, events)
        except OSError:
            self._table.pop(transport.descriptor, None)
            raise

    def unregister(self, connection: _Watched) -> None:
        """Stop watching: a thread takes the connection, or it is closed. Called by the polling thread."""
        transport = connection.transport
        if transport.watched:
            transport.watched = 0
            del self._table[transport.descriptor]
            self._epoll.unregister(transport.descriptor)

    def discard(self, connection: _Watched) -> None:
        """Stop watching where `register` or `unregister` has failed, before the connection is closed."""
        transport = connection.transport
        transport.watched = 0
        if self._table.get(transport.descriptor) is connection:
            del self._table[transport.descriptor]
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(transport.descriptor)

    def overdue(self, now: float) -> list[_Watched]:
        """The connections whose deadline has passed. Called by the polling thread."""
        return [each for each in self.all() if each.transport.deadline <= now]

    def all(self) -> list[_Watched]:
        return list(self._table.values())

    def watch(self, descriptor: int, events: int) -> None:
        """Watch a descriptor that is no connection; `find` does not return it."""
        self._epoll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)

    def close(self) -> None:
        self._epoll.close()
