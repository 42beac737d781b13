"""What keeps the bytes of unfinished uploads, and knows who adds to them: the promises of every kind of storage.

`local_storage` has files in the store's directory. `remote_storage` has objects in an S3 store, and rows in a database
of several machines. Which one it is, is chosen where the daemon is wired; nothing else asks.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from filestoraged.digest import Bytes
from filestoraged.store.contract import Staging, Store
from filestoraged.store.hashing import OverlappedHasher
from filestoraged.store.transactions import Transaction

# Seconds without a byte after which another request takes an upload over.
SILENCE = 5.0

# A change of an upload's row, within a transaction.
Change = Callable[[Transaction], object]


def joined(changes: Sequence[Change]) -> Change:
    """All of the changes, in their order."""

    def change(transaction: Transaction) -> None:
        for each in changes:
            each(transaction)

    return change


class Tail(enum.IntEnum):
    """What becomes of the bytes that a holder has not recorded, when its hold is taken over."""

    CUT_OFF = 0
    # They count where the next holder can read them.
    COUNTS = 1
    # There is none, and the hold cannot be taken over while its process works: it makes an object of all bytes.
    NONE = 2


class Hold(Protocol):
    """The right of one request to add to an upload: in all workers and daemons, no other request has it.

    A hold ends with its process, or is taken over when it was silent for too long: a connection that is cut without a
    word looks alive until the kernel gives it up, and its client is back long before. What the old holder does
    afterwards changes nothing. One thread at a time calls it.
    """

    def change(self, change: Change, /) -> None:
        """Change the row durably. Raises UploadLocked where another request has taken the upload over."""

    def confirm(self) -> None:
        """Raises UploadLocked where another request has taken the upload over."""

    def set_tail(self, tail: Tail, /) -> None: ...

    def end(self, change: Change | None = None, /) -> None:
        """The upload has come to its end, and has no bytes: make a last change. No hold follows."""

    def close(self) -> None:
        """Release the hold, unless another request has it by now. A second call does nothing."""


class UploadContent(Protocol):
    """The bytes of an upload, as its holder sees them. One thread at a time calls it.

    The invariant: no byte is promised before it is durable, and none that was promised is changed.
    """

    # Bytes that have arrived.
    size: int

    def open(self, recorded: int, /) -> None:
        """Begin to add, behind so many bytes that were promised, or more if `Tail` lets them count.

        Raises Gone where promised bytes are missing.
        """

    def append(self, data: Bytes, /) -> None:
        """Raises UploadLocked, an Error of the storage, and OSError."""

    def record(self, change: Change, /) -> None:
        """Make all bytes durable, then promise them by `change`. After an error nothing more can be recorded."""

    def cut(self, size: int, change: Change, /) -> None:
        """Forget the bytes behind the first `size`, after `change` has taken back what the row promised of them."""

    @property
    def holds_all(self) -> bool:
        """Whether an object can be made of the bytes before they are recorded: all have arrived in this hold."""

    def read(self, start: int, /) -> Iterator[bytes]:
        """The bytes from `start` on, in pieces. Raises Gone where some are missing."""

    def stage(self, store: Store, hasher: Callable[[], OverlappedHasher], /) -> Staging | None:
        """Stage all bytes in `store` without copying them, by a hasher that has hashed them.

        Returns None where they have to be copied.
        """

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left of the bytes when this request has ended, so that nothing is to be removed."""

    def remove(self) -> Change | None:
        """Remove the bytes, not durably: a row that is removed later leads to them until then.

        Returns the last change, for the end of the hold.
        """

    def close(self) -> None: ...


class Held(NamedTuple):
    """An upload that this request may add to."""

    hold: Hold
    content: UploadContent


class Storage(Protocol):
    """Any thread calls it."""

    # Whether other machines keep the bytes, so that each daemon reaches those of all.
    is_remote: bool

    def acquire(self, id_: str, /) -> Held:
        """Hold an upload. Raises UploadLocked, an Error of the storage, and OSError."""

    def is_held(self, id_: str, /) -> bool:
        """Whether a living process holds the upload, silent or not."""

    def may_have_bytes(self, id_: str, /) -> bool:
        """Whether the upload was ever held, and has not come to its end."""

    def has_bytes(self, id_: str, received: int, /) -> bool:
        """Whether so many bytes are there, as far as that can be told in passing."""

    def sweep(self) -> None:
        """Remove what dead processes have left."""
