"""One configuration at work: where it listens, what it keeps things in, and what a worker of it does."""

from __future__ import annotations

import logging
import signal
import socket
from typing import Callable, Dict, Set

from filestoraged.daemon import descriptors
from filestoraged.daemon.config import Config
from filestoraged.daemon.engines import Engines
from filestoraged.daemon.logs import start_logging
from filestoraged.daemon.places import Places
from filestoraged.daemon.worker import Worker
from filestoraged.web.limits import Limits
from filestoraged.web.message import App
from filestoraged.web.meter import Meter
from filestoraged.web.room import Room

log = logging.getLogger(__name__)

# Requests under way when the daemon is told to stop have this long, in seconds.
DRAIN = 30.0


class Generation:
    """Made by the master before the fork. It is the crew of the workers."""

    def __init__(self, config: Config, places: Places, meter: Meter, prepared: Set[str]) -> None:
        """`prepared` has the databases that were prepared before, and gets those that are now.

        Raises StartError where something cannot be used, and UsageError where it is not to be understood.
        """
        self.config = config
        self.count = config.workers
        self.places = places.find(config)
        self._all_places = places
        self._meter = meter
        self._engines = Engines(config, meter, [place.mounts for place in self.places], prepared)
        self._room = _make_room(config)

    def work(self, number: int, slot: int, on_serving: Callable[[], None]) -> int:
        start_logging(self.config.log_level)
        self._all_places.forget_others(self.places)
        # The one that this one replaces may have left some.
        self._engines.sweep()
        self._room.take_slot(number)
        self._meter.take_slot(slot)
        threads = self.config.threads
        worker = Worker(self._build_apps(), threads=threads, limits=Limits(), room=self._room, meter=self._meter)
        worker.start()
        on_serving()
        signal.sigwait([signal.SIGTERM])
        return 0 if worker.drain(DRAIN) else 1

    def close(self) -> None:
        """What the workers have of it they keep."""
        self._room.close()

    def _build_apps(self) -> Dict[socket.socket, App]:
        build = self._engines.build_app
        return {place.listener: build(place.mounts, operations=place.operations) for place in self.places}


def _make_room(config: Config) -> Room:
    enough = descriptors.enough_for(descriptors.raise_limit()) * config.workers
    if enough < config.max_connections:
        log.info("descriptors are enough for %d connections, not for %d", enough, config.max_connections)
    return Room(min(enough, config.max_connections), config.workers)
