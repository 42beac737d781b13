"""The master process: the daemon from its start through reloads of its configuration to its end."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from filestoraged import __version__
from filestoraged.command_errors import StartError, UsageError
from filestoraged.daemon.backends import selected
from filestoraged.daemon.config import Config
from filestoraged.daemon.endpoints import Endpoints
from filestoraged.daemon.interfaces import INTERFACES, OPERATIONS
from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.processes import RELOAD_SIGNAL, Processes
from filestoraged.daemon.supervisor import StopRequested, Supervisor, raise_if_stopped
from filestoraged.daemon.systemd import ServiceManager
from filestoraged.daemon.watchdog import Watchdog
from filestoraged.daemon.worker import DRAIN_TIMEOUT, HTTPWorkers
from filestoraged.future import Future
from filestoraged.store.path_identity import PathIdentities
from filestoraged.web.metrics import Metrics

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# Seconds that the master waits for workers: they end at DRAIN_TIMEOUT by themselves, a little later under load.
_DRAIN_DEADLINE = DRAIN_TIMEOUT + 5.0

# Seconds until a signal to stop is noticed while the first configuration is prepared.
_SIGNAL_INTERVAL = 0.05

# Workers at a time, those that drain after a reload included.
_MIN_SLOTS = 1024
_SLOTS_PER_WORKER = 4

# Features that the log shows as on or off.
_FEATURES = ("admin_listen", "tokens", "accel", "trusted_proxy", "public_url", "allow_origin")


class Master:
    """The state of the master process. Its main thread calls it."""

    def __init__(
        self,
        configure: Callable[[], Config],
        config: Config,
        endpoints: Endpoints,
        processes: Processes,
        manager: ServiceManager,
    ) -> None:
        """Bind the sockets, and test that everything can be used. Raises StopRequested.

        `configure` reads the configuration again. It raises UsageError or StartError.
        """
        self._processes = processes
        self._manager = manager
        self._configure = configure
        self._endpoints = endpoints
        slots = max(_MIN_SLOTS, _SLOTS_PER_WORKER * config.workers)
        self._metrics = Metrics((*INTERFACES, OPERATIONS), slots)
        # What the workers that serve have opened: the store's directory and databases.
        self._identities = PathIdentities()
        self._workers = _run_attended(lambda: self._prepare(config), self._wait_alone)
        self._identities = self._workers.identities
        watchdog = Watchdog(processes, self._metrics, manager)
        self._supervisor = Supervisor(processes, self._workers, slots, watchdog, _DRAIN_DEADLINE)

    def run(self) -> int:
        """Serve until a signal to stop, and drain. Returns the exit status."""
        with contextlib.suppress(StopRequested):
            self.start()
        received = self._supervisor.run()
        while received == RELOAD_SIGNAL:
            with contextlib.suppress(StopRequested):
                self.reload()
            received = self._supervisor.run()
        log.info("draining on %s", received.name)
        # New clients are refused at once, or wait at the service manager's sockets for the next daemon.
        self._endpoints.close()
        self._manager.report_stopping("Finishing requests in flight")
        if self._supervisor.drain(_DRAIN_DEADLINE):
            log.info("drained")
        else:
            log.warning("exceeded the drain deadline (%.0f s) with requests in flight", _DRAIN_DEADLINE)
        return 0

    def start(self) -> None:
        """Start the workers. Raises StopRequested."""
        self._supervisor.start()
        log.info("started filestoraged %s with %d workers, storing %s", __version__, *self._size_and_store())
        self._announce()

    def reload(self) -> None:
        """Read the configuration again, and replace the workers if it can be used. Raises StopRequested."""
        self._manager.report_reloading()
        try:
            workers = _run_attended(lambda: self._prepare(self._configure()), self._supervisor.wait_for)
        except StopRequested:
            raise
        except (UsageError, StartError) as error:
            self._refuse(str(error))
            return
        except Exception:
            # An error of ours must not end the workers that serve now.
            log.exception("cannot prepare the new configuration")
            self._refuse("an internal error, see the log")
            return
        if not self._supervisor.replace(workers):
            workers.close()
            self._refuse("its workers do not begin to serve")
            return
        self._workers.close()
        self._workers = workers
        self._identities = workers.identities
        self._endpoints.keep_only(workers.endpoints)
        start_logging(workers.config.log_level)
        log.info("reloaded with %d workers, storing %s", *self._size_and_store())
        self._announce()

    def _prepare(self, config: Config) -> HTTPWorkers:
        """Runs on a thread of its own, while the main thread waits."""
        # A reload has two groups of workers at a time.
        limit = self._metrics.slots // 2
        if config.workers > limit:
            raise UsageError(f"--workers {config.workers} exceeds {limit}, the maximum until a restart")
        return HTTPWorkers(config, self._endpoints, self._metrics, self._identities)

    def _wait_alone(self, is_done: Callable[[float], bool]) -> None:
        """For `_run_attended` before there are workers. Raises StopRequested."""
        while not is_done(_SIGNAL_INTERVAL):
            raise_if_stopped(self._processes)

    def _refuse(self, why: str) -> None:
        self._endpoints.keep_only(self._workers.endpoints)
        log.error("not reloaded, keeping the former configuration: %s", why)
        self._manager.report_ready(f"Serving with the configuration before the last reload: {why}")

    def _size_and_store(self) -> tuple[int, str]:
        config = self._workers.config
        mounted = {name for endpoint in self._workers.endpoints for name in endpoint.mounts.values()}
        backend = selected(config)
        if backend.option == "store" and config.database is None:
            return config.workers, f"in {backend.describe(config)}"
        loaded = [row.load() for name, row in INTERFACES.items() if name in mounted]
        kept = [each.data.content for each in loaded if each.data is not None]
        where = os.path.abspath(config.store) if config.database is None else config.database.description
        besides = f", {_enumerated(kept)} in {where}" if kept else ""
        return config.workers, f"objects in {backend.describe(config)}{besides}"

    def _announce(self) -> None:
        """Log the options that are on and off, and notify the service manager."""
        config, endpoints = self._workers.config, self._workers.endpoints
        features = [f"{name.replace('_', '-')} {'on' if getattr(config, name) else 'off'}" for name in _FEATURES]
        log.info("options: %s", ", ".join(features))
        exposed = [str(endpoint.address) for endpoint in endpoints if endpoint.is_exposed]
        if exposed and config.tokens is None:
            log.warning("open to every client that can reach %s: --tokens is not set", ", ".join(exposed))
        # In one record: a reader that waits for one of these lines finds the others.
        log.info("%s", "\n".join(f"listening on {endpoint}" for endpoint in endpoints))
        addresses = ", ".join(str(endpoint.address) for endpoint in endpoints)
        self._manager.report_ready(f"Serving on {addresses} with {self._workers.count} workers")


def _run_attended(work: Callable[[], _Result], attend: Callable[[Callable[[float], bool]], object]) -> _Result:
    """Run `work` on a thread that ends before any fork, while this thread acts on signals. Returns its result.

    The work may wait for a resolver, a memcached server or a locked database, and these waits cannot be interrupted.
    `attend` is called with a function that waits for so many seconds and returns whether the work is done. It returns
    once that is so. When it raises instead, the thread continues, and ends with the process.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="preparation", daemon=True)
    thread.start()

    def is_done(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    attend(is_done)
    return future.result()


def _enumerated(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
