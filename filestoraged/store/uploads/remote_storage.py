"""Unfinished uploads on other machines: bytes in an S3 store, holds and promises in a database that daemons share.

A daemon's disk has nothing of them that counts.
"""

from __future__ import annotations

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store.s3.segment_objects import SegmentObjects
from filestoraged.store.transactions import Owners, Transactions
from filestoraged.store.uploads.hold_rows import HoldRows
from filestoraged.store.uploads.segments import MAX_SEGMENT, Segments
from filestoraged.store.uploads.storage import SILENCE, Held


class RemoteStorage:
    """A `Storage`."""

    is_remote = True

    def __init__(
        self,
        transactions: Transactions,
        owners: Owners,
        objects: SegmentObjects,
        *,
        silence: float = SILENCE,
        max_segment: int = MAX_SEGMENT,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`owners` are the processes that share the database."""
        self._rows = HoldRows(transactions, owners, silence=silence, clock=clock)
        self._objects = objects
        self._max_segment = max_segment

    def acquire(self, id_: str) -> Held:
        hold, segments = self._rows.acquire(id_)
        return Held(hold, Segments(id_, hold, segments, objects=self._objects, max_size=self._max_segment))

    def is_held(self, id_: str) -> bool:
        return self._rows.is_held(id_)

    def may_have_bytes(self, id_: str) -> bool:
        return self._rows.may_have_bytes(id_)

    def has_bytes(self, id_: str, received: int) -> bool:
        """Whether the rows name them. `check` looks for the objects."""
        return self._rows.has_segments(id_)

    def sweep(self) -> None:
        """Processes leave nothing but rows, which the holders after them use."""
