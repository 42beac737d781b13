"""The app of a connection, chosen by its listener and by whether its local address is a loopback address."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

from filestoraged.web.message import App
from filestoraged.web.request_cache import RequestCache


class Site(NamedTuple):
    """An app, and the cache of requests to it."""

    app: App
    request_cache: RequestCache


class Sites:
    """The sites of all listeners. The loop calls `find` once for each connection."""

    def __init__(self, apps: Mapping[socket.socket, App]) -> None:
        # Listeners with one app share one cache.
        self._caches: dict[App, RequestCache] = {}
        # By listener: the site of all its connections; and, if it listens on all addresses, the site for loopback
        # addresses and the site for other addresses.
        self._fixed: dict[socket.socket, Site] = {}
        self._mixed: dict[socket.socket, tuple[Site, Site]] = {}
        for listener, app in apps.items():
            on_loopback, elsewhere = self._site(app.on_loopback), self._site(app)
            if app.on_loopback is not app and _listens_everywhere(listener):
                self._mixed[listener] = on_loopback, elsewhere
            else:
                self._fixed[listener] = on_loopback if arrives_on_loopback(listener) else elsewhere

    def find(self, listener: socket.socket, connection: socket.socket) -> Site:
        """Return the site of a connection that `listener` has accepted."""
        site = self._fixed.get(listener)
        if site is not None:
            return site
        on_loopback, elsewhere = self._mixed[listener]
        return on_loopback if arrives_on_loopback(connection) else elsewhere

    def _site(self, app: App) -> Site:
        return Site(app, self._caches.setdefault(app, RequestCache()))


def arrives_on_loopback(connection: socket.socket) -> bool:
    """Whether the local address is a loopback address, IPv4-mapped IPv6 included."""
    host = _local_host(connection)
    return host is not None and (host.startswith(("127.", "::ffff:127.")) or host == "::1")


def _listens_everywhere(listener: socket.socket) -> bool:
    return _local_host(listener) in ("0.0.0.0", "::", "::ffff:0.0.0.0")


def _local_host(bound: socket.socket) -> str | None:
    """The local address as the kernel writes it; None for a Unix socket."""
    if bound.family == socket.AF_UNIX:
        return None
    host: str = bound.getsockname()[0]
    return host
