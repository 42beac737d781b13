"""One process's share of the serving: a server for each listener, one pool and one parking for all of them."""

from __future__ import annotations

import functools
import socket
import threading
import time
from typing import List, Sequence

from filestoraged.web.limits import Limits
from filestoraged.web.message import App
from filestoraged.web.parking import Parking
from filestoraged.web.pool import Pool
from filestoraged.web.server import Server

# How long those who were answered while they sent may go on reading, when all else is done, in seconds.
_FAREWELL = 1.0


class Worker:
    """Make it after the fork. `start`, then `drain`; both are called by the main thread."""

    def __init__(self, listeners: Sequence[socket.socket], app: App, *, threads: int, limits: Limits) -> None:
        self._pool = Pool(threads)
        self._parking = Parking(limits)
        self._servers = [Server(listener, app, self._pool, self._parking, limits) for listener in listeners]
        self._limits = limits
        self._threads: List[threading.Thread] = []

    def start(self) -> None:
        """Accept connections from now on."""
        self._parking.start()
        for server in self._servers:
            accept = functools.partial(server.serve_forever, self._limits.notice)
            thread = threading.Thread(target=accept, name="accept", daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self, timeout: float) -> bool:
        """Accept nothing more, and finish what is under way. Returns whether that took at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for server in self._servers:
            server.draining = True
            server.shutdown()
        for thread in self._threads:
            thread.join()
        self._parking.drain()
        drained = self._pool.join(max(0.0, deadline - time.monotonic()))
        self._parking.stop(_FAREWELL if drained else 0)
        return drained
