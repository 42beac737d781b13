"""Memory for downloads, bounded for all of them together. A download that needs more than is free waits in a queue."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import StoreUnavailable

# Seconds that a download waits for memory, which a slow client's download may hold.
_TIMEOUT = 30.0

# Objects of up to this size, in bytes, are not counted: a client's socket accepts one at once, and requests for small
# objects must not wait behind large ones.
_UNCOUNTED = 64 * 1024

# From this size on, in bytes, a buffer is a mapping of its own. The parts that were read are given back in steps of as
# many bytes: huge pages have 2 MiB each.
_STEP = 4 * 1024 * 1024


class BufferBudget:
    """`size` bytes for all buffers together. Any thread calls it; the condition guards the queue and what is free.

    Reservations are served in the order of the calls. One that exceeds the budget is served when nothing is reserved.
    """

    def __init__(self, size: int, *, timeout: float = _TIMEOUT, clock: Clock = SYSTEM_CLOCK) -> None:
        self._size = size
        self._free = size
        self._timeout = timeout
        self._clock = clock
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def reserve(self, size: int) -> None:
        """Wait until `size` bytes are free, and reserve them. Raises StoreUnavailable after the timeout."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            is_served = self._clock.wait_for(
                self._changed, lambda: self._queue[0] is ticket and self._fits(size), self._timeout
            )
            self._queue.remove(ticket)
            if is_served:
                self._free -= size
            # The next in the queue may fit too.
            self._changed.notify_all()
        if not is_served:
            raise StoreUnavailable("Too many downloads are in flight; retry later.")

    def release(self, size: int) -> None:
        with self._changed:
            self._free += size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return size <= self._free or self._free == self._size


class ReservedBuffer:
    """A buffer that is filled once and then read from front to back. One thread at a time uses it."""

    def __init__(self, budget: BufferBudget, size: int, *, spare: int) -> None:
        """Reserve `size` bytes of the budget, and allocate `spare` more behind them. Raises StoreUnavailable."""
        self._reserved = size if size > _UNCOUNTED else 0
        if self._reserved:
            budget.reserve(size)
        self._budget = budget
        self._dropped = 0
        self._map = _map(size + spare) if size >= _STEP else None
        self.view = memoryview(bytearray(size + spare) if self._map is None else self._map)

    def drop_before(self, position: int) -> None:
        """Give back the bytes before `position`, in whole steps."""
        passed = (position - self._dropped) // _STEP * _STEP
        if passed > 0 and self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED, self._dropped, passed)
            self._dropped += passed
            self._budget.release(passed)

    def close(self) -> None:
        """Give back the rest. A second call does nothing."""
        rest, self._reserved = self._reserved - self._dropped, self._dropped
        # The last view of the mapping unmaps it.
        self._map, self.view = None, memoryview(b"")
        if rest:
            self._budget.release(rest)


def _map(size: int) -> mmap.mmap:
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Allocating 50 MiB page by page takes longer than filling them from memcached. Some kernels have no huge pages.
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped
