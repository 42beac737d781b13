"""Reads SQLite files without changing them: integrity checks, and the registries of drops and of uploads.

A database in use has a write-ahead log beside it, and is read together with the log. A database without a log is opened
as immutable, since SQLite would make the log and its index otherwise. Whether another process opened or changed the
file during a query is checked after the query.

The row of a drop or of an upload is made before its bytes, and removed after them. So bytes that are seen first, then
have no row, and still exist, are orphaned; and bytes that are missing between two queries that find a row that needs
them, are lost.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from filestoraged.check.throttle import Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store import drop_tables as drops
from filestoraged.store import layout
from filestoraged.store.sqlite import database
from filestoraged.store.uploads import registry as uploads

_Result = TypeVar("_Result")

# How often a query is repeated because another process opened or closed the database meanwhile.
_QUERY_ATTEMPTS = 10

# SQLite instructions between two tests whether the check was stopped.
_STOP_INSTRUCTIONS = 100_000

# Seconds to wait for a lock of another process, such as one that recovers the database after a crash.
_LOCK_TIMEOUT = 30.0

# Ids in one query of the registry: SQLite accepts 999 values.
IDS_PER_QUERY = 500


class RegistryKind(NamedTuple):
    """What a registry has. The conditions are those of rows whose bytes may exist, and must exist."""

    table: str
    application: int
    may_have_bytes: str
    needs_bytes: str


DROPS = RegistryKind("drops", drops.APPLICATION, drops.MAY_HAVE_BYTES, drops.HAS_BYTES)
UPLOADS = RegistryKind("uploads", uploads.APPLICATION, "1 = 1", uploads.WITH_BYTES)


class RowRegistry(Protocol):
    """The registry of drops or of uploads, wherever it is; see `Registry`. Methods may raise RegistryUnreadable."""

    # As findings name it.
    name: str

    @property
    def damage(self) -> str | None: ...

    def without_row(self, ids: Sequence[str]) -> set[str]: ...

    def needs_bytes(self, id_: str) -> bool: ...

    def all_with_bytes(self) -> Iterator[str]: ...


class RegistryUnreadable(Exception):
    """The registry cannot be read at present, which says nothing about its contents."""


class Registry:
    """A registry, a database at `path`, which may be missing.

    Any thread calls it. The lock guards the result of the integrity check. If the registry cannot be read, because
    another program keeps it locked, methods raise RegistryUnreadable, from the second call on at once.
    """

    def __init__(self, path: str, throttle: Throttle, kind: RegistryKind = DROPS) -> None:
        self.path = path
        self._kind = kind
        self.name = os.path.basename(path)
        self._throttle = throttle
        self._lock = threading.Lock()
        self._is_examined = False
        self._damage: str | None = None
        # Why it could not be read, None if it could so far.
        self._failure: str | None = None

    @property
    def damage(self) -> str | None:
        """The result of the integrity check, None for a sound database. Do not query a damaged one for rows."""
        with self._lock:
            if not self._is_examined:
                with contextlib.suppress(FileNotFoundError), self._failures():
                    self._damage = integrity_failure(self.path, self._throttle) or query(self.path, self._foreign)
                self._is_examined = True
            return self._damage

    def without_row(self, ids: Sequence[str]) -> set[str]:
        """Those of at most IDS_PER_QUERY ids that have no row, or a row that says that their bytes are removed."""
        if not os.path.exists(self.path):
            # The daemon has --database, and this check has not.
            raise RegistryUnreadable("it is missing; --database names one that is in PostgreSQL")
        marks = ", ".join("?" * len(ids))
        statement = f"SELECT id FROM {self._kind.table} WHERE id IN ({marks}) AND {self._kind.may_have_bytes}"
        return set(ids).difference(self._query_ids(statement, *ids))

    def needs_bytes(self, id_: str) -> bool:
        """Whether the row is in a state in which its bytes must exist."""
        statement = f"SELECT id FROM {self._kind.table} WHERE id = ? AND {self._kind.needs_bytes}"
        return bool(self._query_ids(statement, id_))

    def all_with_bytes(self) -> Iterator[str]:
        """The ids of all rows whose bytes must exist."""
        kind = self._kind
        page = [""]
        while page:
            statement = f"SELECT id FROM {kind.table} WHERE id > ? AND {kind.needs_bytes} ORDER BY id LIMIT ?"
            page = self._query_ids(statement, page[-1], IDS_PER_QUERY)
            yield from page

    def _query_ids(self, statement: str, *values: object) -> list[str]:
        def rows(connection: sqlite3.Connection) -> list[str]:
            # A daemon that starts makes the file before its tables.
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (self._kind.table,)).fetchone():
                return []
            return [id_ for (id_,) in connection.execute(statement, values)]

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
