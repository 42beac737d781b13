"""One configuration at work: where it listens, what it keeps things in, and what a worker of it does."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable

from filestoraged.daemon import descriptors
from filestoraged.daemon.endpoints import Endpoints
from filestoraged.daemon.logs import finish_log, flush_log, start_logging
from filestoraged.daemon.services import Services
from filestoraged.daemon.values import Config
from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.limits import Limits
from filestoraged.web.message import App
from filestoraged.web.metrics import Metrics
from filestoraged.web.server import Server
from filestoraged.web.trusted_proxies import TrustedProxies

log = logging.getLogger(__name__)

# Requests under way when the daemon is told to stop have this long, in seconds.
DRAIN = 30.0

# What was changed last is written within that time too, or within so many seconds where nothing is left of it. The
# master waits 5 s longer.
_STOP = 3.0

# Lines that standard error did not take are tried again after so many seconds.
_FLUSH = 1.0


def _await_term() -> None:
    """Wait for SIGTERM, and write the log meanwhile."""
    # Not by sigtimedwait: in CPython it returns a signal that never came when this process was stopped and continued.
    signal.setitimer(signal.ITIMER_REAL, _FLUSH, _FLUSH)
    while signal.sigwaitinfo([signal.SIGTERM, signal.SIGALRM]).si_signo != signal.SIGTERM:
        flush_log()
    signal.setitimer(signal.ITIMER_REAL, 0.0)


class Generation:
    """Made by the master before the fork. It is the crew of the workers."""

    def __init__(self, config: Config, places: Endpoints, meter: Metrics, prepared: set[str]) -> None:
        """`prepared` has the databases that were prepared before, and gets those that are now.

        Raises StartError where something cannot be used, and UsageError where it is not to be understood.
        """
        self.config = config
        self.count = config.workers
        self.places = places.find(config)
        self._all_places = places
        self._meter = meter
        self._engines = Services(config, meter, [place.mounts for place in self.places], prepared)
        self._room = _make_room(config)
        self._clients = _make_clients(config, self._room.limit)

    def work(self, number: int, slot: int, on_serving: Callable[[], None]) -> int:
        start_logging(self.config.log_level)
        self._all_places.forget_others(self.places)
        # The one that this one replaces may have left some.
        self._engines.sweep()
        self._room.take_slot(number)
        self._clients.take_slot(number)
        apps = self._build_apps()
        # The first beat: from now on the master expects one every half second, and waits longer for what is above.
        self._meter.take_slot(slot)
        server = Server(
            apps,
            threads=self.config.threads,
            limits=Limits(),
            connection_limit=self._room,
            metrics=self._meter,
            proxies=TrustedProxies(self.config.trusted_proxy),
            clients=self._clients,
            reserved=[place.listener for place in self.places if not place.mounts],
        )
        worker = Worker(server)
        worker.start()
        on_serving()
        _await_term()
        deadline = time.monotonic() + DRAIN
        drained = worker.drain(DRAIN)
        # Behind the last answer: what it has changed may still wait to be written.
        stopped = self._engines.stop(max(_STOP, deadline - time.monotonic()))
        finish_log()
        return 0 if drained and stopped else 1

    def close(self) -> None:
        """What the workers have of it they keep."""
        self._room.close()
        self._engines.close()

    def _build_apps(self) -> dict[socket.socket, App]:
        build = self._engines.build_app
        return {place.listener: build(place.mounts, operations=place.operations) for place in self.places}


class Worker:
    """Make it after the fork. `start`, then `drain`; both are called by the main thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="loop", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Accept nothing more, and finish what is under way. Returns whether that took at most `timeout` seconds."""
        drained = self._server.drain(timeout)
        self._thread.join()
        self._server.server_close()
        return drained


def _make_room(config: Config) -> ConnectionLimit:
    enough = descriptors.enough_for(descriptors.raise_limit()) * config.workers
    if enough < config.max_connections:
        log.info("descriptors are enough for %d connections, not for %d", enough, config.max_connections)
    return ConnectionLimit(min(enough, config.max_connections), config.workers)


def _make_clients(config: Config, connections: int) -> ClientLimit:
    limit = config.max_connections_per_client
    # Each worker may have all connections, and each of them a client of its own.
    return ClientLimit(max(1, connections // 4) if limit is None else limit, connections, config.workers)
