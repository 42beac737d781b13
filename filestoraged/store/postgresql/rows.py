"""The rows of the tables in PostgreSQL: read at one moment, and replaced by one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import psycopg

from filestoraged.command_errors import CheckError
from filestoraged.errors import Error, StorageFull, StoreUnavailable
from filestoraged.store.postgresql.connection import Connector, DeadlineConnection, ReadSessions, translate
from filestoraged.store.postgresql.failures import failure
from filestoraged.store.postgresql.transactions import lock_number
from filestoraged.store.postgresql.url import DatabaseAddress
from filestoraged.store.rows import Row, RowGroup, RowReader, RowStore, RowWriter, Table

_Result = TypeVar("_Result")

# Seconds for one database. A server that is gone is noticed by the kernel in seconds.
_TIMEOUT = 24 * 3600.0

# One transaction may be long, and wait for the other side. But it does not wait for a daemon that holds a lock.
_SETTINGS = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '10s'"

# Rows that the server sends at a time, in 1 MiB at most each.
_BATCH = 500

_MAKE_RECORD = "CREATE TABLE IF NOT EXISTS migration (database text PRIMARY KEY, fingerprint text NOT NULL)"


class PostgresRowStore(RowStore):
    def __init__(self, address: DatabaseAddress) -> None:
        self._description = address.description
        self._connector = Connector(address)
        self._readers = ReadSessions(self._connector, 1)

    def read(self, group: RowGroup, function: Callable[[RowReader], _Result]) -> _Result:
        with self._failures("read"), self._connection() as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return function(_PostgresReader(connection))

    def write(self, group: RowGroup, function: Callable[[RowWriter], _Result]) -> _Result:
        with self._failures("write"), self._connection() as connection, connection.transaction():
            names = ", ".join(table.name for table in group.stored)
            connection.execute(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
            return function(_PostgresWriter(connection, group))

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
    def _connection(self) -> Iterator[DeadlineConnection]:
        with contextlib.closing(self._connector.connect(_TIMEOUT)) as connection:
            connection.deadline = self._connector.clock.now() + _TIMEOUT
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


class _PostgresReader(RowReader):
    def __init__(self, connection: DeadlineConnection) -> None:
        self._connection = connection

    def rows(self, table: Table) -> Iterator[Row]:
        query = table.postgresql_query or table.query
        if table.ids_of:
            query = f"SELECT 'last', last_value FROM {table.ids_of}_id_seq WHERE is_called"
        # A cursor of the server's: the rows are not held in memory together.
        with self._connection.cursor(name=f"migration_{table.name}") as cursor:
            cursor.itersize = _BATCH
            cursor.execute(query)
            yield from map(table.decode, cursor)

    def page(self, table: Table, after: str, limit: int) -> list[Row]:
        return [table.decode(row) for row in self._connection.execute(translate(table.page_query), (after, limit))]


class _PostgresWriter(_PostgresReader, RowWriter):
    def __init__(self, connection: DeadlineConnection, group: RowGroup) -> None:
        super().__init__(connection)
        self._group = group

    def clear(self) -> None:
        for statement in (*(f"DELETE FROM {each.name}" for each in self._group.stored), *self._group.clear):
            self._connection.execute(statement)

    def insert(self, table: Table, rows: Iterable[Row]) -> None:
        if table.ids_of:
            for _, last in rows:
                # Not undone with the transaction, which wastes ids at most.
                self._connection.execute(f"SELECT setval('{table.ids_of}_id_seq', %s)", (last,))
            return
        # COPY sets columns that are generated otherwise.
        statement = f"COPY {table.name} ({table.postgresql_columns or table.columns}) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(table.encode(row))

    def derive(self) -> None:
        for statement in self._group.derive:
            self._connection.execute(statement)

    def fingerprint(self) -> str | None:
        self._connection.execute(_MAKE_RECORD)
        statement = "SELECT fingerprint FROM migration WHERE database = %s"
        row = self._connection.execute(statement, (self._group.name,)).fetchone()
        return None if row is None else str(row[0])

    def record(self, fingerprint: str) -> None:
        self._connection.execute(
            "INSERT INTO migration VALUES (%s, %s) ON CONFLICT (database) DO UPDATE SET fingerprint = %s",
            (self._group.name, fingerprint, fingerprint),
        )
