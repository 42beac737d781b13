"""Sees whether the workers answer, and tells the service manager as long as they do."""

from __future__ import annotations

import logging
import math
from typing import Mapping, Set

from filestoraged.daemon import systemd
from filestoraged.web.meter import Meter

log = logging.getLogger(__name__)


class Watchdog:
    """Where the service manager waits for a sign of life, it gets one while no worker's loop stands still.

    Without it, this looks at nothing. By the main thread of the master.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._timeout = systemd.watchdog_timeout()
        # Seconds between two looks. A sign that comes late must not be taken for none.
        self.pause = self._timeout / 4
        self._silent: Set[int] = set()

    def look(self, workers: Mapping[int, int]) -> None:
        """`workers` has the process id of each by its slot."""
        if self._timeout == math.inf:
            return
        # Half of it, and then all of it until the manager acts.
        silent = {pid for slot, pid in workers.items() if self._meter.silence(slot) > self._timeout / 2}
        for pid in silent - self._silent:
            log.error("worker %d does not answer", pid)
        self._silent = silent
        if workers and not silent:
            systemd.notify("WATCHDOG=1")

    def bury(self, slot: int) -> None:
        self._meter.clear_slot(slot)
