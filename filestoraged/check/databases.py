"""SQLite databases, which are read and not changed: integrity checks, and the registries of drops and of uploads."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from filestoraged.check.rows import DROPS, STORED, RegistryKind, RegistryUnreadable, RowRegistry, StoredRegistry
from filestoraged.check.throttle import Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store import area_tables
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.reading import describe, query

# SQLite instructions between two tests whether the check was stopped.
_STOP_INSTRUCTIONS = 100_000


class SqliteRegistry(RowRegistry):
    """The registry in the database at `path`, which may be missing.

    The lock guards the result of the integrity check. If the registry cannot be read, because another program keeps it
    locked, methods raise RegistryUnreadable, from the second call on at once.
    """

    def __init__(self, path: str, throttle: Throttle, kind: RegistryKind = DROPS) -> None:
        super().__init__(os.path.basename(path), kind)
        self.path = path
        self._throttle = throttle
        self._lock = threading.Lock()
        self._is_examined = False
        self._damage: str | None = None
        # Why it could not be read, None if it could so far.
        self._failure: str | None = None

    @property
    def damage(self) -> str | None:
        """The result of the integrity check."""
        with self._lock:
            if not self._is_examined:
                with contextlib.suppress(FileNotFoundError), self._failures():
                    self._damage = integrity_failure(self.path, self._throttle) or query(
                        self.path, self._foreign, self._throttle.clock
                    )
                self._is_examined = True
            return self._damage

    def without_row(self, ids: Sequence[str]) -> set[str]:
        if not os.path.exists(self.path):
            # The daemon has --database, and this check has not.
            raise RegistryUnreadable("it is missing; --database names one that is in PostgreSQL")
        return super().without_row(ids)

    def _query(self, statement: str, *values: object) -> list[Any]:
        def rows(connection: sqlite3.Connection) -> list[Any]:
            # A daemon that starts makes the file before its tables.
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self._kind.table,)).fetchone():
                return []
            return connection.execute(statement, values).fetchall()

        if not os.path.lexists(self.path):
            return []
        try:
            with self._failures():
                return query(self.path, rows, self._throttle.clock)
        except FileNotFoundError:
            return []

    def _foreign(self, connection: sqlite3.Connection) -> str | None:
        """A description of a database of another program, else None. One without tables is new."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        has_tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone()
        is_foreign = has_tables and application != self._kind.application
        return f"it is not the registry of {self._kind.table}" if is_foreign else None

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise RegistryUnreadable for a failure, and at once after the first: waiting for a lock takes long."""
        if self._failure is not None:
            raise RegistryUnreadable(self._failure)
        try:
            yield
        except FileNotFoundError:
            raise
        except (sqlite3.OperationalError, OSError, StoreUnavailable) as error:
            self._failure = describe(error)
            raise RegistryUnreadable(self._failure) from error


class SqliteStored(SqliteRegistry, StoredRegistry):
    """The rows of objects that names lead to."""

    def __init__(self, path: str, throttle: Throttle) -> None:
        super().__init__(path, throttle, STORED)

    def wrong_sums(self) -> list[str]:
        """The areas whose sums are not those of their objects. One statement: a daemon may change both meanwhile."""
        statement = f"SELECT area FROM areas WHERE NOT ({area_tables.SUMS_ARE_RIGHT}) ORDER BY area"
        return [area for (area,) in self._query(statement)]


def integrity_failure(path: str, throttle: Throttle) -> str | None:
    """The first failure of SQLite's integrity check, None for a sound database.

    Raises what `query` does for other reasons, and CheckStopped.
    """

    def examine(connection: sqlite3.Connection) -> str:
        connection.set_progress_handler(lambda: throttle.stopped, _STOP_INSTRUCTIONS)
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        return " ".join(found.split())

    try:
        found = query(path, examine, throttle.clock)
    except sqlite3.OperationalError as error:
        throttle.raise_if_stopped()
        if database.result_code(error) == sqlite3.SQLITE_IOERR:
            return str(error)
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else found
