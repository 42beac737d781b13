"""Reads SQLite files without changing them.

A database in use has a write-ahead log beside it, and is read together with the log. A database without a log is opened
as immutable, since SQLite would make the log and its index otherwise. Whether another process opened or changed the
file during a query is checked after the query.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.sqlite import database

_Result = TypeVar("_Result")

# How often a query is repeated because another process opened or closed the database meanwhile.
_QUERY_ATTEMPTS = 10

# Seconds to wait for a lock of another process, such as one that recovers the database after a crash; and between two
# attempts.
_LOCK_TIMEOUT = 30.0
_LOCK_PAUSE = 0.02


class _FileState(NamedTuple):
    inode: int
    size: int
    changed: int


def query(path: str, function: Callable[[sqlite3.Connection], _Result], clock: Clock = SYSTEM_CLOCK) -> _Result:
    """Call `function` with a connection to a database, which it does not change.

    Raises sqlite3.Error, FileNotFoundError, and StoreUnavailable if other processes keep it from being read.
    """
    attempts, deadline = 0, clock.now() + _LOCK_TIMEOUT
    while attempts < _QUERY_ATTEMPTS:
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
        if in_use != _is_in_use(path) or not (in_use or before == _state(path)):
            attempts += 1
            continue
        if failure is None:
            return result  # type: ignore[return-value]
        if "locked" not in str(failure):
            raise failure
        if clock.now() >= deadline:
            raise StoreUnavailable("The database is locked by another process.") from failure
        clock.sleep(_LOCK_PAUSE)
    raise StoreUnavailable("Other processes keep opening and closing the database.")


def describe(error: Exception) -> str:
    """Why a database could not be read, without its path."""
    return str(getattr(error, "strerror", None) or error.__cause__ or error)


def _open(path: str, in_use: bool) -> sqlite3.Connection:
    mode = "mode=ro" if in_use else "mode=ro&immutable=1"
    name = quote(os.path.abspath(path))
    return sqlite3.connect(f"file:{name}?{mode}", uri=True, timeout=0, isolation_level=None)


def _is_in_use(path: str) -> bool:
    # Not where the database is empty: SQLite would remove the log.
    return os.path.exists(layout.write_ahead_log(path)) and os.path.getsize(path) > 0


def _state(path: str) -> _FileState:
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        # Opening a pipe would block, and a symbolic link leads to a foreign file.
        raise sqlite3.OperationalError("it is not a regular file")
    return _FileState(status.st_ino, status.st_size, status.st_mtime_ns)
