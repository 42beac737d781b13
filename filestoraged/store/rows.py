"""How rows leave a database and enter another one, whichever keeps them. Each store declares its own tables.

Rows are tuples of Python's plain values, in the order of their first one, so that two databases can be compared row by
row, and a table may be larger than memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from filestoraged.store.sqlite.database import Schema

_Result = TypeVar("_Result")

Row = tuple[Any, ...]


class Table(NamedTuple):
    """A table, with what SQLite and PostgreSQL do not have in common."""

    name: str
    # The first identifies a row.
    columns: str
    # The rows, where they are not all those of the table.
    sqlite_query: str = ""
    postgresql_query: str = ""
    # PostgreSQL's `text` cannot hold all characters: a row of its values, and back.
    postgresql_columns: str = ""
    encode: Callable[[Row], Sequence[object]] = tuple
    decode: Callable[[Row], Row] = tuple
    # The table whose ids are never used again: the one row has the last of them.
    ids_of: str = ""

    @property
    def key(self) -> str:
        return self.columns.partition(",")[0]

    @property
    def query(self) -> str:
        """All rows, by the plain columns."""
        return f"SELECT {self.columns} FROM {self.name} ORDER BY {self.key}"

    @property
    def page_query(self) -> str:
        """At most so many rows whose key is above a value."""
        return f"SELECT {self.columns} FROM {self.name} WHERE {self.key} > ? ORDER BY {self.key} LIMIT ?"


class RowGroup(NamedTuple):
    """The tables of one service. `file` is its SQLite database, in the directory of a store."""

    name: str
    # The first is the one whose rows are counted for reports.
    tables: Sequence[Table]
    file: str
    schema: Schema
    # Statements that remove what other tables of the SQLite database have of the rows.
    sqlite_clear: Sequence[str] = ()
    # The same of either database; and statements that fill such tables from the rows, once those are inserted.
    clear: Sequence[str] = ()
    derive: Sequence[str] = ()

    @property
    def stored(self) -> Sequence[Table]:
        """Those that are tables of the database."""
        return [table for table in self.tables if not table.ids_of]


class RowReader(ABC):
    """The rows of a group at one moment. One thread uses it."""

    @abstractmethod
    def rows(self, table: Table) -> Iterator[Row]:
        """All rows of a table, in the order of their first value."""

    @abstractmethod
    def page(self, table: Table, after: str, limit: int) -> list[Row]:
        """At most `limit` rows of a table whose first value sorts after another, in their order."""


class RowWriter(RowReader):
    """A group within a transaction that nobody else reads or writes."""

    @abstractmethod
    def clear(self) -> None:
        """Delete all rows of the group."""

    @abstractmethod
    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        """Insert rows, after `clear`."""

    @abstractmethod
    def derive(self) -> None:
        """Fill what follows from the rows, after `insert`."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """What the last migration recorded, None if there was none."""

    @abstractmethod
    def record(self, fingerprint: str) -> None:
        """Keep a fingerprint for the next migration."""


class RowStore(ABC):
    """The groups of one daemon. Functions that it calls may be called again, from the beginning."""

    @abstractmethod
    def read(self, group: RowGroup, function: Callable[[RowReader], _Result]) -> _Result:
        """Call a function with the rows of a group at one moment. Raises CheckError."""

    @abstractmethod
    def write(self, group: RowGroup, function: Callable[[RowWriter], _Result]) -> _Result:
        """Call a function within one transaction, which is durable afterwards. Raises CheckError."""

    @abstractmethod
    def is_alive(self, owner: str | None) -> bool:
        """Whether the process that uploads a drop, or has claimed it, is alive."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources."""


class EmptyReader(RowReader):
    """Stands for a database that no daemon has made."""

    def rows(self, table: Table) -> Iterator[Row]:
        return iter(())

    def page(self, table: Table, after: str, limit: int) -> list[Row]:
        return []


class RowCheck(NamedTuple):
    """How the rows of a table in PostgreSQL are checked. `first` precedes all values of the column `key`."""

    table: str
    key: str
    first: Any
    # Names a row in a finding, without secrets.
    label: str
    # The bytes of a row, by an expression that reads all of them.
    size: str
    # A row for which this is false is damaged.
    condition: str
    reason: str


def encoded(text: str | None) -> bytes | None:
    """A text as a column of bytes has it, which may hold any character."""
    return None if text is None else text.encode("utf-8", "surrogatepass")


def decoded(value: Any) -> Any:
    """The text, or None, of a value that `encoded` made."""
    return None if value is None else bytes(value).decode("utf-8", "surrogatepass")
