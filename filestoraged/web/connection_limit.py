"""How many connections there may be, in all workers together, and whose turn it is to take the next."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading

# Workers need not be even to the last connection.
_SLACK = 2

# What a bell is rung with: to look whose turn it is, or to have an idle connection give way.
_LOOK = b"!"
_GIVE_WAY = b"x"


class ConnectionLimit:
    """Counts connections in memory that the workers share. Make it before the fork; each worker then takes a slot.

    The lock guards this worker's two counts: no other worker writes them.
    """

    def __init__(self, limit: int, workers: int = 1) -> None:
        self.limit = limit
        # So close to the limit, workers publish what idle connections they have.
        self.margin = limit // 10 + 64
        self._counts = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # Since when the longest idle connection of each worker is idle, in microseconds of the monotonic clock; 0 where
        # none is known to be.
        self._idle = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # How many connections of each worker wait for a place.
        self._waiting = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # Rung when a worker has taken enough: the others then look whether it is their turn.
        self._bells = [_bell() for _ in range(workers)]
        self.slot = 0
        self._lock = threading.Lock()

    def take_slot(self, slot: int) -> None:
        """Count for one worker from now on. What one that died has left there is forgotten."""
        self.slot = slot
        self._counts[slot] = 0
        self._idle[slot] = 0
        self._waiting[slot] = 0
        self.hear()

    def close(self) -> None:
        for bell in self._bells:
            for descriptor in bell:
                os.close(descriptor)

    def enter(self) -> int:
        """Count one more. Returns by how many that is above the limit."""
        with self._lock:
            self._counts[self.slot] += 1
        return self.count - self.limit

    def leave(self) -> None:
        with self._lock:
            self._counts[self.slot] -= 1

    def begin_waiting(self) -> None:
        """Count one more connection that waits for a place."""
        with self._lock:
            self._waiting[self.slot] += 1

    def end_waiting(self) -> None:
        with self._lock:
            self._waiting[self.slot] -= 1

    @property
    def waiting(self) -> int:
        """How many connections of all workers wait for a place."""
        return sum(self._waiting)

    @property
    def own(self) -> int:
        """How many connections this worker has."""
        return self._counts[self.slot]

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def ahead(self) -> bool:
        """Whether this worker has a good many more connections than the one that has the fewest."""
        own = self._counts[self.slot]
        return own - min(self._counts) > _SLACK + own // 16

    @property
    def bell(self) -> int:
        """A descriptor that can be read when another worker has rung."""
        return self._bells[self.slot][0]

    def hear(self) -> int:
        """Take note of the bell. Returns how many idle connections the others have asked to give way."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.bell, 4096).count(_GIVE_WAY)
        return 0

    def ring(self) -> None:
        for slot in range(len(self._bells)):
            if slot != self.slot:
                # One that has not heard the last thousand times need not hear this one.
                self._ring(slot, _LOOK)

    def ask(self, slot: int) -> bool:
        """Have an idle connection of a worker give way. Returns whether it can hear that."""
        return self._ring(slot, _GIVE_WAY)

    def publish_idle(self, since: float | None) -> None:
        """Tell since when this worker's longest idle connection is idle, on the monotonic clock; None for none."""
        self._idle[self.slot] = 0 if since is None else max(1, int(since * 1_000_000))

    def longest_idle(self) -> int | None:
        """The worker that has the longest idle connection, as far as is known; None where there is none."""
        idle = [(since, slot) for slot, since in enumerate(self._idle) if since]
        return min(idle)[1] if idle else None

    def _ring(self, slot: int, what: bytes) -> bool:
        try:
            os.write(self._bells[slot][1], what)
        except BlockingIOError:
            return False
        return True


def _bell() -> tuple[int, int]:
    heard, rung = os.pipe()
    os.set_blocking(heard, False)
    os.set_blocking(rung, False)
    return heard, rung
