"""SQLite files: made where they are missing, refused where they are damaged, somebody else's or too new.

What is said here holds for all of ours; which tables there are is said by those who have them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections import deque
from typing import Any, Deque, List, NamedTuple, Tuple

from filestoraged.errors import Error, StartError, StorageFull, StoreUnavailable
from filestoraged.store.directories import sync
from filestoraged.store.turn import Turn

# Looking for damage takes this long at most, in seconds: of a large file, the beginning is looked at.
_LOOK = 5.0

# For somebody else who writes, such as an operator's shell, in seconds. Our own writers wait for each other elsewhere.
_PATIENCE = 30.0

# KiB of pages that a connection keeps. The kernel keeps the others, for all connections together.
_CACHE = 512

_MAGIC = b"SQLite format 3\0"

# Of SQLite's instructions, between two looks at the clock.
_INSTRUCTIONS = 100_000


class Schema(NamedTuple):
    """`application` tells one kind of file from another, `version` which tables it has; `tables` make them."""

    application: int
    version: int
    tables: Tuple[str, ...]


def connect(path: str) -> sqlite3.Connection:
    """Transactions are the caller's to begin. Any thread may use it, one at a time. Make it after the fork."""
    connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    return connection


class Readers:
    """Connections to read by, as many as threads read at once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: Deque[sqlite3.Connection] = deque()

    def all(self, question: str, *values: Any) -> List[Any]:
        """All rows of an answer. Raises what `meaning` makes of SQLite's errors."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect(self._path)
        try:
            rows = connection.execute(question, values).fetchall()
        except sqlite3.Error as error:
            connection.close()
            raise meaning(error) from error
        self._idle.append(connection)
        return rows

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def prepare(path: str, schema: Schema) -> None:
    """Make the file, or see that it is one of ours. Raises StartError with a sentence for the operator."""
    try:
        # Two daemons may start at once.
        with contextlib.closing(Turn(path)) as turn, turn:
            check_beginning(path)
            with contextlib.closing(connect(path)) as connection:
                _check_owner(connection, path, schema)
                _make(connection, schema)
                _look_for_damage(connection, path)
            sync(os.path.dirname(path))
    except (sqlite3.Error, OSError) as error:
        raise StartError(f"The database {path} cannot be used: {getattr(error, 'strerror', None) or error}.") from error


def meaning(error: sqlite3.Error) -> Exception:
    """What an error says to whoever asked."""
    known: Error
    if "disk is full" in str(error):
        known = StorageFull("There is no room left to store this.")
    elif "locked" in str(error):
        known = StoreUnavailable("The database is busy.")
    else:
        return error
    known.__cause__ = error
    return known


def check_beginning(path: str) -> None:
    """SQLite takes a file of a few bytes for one that is empty, and would write over it."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        beginning = file.read(len(_MAGIC))
        if beginning not in (b"", _MAGIC):
            raise sqlite3.DatabaseError("file is not a database")


def _check_owner(connection: sqlite3.Connection, path: str, schema: Schema) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != schema.application and (application or version or tables):
        raise StartError(f"The database {path} is another program's.")
    if version > schema.version:
        raise StartError(f"The database {path} is of version {version}, which is newer than this program's.")


def _make(connection: sqlite3.Connection, schema: Schema) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    # There already, they stay as they are; another daemon may have made them a moment ago.
    for table in schema.tables:
        connection.execute(table)
    connection.execute(f"PRAGMA application_id = {schema.application}")
    connection.execute(f"PRAGMA user_version = {schema.version}")
    connection.execute("COMMIT")


def _look_for_damage(connection: sqlite3.Connection, path: str) -> None:
    end = time.monotonic() + _LOOK
    connection.set_progress_handler(lambda: time.monotonic() > end, _INSTRUCTIONS)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        # The time is over, and nothing was found so far.
        if time.monotonic() <= end:
            raise
        return
    if found != "ok":
        raise StartError(f"The database {path} is damaged: {' '.join(found.split())}.")
