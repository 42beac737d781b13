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

from filestoraged.errors import Overloaded
from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.eviction import Eviction
from filestoraged.web.trusted_proxies import TrustedProxies, parse_ip_address

# Connections of each worker to admin listeners. They are served even if all other places are taken; further ones need
# one of these.
_MAX_RESERVED = 64

# Connections of each worker that got 503 and linger. The oldest gives way to a further one, and is closed. At 1,000
# refused connections a second, a client still has 0.1 s for reading. Each takes a descriptor.
_MAX_REFUSED = 128


class Place(enum.Enum):
    """What place the next connection gets."""

    # One of those for operations.
    RESERVED = enum.auto()
    FREE = enum.auto()
    # That of the connection that is idle longest.
    IDLE = enum.auto()
    # It gets 503.
    NONE = enum.auto()


class Admission:
    """Counts connections. The server's loop calls all methods but `leave` and those of clients, which any thread calls.

    A place is counted before its connection is accepted, so that workers that accept at the same time do not refuse
    connections for which another worker has a place.
    """

    def __init__(
        self,
        connection_limit: ConnectionLimit,
        clients: ClientLimit | None,
        proxies: TrustedProxies | None,
        eviction: Eviction[Any],
        *,
        reserved: Collection[socket.socket],
    ) -> None:
        """`reserved` are the listeners with reserved places. Without `clients`, one client may have all others."""
        self._connection_limit = connection_limit
        self._clients = clients or ClientLimit(connection_limit.limit, connection_limit.limit)
        self.proxies = proxies or TrustedProxies()
        self.eviction = eviction
        self._listeners = frozenset(reserved)
        # Connections with reserved places.
        self._reserved = eviction.reserved
        # Connections that get or got 503, in their order: they have no place.
        self.refused: dict[socket.socket, None] = {}
        # The client limit's keys of the other connections.
        self._keys: dict[socket.socket, int] = {}

    @property
    def client_limit(self) -> int:
        """Maximum number of connections of one client."""
        return self._clients.limit

    @property
    def has_place(self) -> bool:
        """Whether a connection to any listener would get a place of this worker."""
        return self._connection_limit.count < self._connection_limit.limit or self.eviction.has_idle

    def reserve(self, listener: socket.socket) -> Place:
        """Count a place for the next connection of a listener. `enter` follows, or `give_back` where there is none."""
        if listener in self._listeners and len(self._reserved) < _MAX_RESERVED:
            return Place.RESERVED
        if self._connection_limit.enter() <= 0:
            return Place.FREE
        if self.eviction.has_idle:
            return Place.IDLE
        self._connection_limit.leave()
        return Place.NONE

    def give_back(self, place: Place) -> None:
        if place in (Place.FREE, Place.IDLE):
            self._connection_limit.leave()

    def enter(self, connection: socket.socket, address: str | None, place: Place) -> Overloaded | None:
        """Admit a connection to its place, or return its refusal. `address` is the client's, None on a Unix socket.

        Call `leave` when the connection ends, whatever the result.
        """
        if place is Place.RESERVED:
            self._reserved.add(connection)
            return None
        key = 0 if address is None else self.enter_client(address)
        if key is None:
            refusal = self.refusal_of_client()
        elif place is Place.NONE or (place is Place.IDLE and not self.eviction.close_longest()):
            self.leave_client(key)
            limit = self._connection_limit.limit
            refusal = Overloaded(f"All {limit} connections are in use, and none of them is idle.")
        else:
            if key:
                self._keys[connection] = key
            return None
        self.give_back(place)
        self.refused[connection] = None
        return refusal

    def refusal_of_client(self) -> Overloaded:
        """The answer to a client that has too many connections, or requests in flight behind a proxy."""
        return Overloaded(f"This client has {self.client_limit} connections already.")

    def excess_refused(self) -> Sequence[socket.socket]:
        """Refused connections that are to be closed: the oldest ones, which had the most time to read their answer."""
        excess = len(self.refused) - _MAX_REFUSED
        return list(itertools.islice(self.refused, excess)) if excess > 0 else ()

    def leave(self, connection: socket.socket) -> None:
        self.leave_client(self._keys.pop(connection, 0))
        if connection in self._reserved:
            self._reserved.remove(connection)
        elif connection in self.refused:
            del self.refused[connection]
        else:
            self._connection_limit.leave()

    def enter_client(self, address: str) -> int | None:
        """Count one more connection of a client, or a request that a proxy sends for it.

        Returns the key for `leave_client`: 0 for a client without a limit, on this machine or a trusted proxy; None for
        a client with too many.
        """
        parsed = parse_ip_address(address)
        if parsed is None or parsed.is_loopback or self.proxies.trust(address):
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
