"""`filestoraged serve`: from a configuration to a daemon that runs, to the next configuration, and to its end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence

from filestoraged import __version__
from filestoraged.daemon import systemd
from filestoraged.daemon.config import parse_arguments
from filestoraged.daemon.endpoints import Endpoints
from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.supervisor import AWAITED, RELOAD, StopRequested, Supervisor, raise_if_stopped, run_attended
from filestoraged.daemon.values import INTERFACES, OPERATIONS, Config
from filestoraged.daemon.watchdog import Watchdog
from filestoraged.daemon.worker import DRAIN, Generation
from filestoraged.errors import StartError, UsageError
from filestoraged.web.metrics import Metrics

log = logging.getLogger(__name__)

# How much longer the master waits for workers that leave at their deadline, in seconds.
_LATE = 5.0

# Seconds until a signal to stop is noticed while the first configuration is prepared.
_NOTICE = 0.05

# Workers that there may be at a time: those that drain have not left yet when others have taken over.
_FEWEST_SLOTS = 1024
_CREWS = 4


def serve(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT. Raises UsageError or StartError."""
    config = parse_arguments(arguments)
    start_logging(config.log_level)
    # Before anything else is there: from now on they wait until the master asks for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    places = Endpoints()
    try:
        return _Service(arguments, config, places).run()
    except StopRequested:
        log.info("stopped before the start was complete")
        return 0
    finally:
        places.close()


class _Service:
    """What the master knows. Its main thread calls it."""

    def __init__(self, arguments: Sequence[str], config: Config, places: Endpoints) -> None:
        """Bind the sockets, and see that all can be used. Raises StopRequested."""
        self._arguments = arguments
        self._places = places
        self._meter = Metrics((*INTERFACES, OPERATIONS), max(_FEWEST_SLOTS, _CREWS * config.workers))
        # The databases that this daemon has seen to.
        self._prepared: set[str] = set()
        self._generation = run_attended(lambda: self._prepare(config), _await_undisturbed)
        self._workers = Supervisor(self._generation, self._meter.slots, Watchdog(self._meter), DRAIN + _LATE)

    def run(self) -> int:
        with contextlib.suppress(StopRequested):
            self._workers.start()
            log.info("started filestoraged %s with %d workers, storing %s", __version__, *self._size_and_store())
            self._announce()
        received = self._workers.run()
        while received == RELOAD:
            with contextlib.suppress(StopRequested):
                self._reload()
            received = self._workers.run()
        log.info("draining on %s", received.name)
        # Who comes now is refused at once, or waits with the service manager's sockets for the next daemon.
        self._places.close()
        systemd.notify("STOPPING=1", "STATUS=Finishing the requests under way")
        drained = self._workers.drain(DRAIN + _LATE)
        log.info("drained" if drained else "left with requests still under way")
        return 0

    def _reload(self) -> None:
        """Have workers with the configuration as it is now take over, if it can be used. Raises StopRequested."""
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            generation = run_attended(lambda: self._prepare(parse_arguments(self._arguments)), self._workers.wait_for)
        except StopRequested:
            raise
        except (UsageError, StartError) as error:
            self._refuse(str(error))
            return
        except Exception:
            # Whatever it is, those who serve now shall go on.
            log.exception("a configuration could not be read")
            self._refuse("The daemon failed; its log says why.")
            return
        if not self._workers.replace(generation):
            generation.close()
            self._refuse("Its workers do not begin to serve.")
            return
        self._generation.close()
        self._generation = generation
        self._places.settle(generation.places)
        start_logging(generation.config.log_level)
        log.info("reloaded, with %d workers, storing %s", *self._size_and_store())
        self._announce()

    def _prepare(self, config: Config) -> Generation:
        """On a thread of its own, during which the main thread waits."""
        self._see_that_there_is_room(config.workers)
        return Generation(config, self._places, self._meter, self._prepared)

    def _see_that_there_is_room(self, workers: int) -> None:
        # Those that others take over from are there as well, until they have drained.
        if 2 * workers > self._meter.slots:
            raise UsageError(f"--workers: there is room for {self._meter.slots // 2} of them until a restart.")

    def _refuse(self, why: str) -> None:
        self._places.settle(self._generation.places)
        log.error("not reloaded, the configuration before goes on: %s", why)
        systemd.notify("READY=1", f"STATUS=Serving by the configuration before the last reload: {why}")

    def _size_and_store(self) -> tuple[int, str]:
        config = self._generation.config
        directory = os.path.abspath(config.store)
        if not config.memcached:
            return config.workers, f"in {directory}"
        mounted = {name for place in self._generation.places for name in place.mounts.values()}
        kept = [what for name, what in (("kv", "keys"), ("drops", "drops")) if name in mounted]
        besides = f", {' and '.join(kept)} in {directory}" if kept else ""
        return config.workers, f"objects in memcached at {', '.join(config.memcached)}{besides}"

    def _announce(self) -> None:
        places = self._generation.places
        exposed = [str(place.address) for place in places if place.is_open]
        if exposed and self._generation.config.tokens is None:
            log.warning("open to everyone who can reach %s: there are no --tokens", ", ".join(exposed))
        # All at once: who waits for one of these lines finds the others.
        log.info("%s", "\n".join(f"listening on {place}" for place in places))
        where = ", ".join(str(place.address) for place in places)
        systemd.notify("READY=1", f"STATUS=Serving on {where} with {self._generation.count} workers")


def _await_undisturbed(is_done: Callable[[float], bool]) -> None:
    """Wait until `is_done`. Raises StopRequested."""
    while not is_done(_NOTICE):
        raise_if_stopped()
