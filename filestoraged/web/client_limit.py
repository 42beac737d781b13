"""The limit of connections of each client, in all workers together: counts by address, in shared memory.

Each worker has a table that it alone writes, so there is no lock between processes that one that is stopped could keep.
A count is the sum over all tables; it may be off by one for a moment while others change theirs.
"""

from __future__ import annotations

import mmap
import os
import threading

from filestoraged.web.trusted_proxies import IPAddress

# Entries that a key may be in. Four times as many entries as there may be clients: that a key finds none of its 16 free
# happens once in millions, and then its client is not counted.
_WAYS = 16
_SPARE = 4


class ClientLimit:
    """Make it before the fork; each worker then takes a slot. The lock guards its table against its own threads.

    Buckets of _WAYS keys and as many counts, chosen by the key; 0 is no key. An entry is free when its count is 0.
    """

    def __init__(self, limit: int, capacity: int, workers: int = 1) -> None:
        """At most `limit` connections of one client; each worker has room for `capacity` clients."""
        self.limit = limit
        self._buckets = -(-_SPARE * capacity // _WAYS)
        self._length = self._buckets * 2 * _WAYS
        # Pages that are never touched take no memory.
        self._cells = memoryview(mmap.mmap(-1, 8 * self._length * workers)).cast("q")
        # The slots that a worker has had.
        self._taken = memoryview(mmap.mmap(-1, workers))
        self._workers = workers
        self._slot = 0
        self._lock = threading.Lock()
        # So that a client cannot choose addresses of one bucket.
        self._secret = os.urandom(8)

    def take_slot(self, slot: int) -> None:
        """Count for one worker from now on, from zero: its predecessor may have died."""
        self._slot = slot
        if self._taken[slot]:
            start, stop = slot * self._length, (slot + 1) * self._length
            self._cells[start:stop] = memoryview(bytes(8 * self._length)).cast("q")
        self._taken[slot] = 1

    def key(self, address: IPAddress) -> int:
        """The key of a client: an IPv4 address, or the first 64 bits of an IPv6 address, which belong to one site."""
        return hash((self._secret, address.packed[:8])) or 1

    def enter(self, key: int) -> int | None:
        """Count one more. Returns the excess over the limit; None where the key cannot be counted."""
        with self._lock:
            bucket = self._bucket(self._slot, key)
            keys, counts = bucket[:_WAYS].tolist(), bucket[_WAYS:].tolist()
            if key in keys:
                place = keys.index(key)
            elif 0 in counts:
                place = counts.index(0)
                bucket[place] = key
            else:
                return None
            bucket[_WAYS + place] += 1
        return self.count(key) - self.limit

    def leave(self, key: int) -> None:
        with self._lock:
            bucket = self._bucket(self._slot, key)
            bucket[_WAYS + bucket[:_WAYS].tolist().index(key)] -= 1

    def count(self, key: int) -> int:
        total = 0
        for slot in range(self._workers):
            bucket = self._bucket(slot, key)
            keys = bucket[:_WAYS].tolist()
            if key in keys:
                total += bucket[_WAYS + keys.index(key)]
        return total

    def _bucket(self, slot: int, key: int) -> memoryview:
        start = slot * self._length + key % self._buckets * 2 * _WAYS
        return self._cells[start : start + 2 * _WAYS]
