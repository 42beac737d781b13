"""Admission of connections: a limit for all, a limit per client, and reserved places for operations.

Connections of trusted proxies have no limit per client. Their requests in flight count for the client that
X-Forwarded-For names.
"""

from __future__ import annotations

import enum
import itertools
import socket
from collections.abc import Collection, Sequence
from typing import Any

from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.eviction import Eviction
from filestoraged.web.trusted_proxies import TrustedProxies, parse_ip_address

# Connections of each worker to admin listeners. They are served even if all other places are taken; further ones need
# one of these.
_MAX_RESERVED = 64

# Connections of each worker that wait for a place, and of those that got 503 and linger. The oldest gives way to a
# further one: it gets its 503 sooner, or is closed. At 1,000 refused connections a second, a client still has 0.1 s for
# reading. Each takes a descriptor.
_MAX_WAITING = 64
_MAX_REFUSED = 128


class AdmissionResult(enum.Enum):
    """The decision about a new connection."""

    ADMITTED = enum.auto()
    # It waits for a place, and gets 503 if none becomes free.
    WAITING = enum.auto()
    # Its client has too many connections: it gets 503.
    REFUSED = enum.auto()


class Admission:
    """Counts connections. The server's loop calls `enter` and the `take_` methods; any thread calls `leave`."""

    def __init__(
        self,
        connection_limit: ConnectionLimit,
        clients: ClientLimit,
        proxies: TrustedProxies,
        eviction: Eviction[Any],
        *,
        reserved: Collection[socket.socket],
        apart: set[socket.socket],
    ) -> None:
        """`reserved` are the listeners with reserved places; `apart` receives the connections to them."""
        self._connection_limit = connection_limit
        self._clients = clients
        self._proxies = proxies
        self._eviction = eviction
        self._listeners = frozenset(reserved)
        self._reserved = apart
        # Connections without a place: those that wait for one, and those that get or got 503, in their order.
        self._waiting: set[socket.socket] = set()
        self._refused: dict[socket.socket, None] = {}
        # The client limit's keys of the other connections.
        self._keys: dict[socket.socket, int] = {}

    @property
    def limit(self) -> int:
        """Maximum number of connections of all workers."""
        return self._connection_limit.limit

    @property
    def client_limit(self) -> int:
        """Maximum number of connections of one client."""
        return self._clients.limit

    def enter(self, connection: socket.socket, address: str | None, listener: socket.socket) -> AdmissionResult:
        """Decide about a connection. `address` is the client's, None on a Unix socket.

        Call `leave` when the connection ends, whatever the result.
        """
        if listener in self._listeners and len(self._reserved) < _MAX_RESERVED:
            self._reserved.add(connection)
            return AdmissionResult.ADMITTED
        key = 0 if address is None else self.enter_client(address)
        if key is None:
            self._refused[connection] = None
            return AdmissionResult.REFUSED
        if key:
            self._keys[connection] = key
        self._waiting.add(connection)
        self._connection_limit.begin_waiting()
        if self.take_place(connection):
            return AdmissionResult.ADMITTED
        self._eviction.request()
        return AdmissionResult.WAITING

    @property
    def has_too_many_waiting(self) -> bool:
        """Whether the connection that has waited longest gets its answer now."""
        return len(self._waiting) > _MAX_WAITING

    def refuse(self, connection: socket.socket) -> None:
        """A connection that waits gets 503: it waits for no place any more."""
        self._waiting.remove(connection)
        self._connection_limit.end_waiting()
        self._refused[connection] = None

    def excess_refused(self) -> Sequence[socket.socket]:
        """Refused connections that are to be closed: the oldest ones, which had the most time to read their answer."""
        excess = len(self._refused) - _MAX_REFUSED
        return list(itertools.islice(self._refused, excess)) if excess > 0 else ()

    def take_place(self, connection: socket.socket) -> bool:
        """Give a connection a free place, or that of the longest idle connection if this worker has it.

        Returns whether the connection has a place now.
        """
        excess = self._connection_limit.enter()
        if excess > 0 and not self._eviction.close_longest():
            self._connection_limit.leave()
            return False
        self._has_place(connection, excess)
        return True

    def take_any_place(self, connection: socket.socket) -> bool:
        """Like `take_place`, but evict any idle connection of this worker: no other worker has freed a place."""
        excess = self._connection_limit.enter()
        if excess > 0 and not self._eviction.close_own():
            self._connection_limit.leave()
            return False
        self._has_place(connection, excess)
        return True

    def _has_place(self, connection: socket.socket, excess: int) -> None:
        self._waiting.discard(connection)
        self._connection_limit.end_waiting()
        if excess > -self._connection_limit.margin:
            # The next connection may arrive at another worker.
            self._eviction.publish_newcomer()

    def leave(self, connection: socket.socket) -> None:
        self.leave_client(self._keys.pop(connection, 0))
        if connection in self._reserved:
            self._reserved.remove(connection)
        elif connection in self._refused:
            del self._refused[connection]
        elif connection in self._waiting:
            self._waiting.remove(connection)
            self._connection_limit.end_waiting()
        else:
            self._connection_limit.leave()

    def enter_client(self, address: str) -> int | None:
        """Count one more connection of a client, or a request that a proxy sends for it.

        Returns the key for `leave_client`: 0 for a client without a limit, on this machine or a trusted proxy; None for
        a client with too many.
        """
        parsed = parse_ip_address(address)
        if parsed is None or parsed.is_loopback or self._proxies.trust(address):
            return 0
        key = self._clients.key(parsed)
        excess = self._clients.enter(key)
        if excess is None:
            return 0
        if excess > 0:
            self._clients.leave(key)
            return None
        return key

    def leave_client(self, key: int) -> None:
        if key:
            self._clients.leave(key)
