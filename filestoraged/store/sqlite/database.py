"""SQLite files: made where they are missing, refused where they are damaged, somebody else's or too new.

What is said here holds for all of ours; which tables there are is said by those who have them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections import deque
from typing import Any, NamedTuple
from urllib.parse import quote

from filestoraged.errors import DISK_FULL, Error, StartError, StorageFull, StoreFailed, StoreUnavailable
from filestoraged.store.disk.directories import sync
from filestoraged.store.sqlite.write_lock import WriteLock

log = logging.getLogger(__name__)

# Looking for damage takes this long at most, in seconds. SQLite's look cannot be stopped within a large table, so the
# file is read first: one that takes longer than half of that, or is larger than SQLite goes through in the other half,
# is left to `filestoraged check`.
_LOOK = 5.0
_LARGEST_LOOK = 512 * 1024 * 1024
_READ_SIZE = 1024 * 1024

# For others who write, such as an operator's shell, in seconds. Our own writers wait for each other elsewhere.
_PATIENCE = 5.0

# KiB of pages that a connection keeps. The kernel keeps the others, for all connections together.
_CACHE = 512

# A file of SQLite's has one page at the least.
_SMALLEST = 512

# Of SQLite's instructions, between two looks at the clock.
_INSTRUCTIONS = 100_000

# Bytes that are written to see whether there is room: SQLite makes its index of so many.
_TRIAL_SIZE = 32 * 1024


class Schema(NamedTuple):
    """`application` tells one kind of file from another, `version` which tables it has; `tables` make them."""

    application: int
    version: int
    tables: tuple[str, ...]


def connect(path: str) -> sqlite3.Connection:
    """Open a file that is there. Transactions are the caller's to begin. What is committed is synced.

    Any thread may use it, one at a time. Make it after the fork.
    """
    # By a URI: SQLite would make a missing file, and open to others.
    name = quote(os.fsencode(os.path.abspath(path)))
    connection = sqlite3.connect(
        f"file:{name}?mode=rw", uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
    )
    # Some systems' SQLite is compiled with a default that syncs less.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    return connection


def connect_made(path: str, schema: Schema) -> sqlite3.Connection:
    """Open a file, and make what it lacks. Within the write lock. Raises StartError where it is not one of ours."""
    _make_file(path)
    connection = connect(path)
    try:
        if not _is_made(connection, path, schema):
            _make(connection, schema)
            sync(os.path.dirname(os.path.abspath(path)))
    except BaseException:
        connection.close()
        raise
    return connection


def touch(connection: sqlite3.Connection, schema: Schema) -> None:
    """Write a page that says what it said before."""
    connection.execute(f"PRAGMA user_version = {schema.version}")


def begin_log_anew(connection: sqlite3.Connection) -> bool:
    """Copy all of the log into the database, sync that, and truncate the log. Returns False where others use it."""
    (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


class Readers:
    """Connections to read by, as many as threads read at once."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()

    def all(self, question: str, *values: Any) -> list[Any]:
        """All rows of an answer. Raises what `failure` makes of SQLite's errors."""
        connection: sqlite3.Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else connect(self._path)
            rows = connection.execute(question, values).fetchall()
        except IndexError:
            # Another thread has taken the last one.
            return self.all(question, *values)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise failure(error, self._path) from error
        self._idle.append(connection)
        return rows

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


def prepare(path: str, schema: Schema) -> None:
    """Make the file, or see that it can be used. No connection to it may be open in this process.

    Raises StartError with a sentence for the operator, and StorageFull where the disk is full: the file can then be
    made later, by `connect_made`.
    """
    try:
        check_size(path)
        is_warm = _read_through(path)
        _make_file(path)
        with contextlib.closing(WriteLock(path)) as turn:
            connection = connect(path)
            try:
                if not _is_made(connection, path, schema):
                    with turn.acquire_within(_PATIENCE):
                        _make(connection, schema)
                if is_warm:
                    _look_for_damage(connection, path)
                else:
                    log.info("%s is too large to be checked at the start; run `filestoraged check`", path)
            finally:
                retire(connection, turn)
        sync(os.path.dirname(os.path.abspath(path)))
    except (sqlite3.Error, OSError) as error:
        known = failure(error, path)
        if isinstance(known, StorageFull):
            raise known from error
        raise StartError(f"The database {path} cannot be used: {getattr(error, 'strerror', None) or error}.") from error


