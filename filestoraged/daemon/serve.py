"""`filestoraged serve`: from a configuration to a daemon that runs, and to its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
from typing import Callable, List

from filestoraged import __version__
from filestoraged.daemon import descriptors, listeners, systemd
from filestoraged.daemon.config import Config
from filestoraged.daemon.engines import Engines
from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.worker import Worker
from filestoraged.daemon.workers import STOP, Workers
from filestoraged.errors import StartError
from filestoraged.web.limits import Limits
from filestoraged.web.room import Room

log = logging.getLogger(__name__)

# Requests under way when the daemon is told to stop have this long, in seconds.
DRAIN = 30.0

# How much longer the master waits for workers that leave at that deadline.
_LATE = 5.0


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Raises StartError."""
    start_logging(config.log_level)
    engines = Engines(config)
    bound = _bind(config)
    try:
        serve_until_told = _serve_alone if config.workers == 1 else _serve_by_workers
        drained = serve_until_told(config, engines, bound)
    finally:
        listeners.close(bound)
    log.info("drained" if drained else "left with requests still under way")
    return 0


def _bind(config: Config) -> List[socket.socket]:
    bound: List[socket.socket] = []
    try:
        for address in config.listen:
            bound += listeners.listen(address)
    except StartError:
        listeners.close(bound)
        raise
    return bound


def _announce(config: Config, bound: List[socket.socket]) -> None:
    mounts = ", ".join(f"{name} at {prefix}" for prefix, name in config.mounts.items())
    where = ", ".join(config.memcached) or os.path.abspath(config.store)
    log.info("started filestoraged %s with %d workers, storing in %s", __version__, config.workers, where)
    for listener in bound:
        log.info("listening on %s for %s", listeners.address_of(listener), mounts)
    systemd.notify("READY=1")


def _make_room(config: Config) -> Room:
    enough = descriptors.enough_for(descriptors.raise_limit()) * config.workers
    if enough < config.max_connections:
        log.info("descriptors are enough for %d connections, not for %d", enough, config.max_connections)
    return Room(min(enough, config.max_connections), config.workers)


def _serve_alone(config: Config, engines: Engines, bound: List[socket.socket]) -> bool:
    # Blocked before the first thread starts, so that all inherit it and the main thread alone is told.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    worker = _start_worker(config, engines, bound, _make_room(config))
    _announce(config, bound)
    _announce_end(signal.Signals(signal.sigwait(STOP)))
    # A second signal leaves at once.
    for each in STOP:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    return worker.drain(DRAIN)


def _serve_by_workers(config: Config, engines: Engines, bound: List[socket.socket]) -> bool:
    room = _make_room(config)

    def work(slot: int, on_serving: Callable[[], None]) -> int:
        # The one that this one replaces may have left some.
        engines.sweep()
        room.take_slot(slot)
        worker = _start_worker(config, engines, bound, room)
        on_serving()
        signal.sigwait([signal.SIGTERM])
        return 0 if worker.drain(DRAIN) else 1

    workers = Workers(config.workers, work)
    workers.start()
    _announce(config, bound)
    _announce_end(workers.run())
    return workers.drain(DRAIN + _LATE)


def _start_worker(config: Config, engines: Engines, bound: List[socket.socket], room: Room) -> Worker:
    worker = Worker(bound, engines.build_app(), threads=config.threads, limits=Limits(), room=room)
    worker.start()
    return worker


def _announce_end(received: signal.Signals) -> None:
    log.info("draining on %s", received.name)
    systemd.notify("STOPPING=1")
