"""Holds by rows of a database that daemons on several machines share; and which objects have an upload's bytes.

The row of an upload in `upload_holds` names its holder: a generation, and the token of the process. Every change of a
holder is one transaction that begins with a condition, that the generation is still its own. So a holder that was
stopped, or cut off from the database, changes nothing after another one has taken the upload over, whatever it has
sent to the S3 store meanwhile. The time of the last sign of activity is that of the database's clock.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from filestoraged.clock import Clock
from filestoraged.errors import Error, NotFound, StoreUnavailable, UploadLocked
from filestoraged.future import Future
from filestoraged.store.serial_executor import start_thread
from filestoraged.store.transactions import Owners, Transaction, Transactions
from filestoraged.store.uploads.storage import Change, Tail

log = logging.getLogger(__name__)

# Seconds between two signs that a holder is active.
_NOTE_INTERVAL = 1.0

# Numbers of segments for each generation. None is used twice, so that no holder replaces what another has stored. With
# a segment every 2 s, a request of 23 days would use them up.
_NUMBERS = 1_000_000

# Succeeds while the hold is the holder's own.
_NOTE = (
    "UPDATE upload_holds SET touched = epoch(), holder = ?, has_bytes = ?"
    " WHERE id = ? AND generation = ? AND holder IS NOT NULL"
)


class Segment(NamedTuple):
    """Bytes of an upload that are an object: `size` bytes from `start` on, with that SHA-256."""

    number: int
    start: int
    size: int
    digest: str


class _Holder(NamedTuple):
    generation: int
    token: str


_NOBODY = _Holder(-1, "")


class RowHold:
    """A `Hold`. Its own thread, or that of `busy`, reports activity."""

    def __init__(self, transactions: Transactions, owners: Owners, id_: str, generation: int, clock: Clock) -> None:
        self._transactions = transactions
        self._owners = owners
        self._id = id_
        self._generation = generation
        self._clock = clock
        # How many numbers of segments were used.
        self._numbered = 0
        self._noted = self._clock.now()
        self._noting: Future[None] | None = None
        # Set when the upload has become an object, or has not.
        self._is_over = threading.Event()
        self._is_closed = False

    @property
    def is_fresh(self) -> bool:
        """Whether it is the first hold of the upload, and has numbered no segment."""
        return self._generation == 1 and not self._numbered

    def change(self, change: Change) -> None:
        self._change(change).result()

    def confirm(self) -> None:
        self._change(_nothing).result()

    def set_tail(self, tail: Tail) -> None:
        """What is not recorded is in a file of this process, where no other holder can read it."""
        if tail is Tail.NONE:
            self._start_noting(self._is_over)

    def note_activity(self) -> None:
        """Raises UploadLocked where the note before this one has found that."""
        now = self._clock.now()
        if now - self._noted < _NOTE_INTERVAL:
            return
        self._noted = now
        noting = self._noting
        if noting is not None and not noting.done():
            return
        if noting is not None and isinstance(noting.exception(), UploadLocked):
            raise UploadLocked
        # Not waited for. A database that cannot be reached is noticed when bytes are recorded.
        self._noting = self._change(_nothing)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A block in which the request waits for other machines and not for its client. It is not silent meanwhile."""
        is_over = threading.Event()
        self._start_noting(is_over)
        try:
            yield
        finally:
            is_over.set()

    def next_number(self) -> int:
        """The number of a new segment."""
        if self._numbered == _NUMBERS:
            raise StoreUnavailable("The request has taken too long; retry with the next bytes.")
        self._numbered += 1
        return self._generation * _NUMBERS + self._numbered - 1

    def end(self, change: Change | None = None) -> None:
        self._is_over.set()
        try:
            self._change_if_held(change or _nothing, is_last=True).result()
        except UploadLocked:
            # A row that is gone needs no change.
            if change is not None:
                raise
        self._is_closed = True

    def close(self) -> None:
        self._is_over.set()
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._transactions.write(self._release).result()
        except Error as error:
            # Others take it over when it was silent for long enough.
            log.debug("cannot release an upload: %s", error)

    def _change(self, change: Change) -> Future[None]:
        return self._change_if_held(change, is_last=False)

    def _change_if_held(self, change: Change, *, is_last: bool) -> Future[None]:
        def change_if_held(transaction: Transaction) -> None:
            # The token anew: the session may be another one since it was acquired.
            holder, has_bytes = (None, 0) if is_last else (self._owners.token, 1)
            if transaction.execute(_NOTE, (holder, has_bytes, self._id, self._generation)).rowcount != 1:
                raise UploadLocked
            change(transaction)

        return self._transactions.write(change_if_held)

    def _release(self, transaction: Transaction) -> None:
        transaction.execute(
            "UPDATE upload_holds SET holder = NULL WHERE id = ? AND generation = ?", (self._id, self._generation)
        )

    def _start_noting(self, is_over: threading.Event) -> None:
        if start_thread(functools.partial(self._note_until, is_over), name="hold") is None:
            raise StoreUnavailable("The server cannot start a thread for the upload; retry later.")

    def _note_until(self, is_over: threading.Event) -> None:
        while not self._clock.wait(is_over, _NOTE_INTERVAL):
            try:
                self.confirm()
            except UploadLocked:
                return
            except Error as error:
                log.debug("cannot note that an upload is active: %s", error)