def retire(connection: sqlite3.Connection, turn: WriteLock) -> None:
    """Close a connection that may be the last one to its file.

    SQLite then copies the log into the database and removes it, and keeps to itself that a sync has failed. So that is
    done here before; where it fails, the log is in doubt for those who come. While another process holds the lock, or
    reads, this connection is not the last one.
    """
    with contextlib.suppress(sqlite3.Error, OSError), turn.acquire_within(0):
        was_doubtful, written = turn.is_doubtful, turn.written
        turn.begin_writing()
        connection.execute("PRAGMA busy_timeout = 0")
        if begin_log_anew(connection):
            turn.end_writing(0)
        elif not was_doubtful:
            turn.end_writing(written)
    connection.close()


def failure(error: Exception, path: str) -> Error:
    """What an error of the database at `path`, SQLite's or the system's, says to a client."""
    known: Error
    if result_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        known = StoreUnavailable("The database is locked by another process; retry later.")
    elif _is_full(error, path):
        known = StorageFull("There is no room left to store this.")
    else:
        known = StoreFailed("The database failed; the log of the server says why.")
    known.__cause__ = error
    return known


def result_code(error: Exception) -> int:
    """SQLite's primary result code; 0 for an error that is not SQLite's."""
    # The upper bytes tell the kinds of one code apart (SQLite, "Result and Error Codes", section 2).
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_full(error: Exception, path: str) -> bool:
    """Whether there is no room. SQLite tells so of a failed write, but not of a failed sync, nor of a quota."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    if result_code(error) == sqlite3.SQLITE_FULL:
        return True
    return isinstance(error, sqlite3.OperationalError) and _cannot_write_beside(path)


def _cannot_write_beside(path: str) -> bool:
    trial = f"{path}.{secrets.token_hex(4)}"
    try:
        descriptor = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, bytes(_TRIAL_SIZE))
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(trial)
    except OSError as error:
        return error.errno in DISK_FULL
    return False


def check_size(path: str) -> None:
    """SQLite takes a file of a few bytes for one that is empty, and would write over it.

    Anything else about the file is SQLite's to say. To open it here, and close it, would drop the locks that this
    process's other connections have on it (SQLite, "How To Corrupt An SQLite Database File", section 2.2).
    """
    with contextlib.suppress(FileNotFoundError):
        if 0 < os.stat(path).st_size < _SMALLEST:
            raise sqlite3.DatabaseError("file is not a database")


def _make_file(path: str) -> None:
    """Make an empty file, for its owner alone. Its log and its index get the same mode from SQLite."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _is_made(connection: sqlite3.Connection, path: str, schema: Schema) -> bool:
    # Of one moment: another process may be about to make it.
    connection.execute("BEGIN")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    if application != schema.application and (application or version or tables):
        raise StartError(f"The database {path} is another program's.")
    if version > schema.version:
        raise StartError(f"The database {path} is of version {version}, which is newer than this program's.")
    return bool(application == schema.application and version == schema.version)


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


def _read_through(path: str) -> bool:
    """Read the file into the kernel's memory. Returns whether that was all of it, in time."""
    end = time.monotonic() + _LOOK / 2
    with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > _LARGEST_LOOK:
            return False
        while file.read(_READ_SIZE):
            if time.monotonic() > end:
                return False
    return True


def _look_for_damage(connection: sqlite3.Connection, path: str) -> None:
    end = time.monotonic() + _LOOK / 2
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
