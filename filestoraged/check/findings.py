"""What a check of a store comes upon, and how far it has got. It knows neither disks nor servers."""

from __future__ import annotations

import threading
from typing import NamedTuple

# Its bytes are not those that its name says, or cannot be had from the disk.
DAMAGED = "damaged"
# Nothing of ours would lie there under that name. It is never touched.
FOREIGN = "foreign"
# What a process that is gone was about to store.
HALF_MADE = "half-made"
# Bytes that nothing leads to: of no drop, or of no manifest.
ORPHANED = "orphaned"
# A drop that can be fetched, and has no bytes.
MISSING = "missing"
# The one who checks may not read it: nobody knows how it is.
UNREADABLE = "unreadable"

KINDS = (DAMAGED, FOREIGN, HALF_MADE, ORPHANED, MISSING, UNREADABLE)


class Finding(NamedTuple):
    """`path` is below the store, or a key of memcached. `remedy` says what was done about it, None for nothing."""

    kind: str
    path: str
    reason: str
    remedy: str | None = None


class CheckTotals:
    """How far a check has got. Many threads add to it, any reads; the lock guards each sum."""

    def __init__(self) -> None:
        self.objects = 0
        # In bytes, of objects that are being read as well.
        self.size = 0
        # How much there will be of both. None until it is known.
        self.all_objects: int | None = None
        self.all_size: int | None = None
        self._lock = threading.Lock()

    def add_object(self) -> None:
        with self._lock:
            self.objects += 1

    def add_size(self, size: int) -> None:
        with self._lock:
            self.size += size
