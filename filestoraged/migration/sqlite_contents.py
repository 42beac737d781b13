"""The databases in the directory of a store. The source's are read as the check reads them: without changing them."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from filestoraged.check.databases import describe, query
from filestoraged.errors import CheckError, Error, StorageFull
from filestoraged.migration.contents import (
    DROPS,
    LOCK_IDS,
    LOCKS,
    PAIRS,
    QUEUE,
    Contents,
    DropRow,
    EmptyReader,
    Reader,
    Row,
    Writer,
)
from filestoraged.store import layout
from filestoraged.store.drop_tables import DROPS_SCHEMA, prepare_drops
from filestoraged.store.kv import KEYS_SCHEMA, prepare_keys
from filestoraged.store.locks import LOCKS_SCHEMA, prepare_locks
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.sqlite import database as sqlite
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.sqlite.group_commit import TransactionQueue

_Result = TypeVar("_Result")

# Rows of one call of SQLite: the source's are not held in memory together.
_BATCH = 500

# Pages of the log that a transaction of unknown size is taken for, so that the log is copied into the database.
_MANY_PAGES = 1_000_000


class _File(NamedTuple):
    name: str
    schema: Schema
    prepare: Callable[[str], None]
    # What `clear` executes.
    clear: Sequence[str]


_FILES = {
    "keys": _File(
        layout.KEYS_DATABASE,
        KEYS_SCHEMA,
        prepare_keys,
        ("DELETE FROM pairs", "DELETE FROM staged", "DELETE FROM queue", "UPDATE state SET is_visible = 0"),
    ),
    "drops": _File(layout.DROPS_DATABASE, DROPS_SCHEMA, prepare_drops, ("DELETE FROM drops",)),
    "locks": _File(layout.LOCKS_DATABASE, LOCKS_SCHEMA, prepare_locks, ("DELETE FROM locks",)),
}

_DROP_COLUMNS = "id, state, changed, created, owner, name, password, breaks"

# Staged pairs that are visible are in front of the others; those that are not were queued before the rest of the queue.
_SELECT = {
    PAIRS: "SELECT key, value FROM pairs WHERE NOT EXISTS (SELECT 1 FROM staged WHERE staged.key = pairs.key"
    " AND (SELECT is_visible FROM state)) UNION ALL SELECT key, value FROM staged WHERE value IS NOT NULL"
    " AND (SELECT is_visible FROM state) ORDER BY key",
    QUEUE: "SELECT row_number() OVER (ORDER BY id), key, value FROM (SELECT 0 AS id, key, value FROM staged"
    " WHERE NOT (SELECT is_visible FROM state) UNION ALL SELECT id, key, value FROM queue) ORDER BY 1",
    DROPS: f"SELECT {_DROP_COLUMNS} FROM drops ORDER BY id",
    LOCKS: "SELECT id, repository, path, owner, created FROM locks ORDER BY id",
    LOCK_IDS: "SELECT 'last', seq FROM sqlite_sequence WHERE name = 'locks'",
}
_INSERT = {
    PAIRS: "INSERT INTO pairs (key, value) VALUES (?, ?)",
    QUEUE: "INSERT INTO queue (id, key, value) VALUES (?, ?, ?)",
    DROPS: f"INSERT INTO drops ({_DROP_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    LOCKS: "INSERT INTO locks (id, repository, path, owner, created) VALUES (?, ?, ?, ?, ?)",
}
_SELECT_DROPS_AFTER = f"SELECT {_DROP_COLUMNS} FROM drops WHERE id > ? ORDER BY id LIMIT ?"

_MAKE_RECORD = "CREATE TABLE IF NOT EXISTS migration (id INTEGER PRIMARY KEY CHECK (id = 1), fingerprint TEXT NOT NULL)"


class SqliteContents(Contents):
    def __init__(self, root: str) -> None:
        """`root` is the directory of the store."""
        self._root = os.path.abspath(root)
        self._owners = OwnerFiles(f"{self._root}/{layout.DROP_OWNERS}")

    def read(self, database: str, function: Callable[[Reader], _Result]) -> _Result:
        file = _FILES[database]
        path = f"{self._root}/{file.name}"

        def read(connection: sqlite3.Connection) -> _Result:
            connection.execute("BEGIN")
            return function(_reader(connection, path, file.schema))

        try:
            return query(path, read)
        except FileNotFoundError:
            return function(EmptyReader())
        except (sqlite3.Error, OSError, Error) as error:
            raise _read_failure(path, error) from error

    def write(self, database: str, function: Callable[[Writer], _Result]) -> _Result:
        file = _FILES[database]
        path = f"{self._root}/{file.name}"
        try:
            file.prepare(path)
            target = _Database(path, file.schema)
            try:
                return target.replace(lambda connection: function(_Writer(connection, file.clear)))
            finally:
                target.close()
        except (sqlite3.Error, OSError, Error) as error:
            raise _write_failure(path, error) from error

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
            self._write_lock.acquire_within(sqlite.BUSY_TIMEOUT),
            self._transaction(self._write_lock.committing()) as connection,
        ):
            self._pages = _MANY_PAGES
            result = function(connection)
        with self._write_lock.acquire_within(sqlite.BUSY_TIMEOUT):
            self.maintain()
        return result


class _SqliteReader(Reader):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, table: str) -> Iterator[Row]:
        return iter(self._connection.execute(_SELECT[table]))

    def drops_after(self, id_: str, limit: int) -> list[DropRow]:
        return [DropRow(*row) for row in self._connection.execute(_SELECT_DROPS_AFTER, (id_, limit))]


class _Writer(_SqliteReader, Writer):
    def __init__(self, connection: sqlite3.Connection, clear: Sequence[str]) -> None:
        super().__init__(connection)
        self._clear = clear

    def clear(self) -> None:
        for statement in self._clear:
            self._connection.execute(statement)

    def insert(self, table: str, rows: Iterable[Row]) -> None:
        if table == LOCK_IDS:
            for _, last in rows:
                self._continue_lock_ids(last)
            return
        iterator = iter(rows)
        while batch := list(itertools.islice(iterator, _BATCH)):
            self._connection.executemany(_INSERT[table], batch)

    def fingerprint(self) -> str | None:
        self._connection.execute(_MAKE_RECORD)
        row: Any = self._connection.execute("SELECT fingerprint FROM migration").fetchone()
        return None if row is None else str(row[0])

    def record(self, fingerprint: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO migration VALUES (1, ?)", (fingerprint,))

    def _continue_lock_ids(self, last: int) -> None:
        """Give later locks ids above `last`, as the source would."""
        self._connection.execute("DELETE FROM sqlite_sequence WHERE name = 'locks'")
        self._connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('locks', ?)", (last,))


def _reader(connection: sqlite3.Connection, path: str, schema: Schema) -> Reader:
    """Raises CheckError for a database that this program's daemon cannot have written last."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not application and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        return EmptyReader()
    if application != schema.application:
        raise CheckError(f"the database {path!r} belongs to another program")
    if version != schema.version:
        raise CheckError(
            f"the database {path!r} has version {version}, and this program's is {schema.version};"
            " start the daemon of this version on it first"
        )
    return _SqliteReader(connection)


def _read_failure(path: str, error: Exception) -> CheckError:
    return error if isinstance(error, CheckError) else CheckError(f"cannot read {path!r}: {describe(error)}")


def _write_failure(path: str, error: Exception) -> CheckError:
    if isinstance(error, CheckError):
        return error
    known = error if isinstance(error, Error) else sqlite.failure(error, path)
    if isinstance(known, StorageFull):
        return CheckError("the target is full; make room there, and run this again to continue")
    return CheckError(f"cannot write {path!r}: {describe(error)}")
