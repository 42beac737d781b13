"""What drops and locks need of a database: queries, and functions that run within transactions.

SQLite and PostgreSQL implement it, so there is one engine over two dialects. Statements are SQL that both understand,
with `?` for values. `epoch()` is the time by the database's clock, in seconds since 1970, `epoch_second()` its integer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from filestoraged.future import Future

_Result = TypeVar("_Result")


class Cursor(Protocol):
    """The result of one statement."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(Protocol):
    """A transaction in progress, which several jobs share. One thread uses it."""

    # Follows a query of rows that are to be changed: rows that another transaction is changing are left out, so that
    # transactions that claim the same rows in different orders do not wait for each other.
    skip_locked: str

    def execute(self, statement: str, values: Sequence[object] = (), /) -> Cursor: ...

    def executemany(self, statement: str, rows: Sequence[Sequence[object]], /) -> object: ...

    def insert(self, statement: str, values: Sequence[object], /) -> int | None:
        """Execute an INSERT of at most one row. Returns its `rowid`, None if none was inserted."""

    def serialize(self, name: str, /) -> None:
        """Wait until no other transaction that has called this with the same name is in progress."""


class Transactions(Protocol):
    """A database. Any thread calls it.

    A result of `write` means that the change is durable. An error whose meaning is Unavailable may come after a change
    that was made all the same: the connection was lost while it was committed.
    """

    # Whether a query waits for another machine.
    is_remote: bool

    def read(self, statement: str, /, *values: Any) -> list[Any]:
        """All rows of a query. Raises an Error."""

    def write(self, function: Callable[[Transaction], _Result], /) -> Future[_Result]:
        """Call `function` within a transaction that other jobs share. If it raises an Error, it has changed nothing.

        It may be called again after a transaction that was rolled back. Raises StoreUnavailable if it cannot be queued.
        """

    def write_rows(self, statement: str, rows: Sequence[Sequence[object]], /) -> Future[None]:
        """Execute a statement with the values of each row."""

    def encode(self, text: str, /) -> Any:
        """A text that may have any character, as a value of a statement."""

    def decode(self, value: Any, /) -> str:
        """The text of a value that `encode` made."""

    def probe(self) -> None:
        """Check that the database can be written. Raises an Error or OSError."""

    def close(self) -> None: ...


class Owners(Protocol):
    """The processes that share a database, by tokens. Any thread calls it."""

    def prepare(self) -> None:
        """Called before a job that uses `token` is queued. Raises OSError."""

    @property
    def token(self) -> str:
        """This process's token. Called within a transaction."""

    def is_alive(self, token: str, /) -> bool:
        """Whether the process with that token may still do what it has begun. Raises an Error or OSError."""

    def sweep(self) -> None:
        """Remove what dead processes have left."""
