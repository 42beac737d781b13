"""One listener's server: `http.server`'s, with connections handed to a bounded pool and parked in between.

The accepting thread never reads from a client: a new connection is parked at once, and gets a thread when it
talks. So silent clients, however many, take none.
"""

from __future__ import annotations

import errno
import functools
import logging
import socket
import time
from http.server import ThreadingHTTPServer
from typing import Any, Tuple

from filestoraged.web.encoder import Encoder
from filestoraged.web.handler import Handler
from filestoraged.web.limits import Limits
from filestoraged.web.message import App
from filestoraged.web.parking import Parking
from filestoraged.web.pool import Pool

log = logging.getLogger(__name__)

# Running out of these is no reason to stop, nor to spin: connections that end give them back.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# How long to let them end, in seconds.
_PAUSE = 0.1

# Seconds between two lines about it in the log.
_QUIET = 10.0


class Server(ThreadingHTTPServer):
    """Serves one bound and listening socket, by a pool and a parking that it may share with others."""

    def __init__(self, listener: socket.socket, app: App, pool: Pool, parking: Parking, limits: Limits) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # Whoever shares the socket may have taken the connection that woke us.
        listener.setblocking(False)
        self.app = app
        self.pool = pool
        self.parking = parking
        self.limits = limits
        self.encoder = Encoder()
        self.draining = False
        self._warned = -_QUIET

    def get_request(self) -> Tuple[socket.socket, Any]:
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._pause(error)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        begin = functools.partial(self.process_request_thread, request, client_address)
        self.parking.park(request, functools.partial(self.pool.submit, begin))

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a new connection until it falls silent. On a thread of the pool."""
        try:
            self.finish_request(request, client_address)
        except Exception:
            self.handle_error(request, client_address)
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("a connection of %s failed", client_address or "a Unix socket")

    def _pause(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._warned >= _QUIET:
            log.warning("cannot accept connections for now: %s", error.strerror)
            self._warned = now
        time.sleep(_PAUSE)
