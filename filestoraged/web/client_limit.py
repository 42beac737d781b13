"""The limit of connections per client, over all workers: counts by address in shared memory.

Each worker has a row of its own. A count is the sum over all rows; it may be off by one for a moment while other
workers change theirs.
"""

from __future__ import annotations

import os
import threading

from filestoraged.shared_table import SharedTable, clear
from filestoraged.web.trusted_proxies import IPAddress

# A key can be in one of 16 entries, and there are four times as many entries as clients. All 16 are taken for less than
# one key in a million; its client is then not counted.
_WAYS = 16
_SPARE = 4


class ClientLimit:
    """Make it before the fork; each worker then takes a slot. The lock guards the row of this worker.

    A row is an array of buckets of _WAYS keys and as many counts. The key selects the bucket; 0 is not a key. An entry
    with count 0 is free. The last cell is 1 when a worker has taken the slot.
    """

    def __init__(self, limit: int, capacity: int, workers: int = 1) -> None:
        """Allow `limit` connections per client. The row of each worker is for `capacity` clients."""
        self.limit = limit
        self._buckets = -(-_SPARE * capacity // _WAYS)
        self._table = SharedTable(workers, self._buckets * 2 * _WAYS + 1)
        self._slot = 0
        self._lock = threading.Lock()
        # Without a secret, a client could choose addresses that share a bucket.
        self._secret = os.urandom(8)

    def take_slot(self, slot: int) -> None:
        """Count in that slot from now on, from zero: a worker that died may have left counts in it."""
        self._slot = slot
        row = self._table.row(slot)
        # Clearing a new one would make the kernel allocate it.
        if row[-1]:
            clear(row)
        row[-1] = 1

    def key(self, address: IPAddress) -> int:
        """The key of a client: an IPv4 address, or the first 64 bits of an IPv6 address, which belong to one site."""
        return hash((self._secret, address.packed[:8])) or 1

    def enter(self, key: int) -> int | None:
        """Count one more connection. Returns the excess over the limit, or None if its bucket is full."""
        with self._lock:
            bucket = self._bucket(self._slot, key)
            keys, counts = bucket[:_WAYS].tolist(), bucket[_WAYS:].tolist()
            if key in keys:
                index = keys.index(key)
            elif 0 in counts:
                index = counts.index(0)
                bucket[index] = key
            else:
                return None
            bucket[_WAYS + index] += 1
        return self.count(key) - self.limit

    def leave(self, key: int) -> None:
        with self._lock:
            bucket = self._bucket(self._slot, key)
            bucket[_WAYS + bucket[:_WAYS].tolist().index(key)] -= 1

    def count(self, key: int) -> int:
        total = 0
        for slot in range(self._table.rows):
            bucket = self._bucket(slot, key)
            keys = bucket[:_WAYS].tolist()
            if key in keys:
                total += bucket[_WAYS + keys.index(key)]
        return total

    def _bucket(self, slot: int, key: int) -> memoryview:
        start = key % self._buckets * 2 * _WAYS
        return self._table.row(slot)[start : start + 2 * _WAYS]
