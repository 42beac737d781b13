"""The limit of connections of all workers together, and which worker accepts the next one."""

from __future__ import annotations

import contextlib
import os
import threading

from filestoraged.shared_table import SharedTable

# Connections by which workers may differ, beside a sixteenth.
_SLACK = 2


class ConnectionLimit:
    """Counts connections in memory that the workers share. Make it before the fork; each worker then takes a slot.

    The lock guards this worker's count: no other worker writes it.
    """

    def __init__(self, limit: int, workers: int = 1) -> None:
        self.limit = limit
        self._counts = SharedTable(workers, 1).column(0)
        # A pipe for each worker.
        self._pipes = [_pipe() for _ in range(workers)]
        self.slot = 0
        self._lock = threading.Lock()

    def take_slot(self, slot: int) -> None:
        """Count for one worker from now on, from zero: its predecessor may have died."""
        self.slot = slot
        self._counts[slot] = 0
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
        """Whether this worker has many more connections than the one that has the fewest.

        Not where all places are taken: then each worker closes a connection for each that it accepts.
        """
        own = self._counts[self.slot]
        return own - min(self._counts) > _SLACK + own // 16 and self.count < self.limit

    @property
    def wake_descriptor(self) -> int:
        """Readable when another worker has woken this one."""
        return self._pipes[self.slot][0]

    def take_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_descriptor, 4096)

    def wake_others(self) -> None:
        """Let the other workers check whether they accept connections."""
        for slot, (_, writer) in enumerate(self._pipes):
            if slot != self.slot:
                # A full pipe wakes as well.
                with contextlib.suppress(BlockingIOError):
                    os.write(writer, b"!")


def _pipe() -> tuple[int, int]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    return read_end, write_end
