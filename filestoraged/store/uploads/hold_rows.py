"""Holds by rows of a database that daemons on several machines share.

The row of an upload in `upload_holds` names its holder: a generation, and the token of the process. Every change of a
holder is one transaction that begins with a condition, that the generation is still its own. So a holder that was
stopped, or cut off from the database, changes nothing after another one has taken the upload over, whatever it has
sent to the S3 store meanwhile. The time of the last sign of activity is that of the database's clock. `remote_storage`
makes holds.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator

from filestoraged.clock import Clock
from filestoraged.errors import Error, StoreUnavailable, UploadLocked
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


def _nothing(_: Transaction) -> None:
    pass
