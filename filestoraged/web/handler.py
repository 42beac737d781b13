"""The adapter to `http.server`: what it asks of a request handler, and nothing else.

`socketserver` makes one for each connection; the connection itself is `connection.Connection`, which outlives the call
and has its handler call `do_GET` and the like for each request.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Protocol

from filestoraged.errors import Error
from filestoraged.web.connection import Connection
from filestoraged.web.loop_context import LoopContext
from filestoraged.web.request import Request
from filestoraged.web.response import Answer
from filestoraged.web.sites import App, Site
from filestoraged.web.transport import Transport
from filestoraged.web.trusted_proxies import UNIX


class ConnectionServer(Protocol):
    """What a handler needs of its server."""

    context: LoopContext[Connection]
    refusal: Error | None
    make_transport: Callable[[socket.socket], Transport]

    def find_site(self, connection: socket.socket) -> Site: ...


class Handler(BaseHTTPRequestHandler):
    """Hands requests to the router of the listener's app, which answers 405 for a method that a path does not have."""

    # Instead of the base class's attributes: ten thousand connections may be open.
    __slots__ = ("app", "client_address", "request", "server")

    app: App
    server: ConnectionServer  # type: ignore[assignment]

    def setup(self) -> None:
        """Make no file objects, which the base class reads requests by."""

    def handle(self) -> None:
        site = self.server.find_site(self.request)
        self.app = site.app
        peer = self.client_address[0] if self.client_address else UNIX
        transport = self.server.make_transport(self.request)
        connection = Connection(self.server.context, transport, peer, dispatcher=self, site=site)
        if self.server.refusal is None:
            connection.on_event()
        else:
            connection.on_refusal(self.server.refusal)

    def finish(self) -> None:
        """Leave the connection open: the loop continues it."""

    def answer(self, request: Request) -> Answer:
        """Call the method of `http.server` for the request's. Any thread may call it, one at a time."""
        return _METHODS.get(request.method, Handler.do_GET)(self, request)

    def do_GET(self, request: Request) -> Answer:
        return self.app.answer(request)

    # The router knows which methods a path has. TRACE and unknown methods get its 405, too.
    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET


_METHODS = {
    "GET": Handler.do_GET,
    "HEAD": Handler.do_HEAD,
    "POST": Handler.do_POST,
    "PUT": Handler.do_PUT,
    "PATCH": Handler.do_PATCH,
    "DELETE": Handler.do_DELETE,
    "OPTIONS": Handler.do_OPTIONS,
}
