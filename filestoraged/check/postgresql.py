"""Checks the tables in PostgreSQL without changing them, and reads the registries for the check of a store.

Each row is read whole, in the order of its key, a page at a time, so that a page of the server's disk that is damaged
is found. Rows that are written meanwhile may be checked or not.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg

from filestoraged.check.findings import DAMAGED, CheckTotals, Finding
from filestoraged.check.rows import DROPS, SEGMENTS, RegistryKind, RegistryUnreadable, RowRegistry, SegmentRegistry
from filestoraged.check.throttle import Throttle
from filestoraged.errors import Error
from filestoraged.store.postgresql.connection import Connector, Readers, translate
from filestoraged.store.postgresql.schema import require_schema
from filestoraged.store.postgresql.url import DatabaseAddress

# Rows of one query. Values have 1 MiB at most, but stay on the server.
_PAGE = 500

# SQLSTATE of a damaged table or index: its class.
_CORRUPT = "XX"


class _Table(NamedTuple):
    """How the rows of a table are read. `first` precedes all values of the column `key`."""

    name: str
    key: str
    first: Any
    # Names a row in a finding, without secrets.
    label: str
    # The bytes of a row, by an expression that reads all of them.
    size: str
    # A row for which this is false is damaged.
    condition: str
    reason: str


_TABLES = (
    _Table(
        "pairs", "digest", b"", "encode(digest, 'hex')", "octet_length(md5(value)) - 32 + length(key) + length(value)",
        "sha256(key) = digest", "its digest is not that of its key",
    ),
    _Table(
        "queue", "id", -1, "id::text", "coalesce(octet_length(md5(value)) - 32 + length(value), 0) + length(key)",
        "sha256(key) = digest", "its digest is not that of its key",
    ),
    _Table(
        "drops", "id", "", "left(id, 4) || '…'", "coalesce(length(name), 0) + coalesce(length(password), 0)",
        "state BETWEEN 0 AND 3 AND id ~ '^[0-9a-f]{32}$' AND (state <> 1 OR name IS NOT NULL)",
        "its id or its state is not one of a drop",
    ),
    _Table(
        "locks", "id", -1, "id::text", "length(path) + octet_length(owner) + octet_length(repository)",
        "id > 0 AND length(path) > 0 AND repository <> ''", "it names no path of a repository",
    ),
    _Table(
        "uploads", "id", "", "left(id, 4) || '…'", "octet_length(target) + octet_length(note) + length(name)",
        "state BETWEEN 0 AND 1 AND id ~ '^[0-9a-f]{32}$' AND received >= 0", "its id or its state is not an upload's",
    ),
)  # fmt: skip


class PostgresCheck:
    """One check of the database at an address."""

    def __init__(self, address: DatabaseAddress, *, throttle: Throttle) -> None:
        """Raises StoreUnavailable and StoreFailed if it cannot be read."""
        self.totals = CheckTotals()
        self._throttle = throttle
        self._readers = _connect(address)

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All findings; and None after each `pause` seconds without one. Raises an Error and CheckStopped."""
        due = time.monotonic() + pause
        with contextlib.closing(self._readers):
            for table in _TABLES:
                for finding in self._check(table):
                    self._throttle.raise_if_stopped()
                    if finding is not None or time.monotonic() >= due:
                        due = time.monotonic() + pause
                        yield finding

    def _check(self, table: _Table) -> Iterator[Finding | None]:
        """A finding or None for each row."""
        statement = (
            f"SELECT {table.key}, {table.label}, {table.size}, {table.condition} FROM {table.name}"
            f" WHERE {table.name}.{table.key} > %s ORDER BY {table.name}.{table.key} LIMIT {_PAGE}"
        )
        after: Any = table.first
        while True:
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
                yield None if is_sound else Finding(DAMAGED, f"database/{table.name}/{label}", table.reason)
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


def _connect(address: DatabaseAddress) -> Readers:
    connector = Connector(address, require_schema)
    # At once, so that the check fails before it has read anything else.
    connector.connect().close()
    return Readers(connector, 2)


def _damage(table: _Table, error: Error) -> Finding:
    """The finding for a table that cannot be read. Raises the error if it is not for damage."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith(_CORRUPT):
            return Finding(DAMAGED, f"database/{table.name}", f"PostgreSQL reports: {' '.join(str(cause).split())}")
        cause = cause.__cause__
    raise error
