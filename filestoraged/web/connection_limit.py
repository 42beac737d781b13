"""The limit of connections of all workers together, and which worker accepts the next one."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading

# Connections by which workers may differ, beside a sixteenth.
_SLACK = 2

# What is written to a worker's pipe: to check whether it should accept, or to evict an idle connection.
_WAKE = b"!"
_EVICT = b"x"


class ConnectionLimit:
    """Counts connections in memory that the workers share. Make it before the fork; each worker then takes a slot.

    The lock guards this worker's two counts: no other worker writes them.
    """

    def __init__(self, limit: int, workers: int = 1) -> None:
        self.limit = limit
        # This close to the limit, workers publish since when their connections are idle.
        self.margin = limit // 10 + 64
        self._counts = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # Since when the longest idle connection of each worker is idle, in microseconds of the monotonic clock; 0 for
        # none.
        self._idle = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # Connections of each worker that wait for a place.
        self._waiting = memoryview(mmap.mmap(-1, 8 * workers)).cast("q")
        # A pipe for each worker.
        self._pipes = [_pipe() for _ in range(workers)]
        self.slot = 0
        self._lock = threading.Lock()

    def take_slot(self, slot: int) -> None:
        """Count for one worker from now on, from zero: its predecessor may have died."""
        self.slot = slot
        self._counts[slot] = 0
        self._idle[slot] = 0
        self._waiting[slot] = 0
        self.take_wakes()

    def close(self) -> None:
        for pipe in self._pipes:
            for descriptor in pipe:
                os.close(descriptor)

    def enter(self) -> int:
        """Count one more. Returns the excess over the limit, negative below it."""
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
        """Connections of all workers that wait for a place."""
        return sum(self._waiting)

    @property
    def own(self) -> int:
        """Connections of this worker."""
        return self._counts[self.slot]

    @property
    def count(self) -> int:
        """Connections of all workers."""
        return sum(self._counts)

    @property
    def is_ahead(self) -> bool:
        """Whether this worker has many more connections than the one that has the fewest."""
        own = self._counts[self.slot]
        return own - min(self._counts) > _SLACK + own // 16

    @property
    def wake_descriptor(self) -> int:
        """Readable when another worker has woken this one."""
        return self._pipes[self.slot][0]

    def take_wakes(self) -> int:
        """Returns how many idle connections the others have asked this worker to evict."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.wake_descriptor, 4096).count(_EVICT)
        return 0

    def wake_others(self) -> None:
        for slot in range(len(self._pipes)):
            if slot != self.slot:
                # A full pipe wakes as well.
                self._write(slot, _WAKE)

    def request_eviction(self, slot: int) -> bool:
        """Ask a worker to evict an idle connection. Returns whether it will learn of it."""
        return self._write(slot, _EVICT)

    def publish_idle(self, since: float | None) -> None:
        """Publish since when this worker's longest idle connection is idle, on the monotonic clock; None for none."""
        self._idle[self.slot] = 0 if since is None else max(1, int(since * 1_000_000))

    def longest_idle(self) -> int | None:
        """The slot of the worker that has published the longest idle connection; None where none has."""
        idle = [(since, slot) for slot, since in enumerate(self._idle) if since]
        return min(idle)[1] if idle else None

    def _write(self, slot: int, data: bytes) -> bool:
        try:
            os.write(self._pipes[slot][1], data)
        except BlockingIOError:
            return False
        return True


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    return read_end, write_end
