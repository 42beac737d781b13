"""Connections that nobody serves: each costs a socket and a deadline, and no thread.

What one waits for, until when, and what happens then is its own business. Whoever has a connection parks it, as the
last thing done with it; from then on the one thread that polls has it, and it alone takes connections out.
"""

from __future__ import annotations

import contextlib
import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filestoraged.web.connection import Connection


class Poller:
    """An epoll and a table. A connection is in the table while it is registered with the epoll.

    Its `awaits` and `watched` are epoll's events: those that it waits for, and those that are watched, 0 for none.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._parked: dict[int, Connection] = {}
        # The methods themselves: the polling thread calls nothing more often.
        self.poll = self._epoll.poll
        self.find = self._parked.get

    def park(self, connection: Connection) -> None:
        """Watch a connection for what it awaits. From any thread, which has it no longer. Raises OSError."""
        events, watched = connection.awaits, connection.watched
        if events == watched:
            return
        connection.watched = events
        descriptor = connection.fileno()
        if watched:
            self._epoll.modify(descriptor, events)
        else:
            # First into the table: its next event may come before `register` is back.
            self._parked[descriptor] = connection
            try:
                self._epoll.register(descriptor, events)
            except OSError:
                del self._parked[descriptor]
                raise

    def take(self, connection: Connection) -> None:
        """Watch it no longer, because a thread is to have it or it is to be closed. By the polling thread."""
        if connection.watched:
            connection.watched = 0
            descriptor = connection.fileno()
            del self._parked[descriptor]
            self._epoll.unregister(descriptor)

    def forget(self, connection: Connection) -> None:
        """Make sure that a connection is not watched, where `park` or `take` has failed, before it is closed."""
        connection.watched = 0
        descriptor = connection.fileno()
        if self._parked.get(descriptor) is connection:
            del self._parked[descriptor]
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(descriptor)

    def overdue(self, now: float) -> list[Connection]:
        """Those whose deadline has passed. By the polling thread."""
        return [each for each in self.all() if each.deadline <= now]

    def all(self) -> list[Connection]:
        return list(self._parked.values())

    def watch(self, descriptor: int, events: int) -> None:
        """Watch what is no connection; `find` knows nothing of it."""
        self._epoll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)

    def close(self) -> None:
        self._epoll.close()
