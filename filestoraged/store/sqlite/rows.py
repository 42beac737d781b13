"""The rows of a store's SQLite databases. They are read without changing them, and replaced by one transaction."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from filestoraged.command_errors import CheckError
from filestoraged.errors import Error, StorageFull
from filestoraged.store import layout
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.rows import EmptyReader, Row, RowGroup, RowReader, RowStore, RowWriter, Table
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.sqlite.reading import describe, query

_Result = TypeVar("_Result")

# Rows of one call of SQLite: the source's are not held in memory together.
_BATCH = 500

# Pages of the log that a transaction of unknown size is taken for, so that the log is copied into the database.
_MANY_PAGES = 1_000_000

_MAKE_RECORD = "CREATE TABLE IF NOT EXISTS migration (id INTEGER PRIMARY KEY CHECK (id = 1), fingerprint TEXT NOT NULL)"


class SqliteRowStore(RowStore):
    def __init__(self, root: str) -> None:
        """`root` is the directory of the store."""
        self._root = os.path.abspath(root)
        self._owners = OwnerFiles(f"{self._root}/{layout.DROP_OWNERS}")

    def read(self, group: RowGroup, function: Callable[[RowReader], _Result]) -> _Result:
        path = f"{self._root}/{group.file}"

        def read(connection: sqlite3.Connection) -> _Result:
            connection.execute("BEGIN")
            return function(_reader(connection, path, group))

        try:
            return query(path, read)
        except FileNotFoundError:
            return function(EmptyReader())
        except CheckError:
            raise
        except (sqlite3.Error, OSError, Error) as error:
            raise CheckError(f"cannot read {path!r}: {describe(error)}") from error

    def write(self, group: RowGroup, function: Callable[[RowWriter], _Result]) -> _Result:
        path = f"{self._root}/{group.file}"
        try:
            database.prepare(path, group.schema)
            with contextlib.closing(_Database(path, group.schema)) as target:
                return target.replace(lambda connection: function(_SqliteWriter(connection, group)))
        except CheckError:
            raise
        except (sqlite3.Error, OSError, Error) as error:
            known = error if isinstance(error, Error) else database.failure(error, path)
            if isinstance(known, StorageFull):
                raise CheckError("the target is full; make room there, and run this again to continue") from error
            raise CheckError(f"cannot write {path!r}: {describe(error)}") from error

    def is_alive(self, owner: str | None) -> bool:
        try:
            return owner is not None and self._owners.is_alive(owner)
        except OSError:
            # It may be.
            return True

    def close(self) -> None:
        pass


class _Database(TransactionQueue):
    """A database for one transaction of the calling thread, which may be long."""

    def replace(self, function: Callable[[sqlite3.Connection], _Result]) -> _Result:
        # Counted as a commit, even if no daemon is meant to read: what it has read before is not valid any longer.
        with (
            self._write_lock.acquire_within(database.BUSY_TIMEOUT),
            self._transaction(self._write_lock.committing()) as connection,
        ):
            self._pages = _MANY_PAGES
            result = function(connection)
        with self._write_lock.acquire_within(database.BUSY_TIMEOUT):
            self.maintain()
        return result


class _SqliteReader(RowReader):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, table: Table) -> Iterator[Row]:
        if table.ids_of:
            return iter(
                self._connection.execute("SELECT 'last', seq FROM sqlite_sequence WHERE name = ?", (table.ids_of,))
            )
        return iter(self._connection.execute(table.sqlite_query or table.query))

    def page(self, table: Table, after: str, limit: int) -> list[Row]:
        return self._connection.execute(table.page_query, (after, limit)).fetchall()


class _SqliteWriter(_SqliteReader, RowWriter):
    def __init__(self, connection: sqlite3.Connection, group: RowGroup) -> None:
        super().__init__(connection)
        self._group = group

    def clear(self) -> None:
        group = self._group
        for statement in (*(f"DELETE FROM {each.name}" for each in group.stored), *group.sqlite_clear, *group.clear):
            self._connection.execute(statement)

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        if table.ids_of:
            for _, last in rows:
                self._continue_ids(table.ids_of, last)
            return
        marks = ", ".join("?" * len(table.columns.split(",")))
        iterator = iter(rows)
        while batch := list(itertools.islice(iterator, _BATCH)):
            self._connection.executemany(f"INSERT INTO {table.name} ({table.columns}) VALUES ({marks})", batch)

    def derive(self) -> None:
        for statement in self._group.derive:
            self._connection.execute(statement)

    def fingerprint(self) -> str | None:
        self._connection.execute(_MAKE_RECORD)
        row: Any = self._connection.execute("SELECT fingerprint FROM migration").fetchone()
        return None if row is None else str(row[0])

    def record(self, fingerprint: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO migration VALUES (1, ?)", (fingerprint,))

    def _continue_ids(self, table: str, last: int) -> None:
        """Give later rows ids above `last`, as the source would."""
        self._connection.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, last))


def _reader(connection: sqlite3.Connection, path: str, group: RowGroup) -> RowReader:
    """Raises CheckError for a database that this program's daemon cannot have written last."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not application and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return EmptyReader()
    if application != group.schema.application:
        raise CheckError(f"the database {path!r} belongs to another program")
    if version != group.schema.version:
        raise CheckError(
            f"the database {path!r} has version {version}, and this program's is {group.schema.version};"
            " start the daemon of this version on it first"
        )
    return _SqliteReader(connection)