class HoldRows:
    """Makes holds, and reads and changes the table of segments. Any thread calls it."""

    def __init__(self, transactions: Transactions, owners: Owners, *, silence: float, clock: Clock) -> None:
        """`silence` is in seconds."""
        self._transactions = transactions
        self._owners = owners
        self._silence = silence
        self._clock = clock

    def acquire(self, id_: str) -> tuple[RowHold, Sequence[Segment]]:
        """Hold an upload. Returns its segments, too, in their order. Raises UploadLocked, and NotFound without one."""
        found = self._acquire(id_, _NOBODY)
        if isinstance(found, _Holder) and not self._is_alive(found):
            # Asked outside of the transaction, which others wait for.
            found = self._acquire(id_, found)
        if isinstance(found, _Holder):
            raise UploadLocked
        generation, segments = found
        return RowHold(self._transactions, self._owners, id_, generation, self._clock), segments

    def is_held(self, id_: str) -> bool:
        statement = "SELECT holder FROM upload_holds WHERE id = ? AND holder IS NOT NULL"
        return any(self._owners.is_alive(token) for (token,) in self._transactions.read(statement, id_))

    def may_have_bytes(self, id_: str) -> bool:
        return bool(self._transactions.read("SELECT 1 FROM upload_holds WHERE id = ? AND has_bytes = 1", id_))

    def has_segments(self, id_: str) -> bool:
        """Whether the segments of an upload have the bytes that its row promises, both as they are at one moment."""
        statement = (
            "SELECT 1 FROM uploads WHERE id = ? AND received ="
            " (SELECT coalesce(sum(size), 0) FROM upload_segments WHERE upload_segments.id = uploads.id)"
        )
        return bool(self._transactions.read(statement, id_))

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


def insertion(id_: str, segments: Sequence[Segment]) -> Change:
    """Objects have become segments of an upload."""
    rows = [(id_, *segment) for segment in segments]
    statement = "INSERT INTO upload_segments (id, number, start, size, digest) VALUES (?, ?, ?, ?, ?)"
    return lambda transaction: transaction.executemany(statement, rows)


def deletion(id_: str, start: int) -> Change:
    """The segments from `start` on are none any more."""
    return lambda transaction: transaction.execute(
        "DELETE FROM upload_segments WHERE id = ? AND start >= ?", (id_, start)
    )


def _nothing(_: Transaction) -> None:
    pass
