"""Admission: one limit for all connections, one for each client, and places of their own for operations.

Trusted proxies have connections without a limit. There, requests in flight count for the client that the proxy names.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Collection
from typing import Any

from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.eviction import Eviction
from filestoraged.web.trusted_proxies import TrustedProxies, parse_address

# Connections of each worker to listeners for operations: they are served when all other places are taken.
_RESERVED = 64

# Connections of each worker that wait for a place, or are refused because their clients have too many. Further ones
# are closed without an answer.
_WAITING = 128
_REFUSED = 64


class AdmissionResult(enum.Enum):
    """What is done with a new connection."""

    WELCOME = enum.auto()
    # It waits for a place, and gets 503 where none comes free.
    FULL = enum.auto()
    # Its client has too many: it gets 503.
    CLIENT_FULL = enum.auto()
    # Too many are refused already: it is closed without an answer.
    CLOSED = enum.auto()


class Admission:
    """Counts connections when they come and go. They come on the server's loop, and go on any thread."""

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
        """`reserved` are the listeners whose connections have places of their own; `apart` gets these connections."""
        self._connection_limit = connection_limit
        self._clients = clients
        self._proxies = proxies
        self._eviction = eviction
        self._listeners = frozenset(reserved)
        self._reserved = apart
        # Connections that have no place, because there is none, or because of their clients.
        self._waiting: set[socket.socket] = set()
        self._refused: set[socket.socket] = set()
        # What the clients of the others are counted by.
        self._keys: dict[socket.socket, int] = {}

    @property
    def limit(self) -> int:
        """Connections of all workers."""
        return self._connection_limit.limit

    @property
    def client_limit(self) -> int:
        """Connections of one client."""
        return self._clients.limit

    def enter(self, connection: socket.socket, address: str | None, listener: socket.socket) -> AdmissionResult:
        """`address` is the client's, None on a Unix socket. Call `leave` later, whatever the result."""
        if listener in self._listeners:
            self._reserved.add(connection)
            return AdmissionResult.WELCOME if len(self._reserved) <= _RESERVED else AdmissionResult.CLOSED
        key = 0 if address is None else self.enter_client(address)
        if key is None:
            self._refused.add(connection)
            return AdmissionResult.CLIENT_FULL if len(self._refused) <= _REFUSED else AdmissionResult.CLOSED
        if key:
            self._keys[connection] = key
        self._waiting.add(connection)
        self._connection_limit.begin_waiting()
        if self.take_place(connection):
            return AdmissionResult.WELCOME
        self._eviction.request()
        return AdmissionResult.FULL if len(self._waiting) <= _WAITING else AdmissionResult.CLOSED

    def take_place(self, connection: socket.socket) -> bool:
        """Give a connection a free place, or that of the one idle longest of all, where this worker has it.

        Returns whether it has one now.
        """
        excess = self._connection_limit.enter()
        if excess > 0 and not self._eviction.close_longest():
            self._connection_limit.leave()
            return False
        self._has_place(connection, excess)
        return True

    def take_any_place(self, connection: socket.socket) -> bool:
        """Do the same where no other worker has given a place in time: any idle connection of this worker will do."""
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
            # The next may come to another worker.
            self._eviction.publish_newcomer()

    def leave(self, connection: socket.socket) -> None:
        self.leave_client(self._keys.pop(connection, 0))
        for apart in (self._reserved, self._refused):
            if connection in apart:
                apart.remove(connection)
                return
        if connection in self._waiting:
            self._waiting.remove(connection)
            self._connection_limit.end_waiting()
        else:
            self._connection_limit.leave()

    def enter_client(self, address: str) -> int | None:
        """Count one more connection of a client, or a request that a proxy has sent for it.

        Returns what `leave_client` takes, 0 for a client without a limit: on this machine, or a trusted proxy. None
        where it has too many.
        """
        parsed = parse_address(address)
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
