"""Finds workers whose loop hangs, and feeds the service manager's watchdog as long as one of them answers."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Protocol

from filestoraged.daemon.processes import Processes
from filestoraged.daemon.supervisor import WorkerProcess
from filestoraged.daemon.systemd import ServiceManager

log = logging.getLogger(__name__)

# Seconds that the master waits for a worker before it kills it: since the last heartbeat, of which a loop makes two a
# second. A loop that is silent holds up all of its connections: no step of it is meant to take 0.1 s.
_SILENCE_TIMEOUT = 15.0
# From the fork to the first heartbeat. A worker sweeps stagings and opens the databases before it, and SQLite may have
# to recover a log of gigabytes. A killed worker's successor starts that again, so this is long.
_START_TIMEOUT = 60.0


class Heartbeats(Protocol):
    """What each worker's loop last wrote to its slot."""

    def last_beat(self, slot: int) -> float: ...

    def clear_slot(self, slot: int) -> None: ...


class Watchdog:
    """The supervisor's monitor. The main thread of the master calls it.

    The service manager is notified for as long as this is called and a worker answers. So its watchdog ends a master
    that hangs, or one whose workers all die at their start; a single worker that hangs is killed by the master.
    """

    def __init__(self, processes: Processes, heartbeats: Heartbeats, manager: ServiceManager) -> None:
        self._processes = processes
        self._heartbeats = heartbeats
        self._manager = manager
        # Seconds between two calls: a worker is killed within 1 s of its timeout, and no notification is late.
        self.interval = min(_SILENCE_TIMEOUT / 15, manager.watchdog_timeout / 4)
        self._last_call = processes.now()
        # Heartbeats before that say nothing: this process was stopped.
        self._resumed = -math.inf
        # Slots of workers that were reported: each is logged once.
        self._reported: set[int] = set()

    def hanging(self, workers: Mapping[int, WorkerProcess]) -> list[int]:
        """Return the process ids of workers that hang, each once, for the caller to kill."""
        self._manager.flush()
        now = self._processes.now()
        if now - self._last_call > _SILENCE_TIMEOUT / 2:
            # All processes were stopped, or the machine had no time for this one: the workers had none either.
            self._resumed = now
        self._last_call = now
        hanging = [pid for pid, worker in workers.items() if self._hangs(pid, worker, now)]
        if self._manager.watchdog_timeout < math.inf and any(self._answers(worker, now) for worker in workers.values()):
            self._manager.feed_watchdog()
        return hanging

    def release(self, slot: int) -> None:
        self._heartbeats.clear_slot(slot)

    def _answers(self, worker: WorkerProcess, now: float) -> bool:
        beat = self._heartbeats.last_beat(worker.slot)
        return bool(beat) and now - max(beat, self._resumed) < _SILENCE_TIMEOUT

    def _hangs(self, pid: int, worker: WorkerProcess, now: float) -> bool:
        beat = self._heartbeats.last_beat(worker.slot)
        waited = now - max(beat or worker.started, self._resumed)
        if waited < (_SILENCE_TIMEOUT if beat else _START_TIMEOUT):
            self._reported.discard(worker.slot)
            return False
        if worker.slot in self._reported:
            return False
        self._reported.add(worker.slot)
        fault = "has not answered" if beat else "has not begun to serve"
        tracer = self._processes.tracer(pid)
        if tracer:
            log.error("worker %d %s for %.0f s; process %d traces it, so it is not killed", pid, fault, waited, tracer)
            return False
        log.error("worker %d %s for %.0f s; killing it", pid, fault, waited)
        return True
