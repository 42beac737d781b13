"""Reads SQLite files without changing them: integrity checks, and the registries of drops and of uploads.

A database in use has a write-ahead log beside it, and is read together with the log. A database without a log is opened
as immutable, since SQLite would make the log and its index otherwise. Whether another process opened or changed the
file during a query is checked after the query.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from filestoraged.check.rows import DROPS, RegistryKind, RegistryUnreadable, RowRegistry
from filestoraged.check.throttle import Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.sqlite import database

_Result = TypeVar("_Result")

# How often a query is repeated because another process opened or closed the database meanwhile.
_QUERY_ATTEMPTS = 10

# SQLite instructions between two tests whether the check was stopped.
_STOP_INSTRUCTIONS = 100_000

# Seconds to wait for a lock of another process, such as one that recovers the database after a crash.
_LOCK_TIMEOUT = 30.0


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
                    self._damage = integrity_failure(self.path, self._throttle) or query(self.path, self._foreign)
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
                return query(self.path, rows)
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


class _FileState(NamedTuple):
    inode: int
    size: int
    changed: int


def query(path: str, function: Callable[[sqlite3.Connection], _Result]) -> _Result:
    """Call `function` with a connection to a database, which it does not change.

    Raises sqlite3.Error, FileNotFoundError, and StoreUnavailable if other processes keep it from being read.
    """
    for _ in range(_QUERY_ATTEMPTS):
        before = _state(path)
        in_use = _is_in_use(path)
        result: _Result | None = None
        failure: sqlite3.Error | None = None
        try:
            database.check_size(path)
            with contextlib.closing(_open(path, in_use)) as connection:
                result = function(connection)
        except sqlite3.Error as error:
            failure = error
        # If a log appeared or vanished meanwhile, that may be the only cause of an error.
        if in_use == _is_in_use(path) and (in_use or before == _state(path)):
            if failure is not None:
                if "locked" in str(failure):
                    raise StoreUnavailable("The database is locked by another process.") from failure
                raise failure
            return result  # type: ignore[return-value]
    raise StoreUnavailable("Other processes keep opening and closing the database.")


def integrity_failure(path: str, throttle: Throttle) -> str | None:
    """The first failure of SQLite's integrity check, None for a sound database.

    Raises what `query` does for other reasons, and CheckStopped.
    """

    def examine(connection: sqlite3.Connection) -> str:
        connection.set_progress_handler(lambda: throttle.stopped, _STOP_INSTRUCTIONS)
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        return " ".join(found.split())

    try:
        found = query(path, examine)
    except sqlite3.OperationalError as error:
        throttle.raise_if_stopped()
        if database.result_code(error) == sqlite3.SQLITE_IOERR:
            return str(error)
        raise
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if found == "ok" else found


def describe(error: Exception) -> str:
    """Why a database could not be read, without its path."""
    return str(getattr(error, "strerror", None) or error.__cause__ or error)


def _open(path: str, in_use: bool) -> sqlite3.Connection:
    mode = "mode=ro" if in_use else "mode=ro&immutable=1"
    name = quote(os.path.abspath(path))
    return sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None)


def _is_in_use(path: str) -> bool:
    # Not where the database is empty: SQLite would remove the log.
    return os.path.exists(layout.write_ahead_log(path)) and os.path.getsize(path) > 0


def _state(path: str) -> _FileState:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would block, and a symbolic link leads to a foreign file.
        raise sqlite3.OperationalError("it is not a regular file")
    return _FileState(status.st_ino, status.st_size, status.st_mtime_ns)
