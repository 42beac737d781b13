"""The app of a connection, chosen by its listener and by whether its local address is a loopback address.

`App` is the one seam between this floor and the pages above it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from filestoraged.errors import Error
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.request_cache import RequestCache
from filestoraged.web.response import Answer, Response


class App(Protocol):
    """What answers the requests of a listener."""

    @property
    def on_loopback(self) -> App:
        """The app for connections that arrive on a loopback address, perhaps itself."""

    def route(self, request: Request) -> RunsOn:
        """Find the request's page. Called first, and by the loop."""

    def answer_early(self, request: Request) -> Response | None:
        """Answer on the loop a request that is refused, or answered from memory, although its page runs on a thread."""

    def answer(self, request: Request) -> Answer:
        """Raises nothing but ClientGone."""

    def complete(self, request: Request, response: Response) -> Response:
        """Return the response of a page that was a coroutine, with the fields that every response has."""

    def refuse(self, request: Request, error: Exception) -> Response:
        """Return the response for an error that such a page has raised, or was interrupted by."""

    def refuse_body(self, request: Request, fault: Error) -> Response:
        """Return the response to a request whose body cannot be received, because of what its head says of it."""


class Site(NamedTuple):
    """An app, and the cache of requests to it."""

    app: App
    request_cache: RequestCache


class Sites:
    """The sites of all listeners. The loop calls `site_of` once for each connection."""

    def __init__(self, apps: Mapping[socket.socket, App], cache_size: int) -> None:
        """`cache_size` is the memory for the requests of all apps, in bytes."""
        apps_of = {listener: _apps_of(listener, app) for listener, app in apps.items()}
        # Listeners with one app share one cache.
        used = {app for pair in apps_of.values() for app in pair}
        sites = {app: Site(app, RequestCache(cache_size // len(used))) for app in used}
        # By listener: for connections that arrive on a loopback address, and for others.
        self._sites = {listener: (sites[local], sites[app]) for listener, (local, app) in apps_of.items()}

    def site_of(self, listener: socket.socket, connection: socket.socket) -> Site:
        """Return the site of a connection that `listener` has accepted."""
        on_loopback, elsewhere = self._sites[listener]
        # Most listeners have one site: to ask for the local address takes a system call.
        is_local = on_loopback is not elsewhere and arrives_on_loopback(connection)
        return on_loopback if is_local else elsewhere


def _apps_of(listener: socket.socket, app: App) -> tuple[App, App]:
    """The apps for connections that arrive on a loopback address, and for others; they differ on all addresses."""
    if _local_host(listener) in ("0.0.0.0", "::", "::ffff:0.0.0.0"):
        return app.on_loopback, app
    only = app.on_loopback if arrives_on_loopback(listener) else app
    return only, only


def arrives_on_loopback(connection: socket.socket) -> bool:
    """Whether the local address is a loopback address, IPv4-mapped IPv6 included."""
    host = _local_host(connection)
    return host is not None and (host.startswith(("127.", "::ffff:127.")) or host == "::1")


def _local_host(bound: socket.socket) -> str | None:
    """The local address as the kernel writes it; None for a Unix socket."""
    if bound.family == socket.AF_UNIX:
        return None
    host: str = bound.getsockname()[0]
    return host
