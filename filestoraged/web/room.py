"""How many connections there may be, in all workers together, and whose turn it is to take the next."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from typing import Tuple

# Workers need not be even to the last connection.
_SLACK = 2


class Room:
    """Counts connections in memory that the workers share. Make it before the fork; each worker then takes a slot.

    The lock guards this worker's count: nobody else writes it.
    """

    def __init__(self, limit: int, workers: int = 1) -> None:
        self.limit = limit
        self._counts = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # Rung when a worker has taken enough: the others then look whether it is their turn.
        self._bells = [_bell() for _ in range(workers)]
        self._slot = 0
        self._lock = threading.Lock()

    def take_slot(self, slot: int) -> None:
        """Count for one worker from now on. What one that died has left there is forgotten."""
        self._slot = slot
        self._counts[slot] = 0

    def close(self) -> None:
        for bell in self._bells:
            for descriptor in bell:
                os.close(descriptor)

    def enter(self) -> int:
        """Count one more. Returns by how many that is above the limit."""
        with self._lock:
            self._counts[self._slot] += 1
        return self.count - self.limit

    def leave(self) -> None:
        with self._lock:
            self._counts[self._slot] -= 1

    @property
    def own(self) -> int:
        """How many connections this worker has."""
        return self._counts[self._slot]

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def ahead(self) -> bool:
        """Whether this worker has a good many more connections than the one that has the fewest."""
        own = self._counts[self._slot]
        return own - min(self._counts) > _SLACK + own // 16

    @property
    def bell(self) -> int:
        """A descriptor that can be read when another worker has rung."""
        return self._bells[self._slot][0]

    def hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell, 4096)

    def ring(self) -> None:
        for slot, (_, other) in enumerate(self._bells):
            if slot != self._slot:
                # One that has not heard the last thousand times need not hear this one.
                with contextlib.suppress(BlockingIOError):
                    os.write(other, b"!")


def _bell() -> Tuple[int, int]:
    heard, rung = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(rung, False)
    return heard, rung
