"""The adapter to `http.server`: what it asks of a request handler, and nothing else.

`socketserver` makes one for each connection; the connection itself is `connection.Connection`, which outlives the call
and has the app of its listener answer each request, whatever the method.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Protocol

from filestoraged.errors import Error
from filestoraged.web.connection import Connection
from filestoraged.web.loop_context import LoopContext
from filestoraged.web.sites import Site
from filestoraged.web.transport import Transport
from filestoraged.web.trusted_proxies import UNIX


class ConnectionServer(Protocol):
    """What a handler needs of its server."""

    context: LoopContext[Connection]
    refusal: Error | None
    make_transport: Callable[[socket.socket], Transport]

    def find_site(self, connection: socket.socket) -> Site: ...


class Handler(BaseHTTPRequestHandler):
    """Starts a connection."""

    # Instead of the base class's attributes: ten thousand connections may be open.
    __slots__ = ("client_address", "request", "server")

    server: ConnectionServer  # type: ignore[assignment]

    def setup(self) -> None:
        """Make no file objects, which the base class reads requests by."""

    def handle(self) -> None:
        site = self.server.find_site(self.request)
        peer = self.client_address[0] if self.client_address else UNIX
        transport = self.server.make_transport(self.request)
        connection = Connection(self.server.context, transport, peer, site=site)
        if self.server.refusal is None:
            connection.on_event()
        else:
            connection.on_refusal(self.server.refusal)

    def finish(self) -> None:
        """Leave the connection open: the loop continues it."""
