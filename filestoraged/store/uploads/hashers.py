"""Hashes of unfinished uploads, kept between two requests: the state of a hash cannot be stored.

They stay with the process that received the last bytes. Another one reads the bytes again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from filestoraged.store.hashing import OverlappedHasher

# Uploads between two requests; each takes about 2 KiB. The bytes of others are read again at their end.
MAX_HASHERS = 1000


class PositionedHasher:
    """A hasher, and how many bytes it has hashed."""

    def __init__(self, hasher: OverlappedHasher, position: int = 0) -> None:
        self.hasher = hasher
        self.position = position


class Hashers:
    """By the ids of uploads. Any thread calls it; the lock guards the table."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, PositionedHasher] = OrderedDict()
        self._lock = threading.Lock()

    def pop(self, id_: str) -> PositionedHasher | None:
        """Return the hasher of an upload to its holder, who puts it back or not."""
        with self._lock:
            return self._kept.pop(id_, None)

    def put(self, id_: str, hasher: PositionedHasher) -> None:
        # Its thread would wait for more.
        hasher.hasher.pause()
        with self._lock:
            self._kept[id_] = hasher
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
