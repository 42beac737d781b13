"""Unfinished uploads on other machines: bytes in an S3 store, holds and promises in a database that daemons share.

A daemon's disk has nothing of them that counts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import NotFound, UploadLocked
from filestoraged.store.s3.segment_objects import SegmentObjects
from filestoraged.store.transactions import Owners, Transaction, Transactions
from filestoraged.store.uploads.hold_rows import RowHold
from filestoraged.store.uploads.segments import MAX_SEGMENT, Segment, Segments
from filestoraged.store.uploads.storage import SILENCE, Held


class _Holder(NamedTuple):
    generation: int
    token: str


_NOBODY = _Holder(-1, "")


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
        """`owners` are the processes that share the database. `silence` is in seconds, `max_segment` in bytes."""
        self._transactions = transactions
        self._owners = owners
        self._objects = objects
        self._silence = silence
        self._max_segment = max_segment
        self._clock = clock

    def acquire(self, id_: str) -> Held:
        """As the protocol says. Raises NotFound without an upload, too."""
        found = self._acquire(id_, _NOBODY)
        if isinstance(found, _Holder) and not self._is_alive(found):
            # Asked outside of the transaction, which others wait for.
            found = self._acquire(id_, found)
        if isinstance(found, _Holder):
            raise UploadLocked
        generation, segments = found
        hold = RowHold(self._transactions, self._owners, id_, generation, self._clock)
        return Held(hold, Segments(id_, hold, segments, objects=self._objects, max_size=self._max_segment))

    def is_held(self, id_: str) -> bool:
        statement = "SELECT holder FROM upload_holds WHERE id = ? AND holder IS NOT NULL"
        return any(self._owners.is_alive(token) for (token,) in self._transactions.read(statement, id_))

    def may_have_bytes(self, id_: str) -> bool:
        return bool(self._transactions.read("SELECT 1 FROM upload_holds WHERE id = ? AND has_bytes = 1", id_))

    def has_bytes(self, id_: str, received: int) -> bool:
        """Whether the segments have the bytes that the row promises, both as they are at one moment.

        `check` looks for the objects.
        """
        statement = (
            "SELECT 1 FROM uploads WHERE id = ? AND received ="
            " (SELECT coalesce(sum(size), 0) FROM upload_segments WHERE upload_segments.id = uploads.id)"
        )
        return bool(self._transactions.read(statement, id_))

    def sweep(self) -> None:
        """Processes leave nothing but rows, which the holders after them use."""

    def _acquire(self, id_: str, dead: _Holder) -> tuple[int, Sequence[Segment]] | _Holder:
        """Returns the generation of a new hold, and the segments; else who has it. The process of `dead` has ended."""

        def acquire(transaction: Transaction) -> tuple[int, Sequence[Segment]] | _Holder:
            token = self._owners.token
            taken = transaction.execute(
                "UPDATE upload_holds SET generation = generation + 1, holder = ?, touched = epoch(), has_bytes = 1"
                " WHERE id = ? AND (holder IS NULL OR (generation = ? AND holder = ?)"
                " OR abs(epoch() - touched) >= ?)",
                (token, id_, *dead, self._silence),
            )
            # Without an upload there is no hold: its row would stay.
            made = not taken.rowcount and transaction.execute(
                "INSERT INTO upload_holds (id, generation, holder, touched, has_bytes)"
                " SELECT id, 1, ?, epoch(), 1 FROM uploads WHERE id = ? ON CONFLICT (id) DO NOTHING",
                (token, id_),
            ).rowcount  # fmt: skip
            row = transaction.execute("SELECT generation, holder FROM upload_holds WHERE id = ?", (id_,)).fetchone()
            if row is None:
                raise NotFound("There is no upload with this id.")
            generation = int(row[0])
            if not taken.rowcount and not made:
                return _Holder(generation, row[1] or "")
            statement = "SELECT number, start, size, digest FROM upload_segments WHERE id = ? ORDER BY start"
            return generation, list(itertools.starmap(Segment, transaction.execute(statement, (id_,))))

        return self._transactions.write(acquire).result()

    def _is_alive(self, holder: _Holder) -> bool:
        # Without a token, it was released after the statement that could not acquire it: in PostgreSQL, the next one
        # sees what others have committed meanwhile.
        return bool(holder.token) and self._owners.is_alive(holder.token)
