"""What the worker processes of one configuration share, and what each of them runs: a server, until it drains."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Sequence

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.daemon import descriptors
from filestoraged.daemon.config import Config, cache_shares
from filestoraged.daemon.endpoints import Endpoint, Endpoints
from filestoraged.daemon.interfaces import INTERFACES
from filestoraged.daemon.logs import finish_log, flush_log, start_logging
from filestoraged.daemon.processes import StatusPipe
from filestoraged.daemon.services import Services
from filestoraged.store.path_identity import PathIdentities
from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.limits import Limits
from filestoraged.web.metrics import Metrics
from filestoraged.web.server import Server
from filestoraged.web.sites import App
from filestoraged.web.trusted_proxies import TrustedProxies

log = logging.getLogger(__name__)

# Seconds that requests in flight have to finish when a worker drains.
DRAIN_TIMEOUT = 30.0

# Pending writes have the rest of that time, and so many seconds at least. The master waits 5 s longer than
# DRAIN_TIMEOUT.
_MIN_STOP_TIMEOUT = 3.0

# Seconds between two attempts to write log lines that standard error did not take.
_FLUSH_INTERVAL = 1.0


class HTTPWorkers:
    """The workers of one configuration. The master makes it before the fork; each worker runs `work`."""

    def __init__(self, config: Config, endpoints: Endpoints, metrics: Metrics, former: PathIdentities) -> None:
        """`former` has what the former configuration has opened.

        Raises StartError where something cannot be used, and UsageError where options contradict each other.
        """
        self.config = config
        self.count = config.workers
        self.endpoints = endpoints.open(config)
        self._all_endpoints = endpoints
        self._metrics = metrics
        limit = descriptors.raise_limit()
        _require_descriptors(limit, config, self.endpoints)
        self._services = Services(config, metrics, [endpoint.mounts for endpoint in self.endpoints], former)
        self.identities = self._services.identities
        self._connection_limit = _make_connection_limit(config, limit)
        self._client_limit = _make_client_limit(config, self._connection_limit.limit)

    def work(self, number: int, slot: int, status: StatusPipe) -> int:
        """Serve until SIGTERM, then drain. Returns the exit status.

        `number` is that of the worker within the group, `slot` that of its metrics.
        """
        start_logging(self.config.log_level)
        self._all_endpoints.close_others(self.endpoints)
        # The worker before this one may have left stagings.
        self._services.sweep()
        self._connection_limit.take_slot(number)
        self._client_limit.take_slot(number)
        apps = {endpoint.listener: self._build_app(endpoint) for endpoint in self.endpoints}
        # The first heartbeat: the master now expects one every half second; what precedes it may take longer.
        self._metrics.take_slot(slot)
        serving = ServerThread(self._make_server(apps))
        serving.start()
        status.report_serving()
        wait_for_sigterm()
        drained = drain(serving, self._services, status)
        finish_log()
        return 0 if drained else 1

    def close(self) -> None:
        """Close what the master has of it. Workers keep their copies."""
        self._connection_limit.close()
        self._services.close()

    def _build_app(self, endpoint: Endpoint) -> App:
        if endpoint.has_operations:
            return self._services.build_app(endpoint.mounts)
        return self._services.build_app_without_operations(endpoint.mounts)

    def _make_server(self, apps: dict[socket.socket, App]) -> Server:
        return Server(
            apps,
            threads=self.config.threads,
            limits=Limits(request_cache_bytes=cache_shares(self.config.cache, self.config.workers).requests),
            connection_limit=self._connection_limit,
            metrics=self._metrics,
            proxies=TrustedProxies(self.config.trusted_proxy),
            clients=self._client_limit,
            reserved=[endpoint.listener for endpoint in self.endpoints if endpoint.is_admin],
        )


class ServerThread:
    """A server with its loop on a thread of its own. The main thread of a worker calls `start`, then `drain`."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="loop", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def drain(self, timeout: float, on_not_accepting: Callable[[], None] = lambda: None) -> bool:
        """Stop accepting, and finish requests in flight. Returns whether they finished within `timeout` seconds.

        `on_not_accepting` is called once, when no further connection is accepted.
        """
        drained = self._server.drain(timeout, on_not_accepting)
        self._thread.join()
        self._server.server_close()
        return drained


def drain(serving: ServerThread, services: Services, status: StatusPipe, clock: Clock = SYSTEM_CLOCK) -> bool:
    """Finish requests, then pending writes. Returns whether both did in time."""
    deadline = clock.now() + DRAIN_TIMEOUT
    drained = serving.drain(DRAIN_TIMEOUT, status.report_not_accepting)
    # After the last response: its changes may still wait to be written.
    stopped = services.stop(max(_MIN_STOP_TIMEOUT, deadline - clock.now()))
    return drained and stopped


def wait_for_sigterm(flush_interval: float = _FLUSH_INTERVAL) -> None:
    """Wait for SIGTERM, and write waiting log lines meanwhile, every so many seconds."""
    # Not by sigtimedwait: in CPython it returns a signal that was never sent after a stop and continue of this process.
    signal.setitimer(signal.ITIMER_REAL, flush_interval, flush_interval)
    while signal.sigwaitinfo([signal.SIGTERM, signal.SIGALRM]).si_signo != signal.SIGTERM:
        flush_log()
    signal.setitimer(signal.ITIMER_REAL, 0.0)


def _require_descriptors(limit: int, config: Config, endpoints: Sequence[Endpoint]) -> None:
    mounted = {name for endpoint in endpoints for name in endpoint.mounts.values()}
    databases = [name for name in mounted if INTERFACES[name].load().data is not None]
    descriptors.require(
        limit,
        workers=config.workers,
        threads=config.threads,
        listeners=len(endpoints),
        databases=len(databases),
    )


def _make_connection_limit(config: Config, limit: int) -> ConnectionLimit:
    possible = descriptors.connections(limit) * config.workers
    if possible < config.max_connections:
        log.info(
            "limiting connections to %d: the descriptor limit does not allow for --max-connections %d",
            possible,
            config.max_connections,
        )
    return ConnectionLimit(min(possible, config.max_connections), config.workers)


def _make_client_limit(config: Config, connections: int) -> ClientLimit:
    limit = config.max_connections_per_client
    # One worker may have all connections, each of another client.
    return ClientLimit(max(1, connections // 4) if limit is None else limit, connections, config.workers)
