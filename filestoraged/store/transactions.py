"""What drops and locks need of a database: queries, and functions that run within transactions.

SQLite and PostgreSQL implement it, so there is one engine over two dialects. Statements are SQL that both understand,
with `?` for values. `epoch()` is the time by the database's clock, in seconds since 1970, `epoch_second()` its integer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from filestoraged.errors import Error
from filestoraged.future import Future
from filestoraged.store.batch_writer import BatchWriter

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

    def free(self, function: Callable[[Transaction], _Result], /) -> Future[_Result]:
        """As `write`, for a change that makes room, or leads to that: on a full disk, it has the reserve."""

    def write_rows(self, statement: str, rows: Sequence[Sequence[object]], /) -> Future[None]:
        """Execute a statement with the values of each row."""

    def encode(self, text: str, /) -> Any:
        """A text that may have any character, as a value of a statement."""

    def decode(self, value: Any, /) -> str:
        """The text of a value that `encode` made."""

    def probe(self) -> None:
        """Check that the database can be written. Raises an Error or OSError."""

    def close(self) -> None:
        """The last of those who share it closes its connections."""


class Job(Future[Any]):
    """A function that waits for its transaction. It is the future of its caller."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[Transaction], Any]) -> None:
        super().__init__()
        self._function = function

    def run(self, transaction: Transaction) -> Any:
        """Return the result, or the Error that it has raised: it has then changed nothing."""
        try:
            return self._function(transaction)
        except Error as error:
            return error


class FreeingJob(Job):
    """One that makes room."""

    __slots__ = ()


class JobQueue:
    """The part of `Transactions` that queues jobs for the one writer that a process has for a database."""

    _writer: BatchWriter[Job]

    def write(self, function: Callable[[Transaction], _Result], /) -> Future[_Result]:
        job = Job(function)
        self._writer.submit(job)
        return job

    def free(self, function: Callable[[Transaction], _Result], /) -> Future[_Result]:
        job = FreeingJob(function)
        self._writer.submit(job)
        return job

    def write_rows(self, statement: str, rows: Sequence[Sequence[object]], /) -> Future[None]:
        def execute(transaction: Transaction) -> None:
            transaction.executemany(statement, rows)

        return self.write(execute)


class Users:
    """Counts who shares a database that the last of them closes. Any thread calls it."""

    def __init__(self) -> None:
        self._number = 1
        self._lock = threading.Lock()

    def add(self) -> bool:
        """Returns False if the last one has left."""
        with self._lock:
            self._number += self._number > 0
            return self._number > 0

    def remove(self) -> bool:
        """Returns whether it was the last one."""
        with self._lock:
            self._number -= 1
            return self._number == 0


class ServiceTables:
    """What a service keeps in tables of a database, which others may share. Any thread calls it."""

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions

    @property
    def is_remote(self) -> bool:
        """Whether queries wait for another machine."""
        return self.transactions.is_remote

    def probe(self) -> None:
        """Check that the database can be written. Raises an Error or OSError."""
        self.transactions.probe()

    def close(self) -> None:
        self.transactions.close()


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
