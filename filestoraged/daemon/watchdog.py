"""Judges whether the workers answer, and tells the service manager as long as one of them does."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from filestoraged.daemon import systemd
from filestoraged.daemon.supervisor import Started
from filestoraged.web.metrics import Metrics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long the master waits for a worker before it kills it, in seconds."""

    # Since the last round of its loop, which makes two a second. A worker that is silent for longer holds up all of its
    # connections: no part of the loop is meant to take a tenth of a second.
    silence: float = 15.0
    # From its fork to the first round: it sweeps what a crash left and opens the databases, and SQLite may have to
    # recover a log of gigabytes. That starts anew in the next worker, so this one is given time.
    begin: float = 60.0


class Watchdog:
    """Called by the main thread of the master.

    The service manager gets a sign of life for as long as this is called and a worker answers. So its watchdog ends a
    master that hangs, or one whose workers all die at their start; a single worker that hangs is the master's to kill.
    """

    def __init__(
        self, meter: Metrics, patience: Patience = Patience(), *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is that of the meter's beats."""
        self._meter = meter
        self._patience = patience
        self._clock = clock
        self._timeout = systemd.watchdog_timeout()
        # Seconds between two looks: a worker is killed within a second of its time, and no sign of life is late.
        self.pause = min(patience.silence / 15, self._timeout / 4)
        self._last_look = clock()
        # Beats before that say nothing: this process was stopped.
        self._resumed = -math.inf
        # Slots of those that are to be killed, or spared for a debugger: each is logged once.
        self._condemned: set[int] = set()

    def look(self, workers: Mapping[int, Started]) -> list[int]:
        """Return the process ids of workers that hang and are to be killed, each once."""
        now = self._clock()
        if now - self._last_look > self._patience.silence / 2:
            # The whole group was stopped, or the machine had no time for us: the workers had none either.
            self._resumed = now
        self._last_look = now
        hanging = [pid for pid, worker in workers.items() if self._hangs(pid, worker, now)]
        if self._timeout < math.inf and any(self._answers(worker, now) for worker in workers.values()):
            systemd.notify("WATCHDOG=1")
        return hanging

    def bury(self, slot: int) -> None:
        self._meter.clear_slot(slot)
        self._condemned.discard(slot)

    def _answers(self, worker: Started, now: float) -> bool:
        beat = self._meter.last_beat(worker.slot)
        return bool(beat) and now - max(beat, self._resumed) < self._patience.silence

    def _hangs(self, pid: int, worker: Started, now: float) -> bool:
        beat = self._meter.last_beat(worker.slot)
        waited = now - max(beat or worker.time, self._resumed)
        if waited < (self._patience.silence if beat else self._patience.begin):
            self._condemned.discard(worker.slot)
            return False
        if worker.slot in self._condemned:
            return False
        self._condemned.add(worker.slot)
        what = "has not answered" if beat else "has not begun to serve"
        tracer = _tracer(pid)
        if tracer:
            log.error("worker %d %s for %.0f s; process %d traces it, so it is not killed", pid, what, waited, tracer)
            return False
        log.error("worker %d %s for %.0f s; killing it", pid, what, waited)
        return True


def _tracer(pid: int) -> int:
    """The process id of a debugger that may have stopped the process; 0 for none."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"TracerPid:"):
                return int(line.split()[1])
    return 0
