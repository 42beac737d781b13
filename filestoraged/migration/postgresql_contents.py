"""The databases in PostgreSQL. It is loaded where a configuration names one."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import psycopg

from filestoraged.errors import CheckError, Error, StorageFull, StoreUnavailable
from filestoraged.migration.contents import (
    DROPS,
    LOCK_IDS,
    LOCKS,
    PAIRS,
    QUEUE,
    Contents,
    DropRow,
    Reader,
    Row,
    Writer,
)
from filestoraged.store.postgresql.connection import Connection, Connector, Readers
from filestoraged.store.postgresql.failures import failure
from filestoraged.store.postgresql.transactions import lock_number
from filestoraged.store.postgresql.url import DatabaseAddress

_Result = TypeVar("_Result")

# Seconds for one database. A server that is gone is noticed by the kernel in seconds.
_TIMEOUT = 24 * 3600.0

# One transaction may be long, and wait for the other side. But it does not wait for a daemon that holds a lock.
_SETTINGS = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '10s'"

# Rows that the server sends at a time, in 1 MiB at most each.
_BATCH = 500

_DROP_COLUMNS = "id, state, changed, created, owner, name, password, breaks"
_LOCK_COLUMNS = "id, repository, path, owner, created"

_TABLES = {"keys": ("pairs", "queue"), "drops": ("drops",), "locks": ("locks",)}

_SELECT = {
    PAIRS: "SELECT key, value FROM pairs ORDER BY key",
    QUEUE: "SELECT row_number() OVER (ORDER BY id), key, value FROM queue ORDER BY id",
    DROPS: f"SELECT {_DROP_COLUMNS} FROM drops ORDER BY id",
    LOCKS: f"SELECT {_LOCK_COLUMNS} FROM locks ORDER BY id",
    LOCK_IDS: "SELECT 'last', last_value FROM locks_id_seq WHERE is_called",
}
_SELECT_DROPS_AFTER = f"SELECT {_DROP_COLUMNS} FROM drops WHERE id > %s ORDER BY id LIMIT %s"

_MAKE_RECORD = "CREATE TABLE IF NOT EXISTS migration (database text PRIMARY KEY, fingerprint text NOT NULL)"


class _Copy(NamedTuple):
    """How rows enter a table. COPY sets columns that are generated otherwise."""

    columns: str
    convert: Callable[[Row], Sequence[object]]


class PostgresContents(Contents):
    def __init__(self, address: DatabaseAddress) -> None:
        self._description = address.description
        self._connector = Connector(address)
        self._readers = Readers(self._connector, 1)

    def read(self, database: str, function: Callable[[Reader], _Result]) -> _Result:
        with self._failures("read"), self._connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return function(_PostgresReader(connection))

    def write(self, database: str, function: Callable[[Writer], _Result]) -> _Result:
        with self._failures("write"), self._connection() as connection, connection.transaction():
            connection.execute(f"LOCK TABLE {', '.join(_TABLES[database])} IN SHARE ROW EXCLUSIVE MODE")
            return function(_PostgresWriter(connection, database))

    def is_alive(self, owner: str | None) -> bool:
        if owner is None:
            return False
        with self._failures("read"):
            # Held until the end of this statement.
            ((is_free,),) = self._readers.all("SELECT pg_try_advisory_xact_lock(%s)", (lock_number(owner),))
        return not is_free

    def close(self) -> None:
        self._readers.close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        with contextlib.closing(self._connector.connect(_TIMEOUT)) as connection:
            connection.deadline = time.monotonic() + _TIMEOUT
            connection.execute(_SETTINGS)
            yield connection

    @contextlib.contextmanager
    def _failures(self, verb: str) -> Iterator[None]:
        """Raise CheckError for errors of the database."""
        try:
            yield
        except CheckError:
            raise
        except (psycopg.Error, Error) as error:
            known = failure(error)
            if isinstance(known, StorageFull):
                raise CheckError("the target is full; make room there, and run this again to continue") from error
            verb = "reach" if isinstance(known, StoreUnavailable) else verb
            raise CheckError(f"cannot {verb} the database {self._description}: {known.__cause__ or known}") from error


class _PostgresReader(Reader):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, table: str) -> Iterator[Row]:
        # A cursor of the server's: the rows are not held in memory together.
        with self._connection.cursor(name=f"migration_{table}") as cursor:
            cursor.itersize = _BATCH
            cursor.execute(_SELECT[table])
            convert = _READ.get(table)
            for row in cursor:
                yield row if convert is None else convert(row)

    def drops_after(self, id_: str, limit: int) -> list[DropRow]:
        return [_drop(row) for row in self._connection.execute(_SELECT_DROPS_AFTER, (id_, limit))]


class _PostgresWriter(_PostgresReader, Writer):
    def __init__(self, connection: Connection, database: str) -> None:
        super().__init__(connection)
        self._database = database

    def clear(self) -> None:
        for table in _TABLES[self._database]:
            self._connection.execute(f"DELETE FROM {table}")

    def insert(self, table: str, rows: Iterable[Row]) -> None:
        if table == LOCK_IDS:
            for _, last in rows:
                # Not undone with the transaction, which wastes ids at most.
                self._connection.execute("SELECT setval('locks_id_seq', %s)", (last,))
            return
        columns, convert = _COPIES[table]
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row(convert(row))

    def fingerprint(self) -> str | None:
        self._connection.execute(_MAKE_RECORD)
        statement = "SELECT fingerprint FROM migration WHERE database = %s"
        row = self._connection.execute(statement, (self._database,)).fetchone()
        return None if row is None else str(row[0])

    def record(self, fingerprint: str) -> None:
        self._connection.execute(
            "INSERT INTO migration VALUES (%s, %s) ON CONFLICT (database) DO UPDATE SET fingerprint = %s",
            (self._database, fingerprint, fingerprint),
        )


def _drop(row: Row) -> DropRow:
    drop = DropRow(*row)
    return drop._replace(name=None if drop.name is None else _decoded(drop.name))


def _lock(row: Row) -> Row:
    id_, repository, path, owner, created = row
    return id_, repository, _decoded(path), owner, created


def _decoded(value: Any) -> str:
    """As `PostgresTransactions.decode`."""
    return bytes(value).decode("utf-8", "surrogatepass")


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode("utf-8", "surrogatepass")


def _copied_drop(row: Row) -> Sequence[object]:
    drop = DropRow(*row)
    return drop._replace(name=_encoded(drop.name))  # type: ignore[arg-type]


def _copied_lock(row: Row) -> Sequence[object]:
    id_, repository, path, owner, created = row
    return id_, repository, _encoded(path), owner, created


def _with_digest(key: bytes, value: bytes | None) -> Sequence[object]:
    return hashlib.sha256(key).digest(), key, value


_READ: dict[str, Callable[[Row], Row]] = {DROPS: _drop, LOCKS: _lock}

_COPIES = {
    PAIRS: _Copy("digest, key, value", lambda row: _with_digest(*row)),
    # In the order of its ids, which are made anew.
    QUEUE: _Copy("digest, key, value", lambda row: _with_digest(row[1], row[2])),
    DROPS: _Copy(_DROP_COLUMNS, _copied_drop),
    LOCKS: _Copy(_LOCK_COLUMNS, _copied_lock),
}
