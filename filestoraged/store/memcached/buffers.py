"""Memory that downloads share: whoever finds too little of it left waits for a turn."""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque

from filestoraged.errors import StoreUnavailable

# How long somebody waits for a turn, in seconds. What is waited for may be a slow client's download.
_PATIENCE = 30.0

# What is small does not count: a client's socket takes it at once, and nobody who asks for it waits behind large ones.
_SMALL = 64 * 1024

# A mapping of its own pays from here on, and what is read of it goes back in steps of so many bytes: huge pages are
# of 2 MiB each.
_STEP = 4 * 1024 * 1024


class BufferReservation:
    """`size` bytes for all together. Used by many threads; the condition guards who waits and what is left.

    Turns come in the order of asking. Who wants more than there is gets a turn when nobody else has anything.
    """

    def __init__(self, size: int, *, patience: float = _PATIENCE) -> None:
        self._size = size
        self._left = size
        self._patience = patience
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait for `size` bytes. Raises StoreUnavailable where that takes too long."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            came = self._changed.wait_for(lambda: self._waiting[0] is turn and self._has(size), self._patience)
            self._waiting.remove(turn)
            if came:
                self._left -= size
            # Whoever is next may find enough.
            self._changed.notify_all()
        if not came:
            raise StoreUnavailable("Too many downloads are under way.")

    def give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()

    def _has(self, size: int) -> bool:
        return size <= self._left or self._left == self._size


class BufferBudget:
    """A share of a budget, filled once and then read from front to back. One thread at a time has it."""

    def __init__(self, budget: BufferReservation, size: int, *, spare: int) -> None:
        """Wait for `size` bytes, and have `spare` ones behind them. Raises StoreUnavailable."""
        self._counted = size if size > _SMALL else 0
        if self._counted:
            budget.take(size)
        self._budget = budget
        self._dropped = 0
        self._map = _map(size + spare) if size >= _STEP else None
        self.view = memoryview(bytearray(size + spare) if self._map is None else self._map)

    def drop_before(self, position: int) -> None:
        """Give back what lies before `position`, by and by."""
        passed = (position - self._dropped) // _STEP * _STEP
        if passed > 0 and self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED, self._dropped, passed)
            self._dropped += passed
            self._budget.give(passed)

    def close(self) -> None:
        """Give back the rest. Again is harmless."""
        left, self._counted = self._counted - self._dropped, self._dropped
        # The mapping goes with the last view of it.
        self._map, self.view = None, memoryview(b"")
        if left:
            self._budget.give(left)


def _map(size: int) -> mmap.mmap:
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Page by page the kernel takes longer to hand out 50 MiB than memcached to fill them. Not all kernels can.
    with contextlib.suppress(OSError):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped
