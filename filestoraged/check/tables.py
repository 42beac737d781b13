"""Checks the tables in PostgreSQL without changing them, and reads the registries for the check of a store.

Each row is read whole, in the order of its key, a page at a time, so that a page of the server's disk that is damaged
is found. Rows that are written meanwhile may be checked or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg

from filestoraged.check.findings import DAMAGED, CheckTotals, Finding
from filestoraged.check.rows import (
    DROPS,
    SEGMENTS,
    STORED,
    RegistryKind,
    RegistryUnreadable,
    RowRegistry,
    SegmentRegistry,
    StoredRegistry,
)
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import Throttle
from filestoraged.errors import Error
from filestoraged.store import area_tables, drop_tables, locks, name_tables
from filestoraged.store.postgresql.connection import Connector, ReadSessions, translate
from filestoraged.store.postgresql.schema import KEY_CHECKS, require_schema
from filestoraged.store.postgresql.url import DatabaseAddress
from filestoraged.store.rows import RowCheck
from filestoraged.store.uploads import registry

# Rows of one query. Values have 1 MiB at most, but stay on the server.
_PAGE = 500

# SQLSTATE of a damaged table or index: its class.
_CORRUPT = "XX"


_CHECKS = (
    *KEY_CHECKS,
    drop_tables.POSTGRESQL_CHECK,
    locks.POSTGRESQL_CHECK,
    registry.POSTGRESQL_CHECK,
    area_tables.POSTGRESQL_CHECK,
    name_tables.POSTGRESQL_CHECK,
)


class PostgresCheck:
    """One check of the database at an address."""

    def __init__(self, address: DatabaseAddress, *, throttle: Throttle) -> None:
        """Raises StoreUnavailable and StoreFailed if it cannot be read."""
        self.totals = CheckTotals()
        self._throttle = throttle
        self._readers = _connect(address)

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All findings; and None after each `pause` seconds without one. Raises an Error and CheckStopped."""
        with contextlib.closing(self._readers):
            yield from Runner(iter(_CHECKS), [self._check], self._throttle).findings(pause)

    def _check(self, table: RowCheck) -> Iterator[Finding]:
        statement = (
            f"SELECT {table.key}, {table.label}, {table.size}, {table.condition} FROM {table.table}"
            f" WHERE {table.table}.{table.key} > %s ORDER BY {table.table}.{table.key} LIMIT {_PAGE}"
        )
        after: Any = table.first
        while True:
            self._throttle.raise_if_stopped()
            try:
                rows = self._readers.all(statement, (after,))
            except Error as error:
                # Behind a damaged row, others cannot be told apart.
                yield _damage(table, error)
                return
            for key, label, size, is_sound in rows:
                after = key
                self.totals.add_object()
                self.totals.add_size(size)
                if not is_sound:
                    yield Finding(DAMAGED, f"database/{table.table}/{label}", table.reason)
            if len(rows) < _PAGE:
                return


class PostgresRegistry(RowRegistry):
    """The registry of drops or of uploads. `PostgresCheck` reports damage."""

    def __init__(self, address: DatabaseAddress, kind: RegistryKind = DROPS) -> None:
        """Raises StoreUnavailable and StoreFailed if it cannot be read."""
        super().__init__(f"database/{kind.table}", kind)
        self._readers = _connect(address)

    def _query(self, statement: str, *values: object) -> list[Any]:
        try:
            return self._readers.all(translate(statement), values)
        except Error as error:
            raise RegistryUnreadable(str(error.__cause__ or error)) from error


class PostgresSegments(SegmentRegistry, PostgresRegistry):
    """The rows of segments of unfinished uploads."""

    def __init__(self, address: DatabaseAddress) -> None:
        super().__init__(address, SEGMENTS)


class PostgresStored(StoredRegistry, PostgresRegistry):
    """The rows of objects that names lead to."""

    def __init__(self, address: DatabaseAddress) -> None:
        super().__init__(address, STORED)


def _connect(address: DatabaseAddress) -> ReadSessions:
    connector = Connector(address, require_schema)
    # At once, so that the check fails before it has read anything else.
    connector.connect().close()
    return ReadSessions(connector, 2)


def _damage(table: RowCheck, error: Error) -> Finding:
    """The finding for a table that cannot be read. Raises the error if it is not for damage."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith(_CORRUPT):
            return Finding(DAMAGED, f"database/{table.table}", f"PostgreSQL reports: {' '.join(str(cause).split())}")
        cause = cause.__cause__
    raise error
