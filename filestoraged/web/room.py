"""How many connections there may be, in all workers together."""

from __future__ import annotations

import mmap
import threading

# Connections beyond the limit that are still told so, before others are closed without a word.
_TOLD = 128


class Room:
    """Counts connections in memory that the workers share. Make it before the fork; each worker then takes a slot.

    The lock guards this worker's count: nobody else writes it.
    """

    def __init__(self, limit: int, workers: int = 1) -> None:
        self.limit = limit
        self._counts = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        self._slot = 0
        self._lock = threading.Lock()

    def take_slot(self, slot: int) -> None:
        """Count for one worker from now on. What one that died has left there is forgotten."""
        self._slot = slot
        self._counts[slot] = 0

    def enter(self) -> None:
        with self._lock:
            self._counts[self._slot] += 1

    def leave(self) -> None:
        with self._lock:
            self._counts[self._slot] -= 1

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def full(self) -> bool:
        """Whether the last who entered is to be told that there is no room."""
        return self.count > self.limit

    @property
    def overrun(self) -> bool:
        """Whether there is none to be told."""
        return self.count > self.limit + _TOLD
