"""The rows of a service's databases, whichever database keeps them: read at one moment, and replaced at once.

A database is `keys`, `drops` or `locks`. Each of its tables yields rows of Python's plain values in the order of their
first one, so that two sides can be compared row by row, and a table may be larger than memory.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

_Result = TypeVar("_Result")

Row = tuple[Any, ...]

# The tables of each database.
PAIRS, QUEUE, DROPS, LOCKS, LOCK_IDS = "pairs", "queue", "drops", "locks", "lock_ids"
DATABASES = {"keys": (PAIRS, QUEUE), "drops": (DROPS,), "locks": (LOCKS, LOCK_IDS)}


class DropRow(NamedTuple):
    """A row of DROPS. Times are seconds since 1970."""

    id: str
    state: int
    changed: float
    created: float
    # The process that uploads it or has claimed it.
    owner: str | None
    name: str | None
    password: bytes | None
    breaks: int


class Reader(ABC):
    """One database at one moment. One thread uses it."""

    @abstractmethod
    def rows(self, table: str) -> Iterator[Row]:
        """All rows of a table, in the order of their first value."""

    @abstractmethod
    def drops_after(self, id_: str, limit: int) -> list[DropRow]:
        """At most `limit` rows of DROPS whose ids sort after `id_`, in their order."""


class Writer(Reader):
    """One database within a transaction that nobody else reads or writes."""

    @abstractmethod
    def clear(self) -> None:
        """Delete all rows of the database."""

    @abstractmethod
    def insert(self, table: str, rows: Iterable[Row]) -> None:
        """Insert rows, after `clear`. That of LOCK_IDS is the last id that was used."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """What the last migration recorded, None if there was none."""

    @abstractmethod
    def record(self, fingerprint: str) -> None:
        """Keep a fingerprint for the next migration."""


class Contents(ABC):
    """The databases of one service. Functions that it calls may be called again, from the beginning."""

    @abstractmethod
    def read(self, database: str, function: Callable[[Reader], _Result]) -> _Result:
        """Call a function with the rows of a database at one moment. Raises CheckError."""

    @abstractmethod
    def write(self, database: str, function: Callable[[Writer], _Result]) -> _Result:
        """Call a function within one transaction, which is durable afterwards. Raises CheckError."""

    @abstractmethod
    def is_alive(self, owner: str | None) -> bool:
        """Whether the process that uploads a drop, or has claimed it, is alive."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources."""


class EmptyReader(Reader):
    """Stands for a database that no daemon has made."""

    def rows(self, table: str) -> Iterator[Row]:
        return iter(())

    def drops_after(self, id_: str, limit: int) -> list[DropRow]:
        return []


def fingerprint_of(reader: Reader, database: str) -> str:
    """A digest of all rows of a database."""
    hash_ = hashlib.sha256()
    for table in DATABASES[database]:
        hash_.update(table.encode())
        for row in reader.rows(table):
            hash_.update(repr(row).encode("utf-8", "surrogatepass"))
    return hash_.hexdigest()


def is_empty(reader: Reader, database: str) -> bool:
    return not any(True for table in DATABASES[database] for _ in reader.rows(table))
