"""SQLite databases: made if they are missing; refused if they are damaged, another program's, or of a newer version.

The rules here hold for all databases of a store. Their users define the tables.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.command_errors import StartError
from filestoraged.errors import DISK_FULL, Error, StorageFull, StoreDetached, StoreFailed, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.disk.directories import sync
from filestoraged.store.path_identity import PathIdentity, database_identity
from filestoraged.store.permissions import require_file
from filestoraged.store.sqlite.write_lock import WriteLock
from filestoraged.store.transactions import Transaction

log = logging.getLogger(__name__)

# The maximum duration of the integrity check at the start, in seconds. SQLite's check cannot be stopped within a large
# table, so the file is read first: a file that takes longer than half of that to read is left to `filestoraged check`.
_CHECK_TIMEOUT = 5.0
# In bytes: a start does not take longer the more rows there are. This takes 20 ms, two million keys would take 150 ms.
_MAX_CHECKED_SIZE = 16 * 1024 * 1024
_READ_AHEAD_SIZE = 1024 * 1024

# Seconds to wait for other writers, such as an operator's shell. The daemon's own writers use the write lock.
BUSY_TIMEOUT = 5.0

# The page cache of a connection, in KiB. The kernel caches all pages, for all connections together.
_PAGE_CACHE_KIB = 512

# In bytes. An SQLite file has at least one page.
_MIN_FILE_SIZE = 512

# SQLite instructions between two checks of the time.
_CLOCK_INTERVAL = 100_000

# Bytes that are written to find out whether the disk is full: SQLite makes its index of as many.
_TRIAL_SIZE = 32 * 1024


class Schema(NamedTuple):
    """`application` and `version` identify the kind of file and its tables; `tables` are statements that make them."""

    application: int
    version: int
    tables: tuple[str, ...]


def _open(path: str) -> sqlite3.Connection:
    # SQLite follows that of a database, and puts the log beside its target, while the write lock is beside the link.
    # That of a log it refuses without its path.
    for each in filter(os.path.islink, layout.files_of_database(path)):
        raise sqlite3.OperationalError(f"{each!r} is a symbolic link")
    # By a URI: otherwise SQLite would make a missing file, readable for other users.
    name = quote(os.fsencode(os.path.abspath(path)))
    return sqlite3.connect(
        f"file:{name}?mode=rw", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )


def _configure(connection: sqlite3.Connection, clock: Clock) -> None:
    # Some distributions compile SQLite with a default that syncs less.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_PAGE_CACHE_KIB}")
    # That of the machine.
    connection.create_function("epoch", 0, clock.date)
    connection.create_function("epoch_second", 0, lambda: int(clock.date()))


def connect_identified(identity: PathIdentity, clock: Clock) -> sqlite3.Connection:
    """Open the database that was identified, and no other one at its path. Raises StoreDetached.

    The caller begins transactions. Commits are synced. One thread at a time uses the connection. Make it after the
    fork.

    SQLite opens the file at once, and the log at its path by the first statement. The path is checked before each and
    behind both: as the last connection to a copy, this one would copy the log into that on close, and remove the log.
    """
    identity.check()
    connection = _open(identity.path)
    try:
        identity.check()
        _configure(connection, clock)
        identity.check()
    except BaseException:
        close_identified(connection, identity)
        raise
    return connection


def close_identified(connection: sqlite3.Connection, identity: PathIdentity) -> None:
    """Close a connection. Where the database is lost, it is kept open until the process ends.

    The last connection that is closed removes the log at its path, which may be that of another database. SQLite
    compares inode numbers before it does, and those of a copy of the whole file system are the same.
    """
    try:
        identity.check()
    except StoreDetached:
        identity.kept.append(connection)
    else:
        connection.close()


def connect_made(identity: PathIdentity, schema: Schema, clock: Clock) -> sqlite3.Connection:
    """Open a database, and make missing tables. Call it within the write lock.

    One that was identified is not made again. Raises StartError for a foreign one, and StoreDetached.
    """
    path = identity.path
    if not identity.is_fixed:
        _make_file(path)
    connection = connect_identified(identity, clock)
    try:
        if not _is_made(connection, path, schema):
            _make(connection, schema)
            sync(os.path.dirname(os.path.abspath(path)))
        # If it could not be made at the start, because the disk was full.
        identity.fix()
    except BaseException:
        close_identified(connection, identity)
        raise
    return connection


def touch(connection: sqlite3.Connection | Transaction, schema: Schema) -> None:
    """Write a page without changing it."""
    connection.execute(f"PRAGMA user_version = {schema.version}")


def begin_log_anew(connection: sqlite3.Connection) -> bool:
    """Copy the whole log into the database, sync that, and truncate the log. Returns False if it is in use."""
    (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not is_busy


class ReadConnections:
    """Connections for reading, as many as threads read at once."""

    def __init__(self, identity: PathIdentity, clock: Clock, log: Callable[[], Sequence[PathIdentity]]) -> None:
        """`log` returns the files of the log, as far as the writer has identified them."""
        self._identity = identity
        self._clock = clock
        self._log = log
        self._idle: deque[sqlite3.Connection] = deque()

    def all(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query. Raises StoreDetached, and what `failure` returns for SQLite's errors.

        Checking that the database is the one that was opened costs one `stat`.
        """
        # Open connections would go on reading a file that was removed.
        self._identity.check()
        connection: sqlite3.Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else connect_identified(self._identity, self._clock)
            rows = connection.execute(statement, values).fetchall()
        except IndexError:
            # Another thread took the last idle connection.
            return self.all(statement, *values)
        except sqlite3.Error as error:
            if connection is not None:
                close_identified(connection, self._identity)
            raise identified_failure(error, self._identity, *self._log()) from error
        self._idle.append(connection)
        return rows

    def close(self) -> None:
        while self._idle:
            close_identified(self._idle.pop(), self._identity)


def prepare(path: str, schema: Schema, clock: Clock = SYSTEM_CLOCK) -> None:
    """Make the database, or check that it can be used. No connection to it may be open in this process.

    Raises StartError with a message for the operator, and StorageFull if the disk is full: `connect_made` can make the
    database later.
    """
    try:
        for each in layout.files_of_database(path):
            require_file(each)
        check_size(path)
        is_warm = _read_through(path, clock)
        _make_file(path)
        identity = database_identity(path)
        with contextlib.closing(WriteLock(path, identity, clock)) as write_lock:
            connection = connect_identified(identity, clock)
            try:
                if not _is_made(connection, path, schema):
                    with write_lock.acquire_within(BUSY_TIMEOUT):
                        _make(connection, schema)
                if is_warm:
                    _check_integrity(connection, path, clock)
                else:
                    log.info("%s is too large to be checked at the start; run `filestoraged check`", path)
            finally:
                retire(connection, write_lock, identity)
        sync(os.path.dirname(os.path.abspath(path)))
    except (sqlite3.Error, OSError) as error:
        known = failure(error, path)
        if isinstance(known, StorageFull):
            raise known from error
        raise StartError(f"cannot use the database {path!r}: {getattr(error, 'strerror', None) or error}") from error


def retire(connection: sqlite3.Connection, write_lock: WriteLock, identity: PathIdentity) -> None:
    """Close a connection that may be the last one to its file.

    SQLite then copies the log into the database and removes it, and does not report a failed sync. So that is done here
    first; if it fails, the log stays in doubt for later processes. While another process holds the lock or reads, this
    connection is not the last one. Where the database is lost, nothing is done: the log at its path may be another's.
    """
    with contextlib.suppress(sqlite3.Error, OSError, StoreDetached), write_lock.acquire_within(0):
        was_doubtful, written = write_lock.is_doubtful, write_lock.written
        write_lock.begin_writing()
        connection.execute("PRAGMA busy_timeout = 0")
        if begin_log_anew(connection):
            write_lock.end_writing(0)
        elif not was_doubtful:
            write_lock.end_writing(written)
    close_identified(connection, identity)


def identified_failure(error: Exception, identity: PathIdentity, *log_files: PathIdentity) -> Error:
    """What `failure` returns, or StoreDetached if the database or its log is lost: then nothing is tried beside it."""
    try:
        for each in (identity, *log_files):
            each.check()
    except StoreDetached as detached:
        return detached
    return failure(error, identity.path)


def failure(error: Exception, path: str) -> Error:
    """The Error for a client that stands for an error of the database at `path`, SQLite's or the system's."""
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
    # The upper bytes distinguish variants of one code (SQLite, "Result and Error Codes", section 2).
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_full(error: Exception, path: str) -> bool:
    """Whether the disk is full. SQLite reports that of a failed write, but not of a failed sync, nor of a quota."""
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
    """Raise sqlite3.DatabaseError for a file of a few bytes: SQLite would take it for empty and write over it.

    SQLite itself checks all else. Opening and closing the file here would drop the locks of this process's other
    connections to it (SQLite, "How To Corrupt An SQLite Database File", section 2.2).
    """
    with contextlib.suppress(FileNotFoundError):
        if 0 < os.stat(path).st_size < _MIN_FILE_SIZE:
            raise sqlite3.DatabaseError("file is not a database")


def _make_file(path: str) -> None:
    """Make an empty file that only its owner can open. SQLite gives its log and its index the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _is_made(connection: sqlite3.Connection, path: str, schema: Schema) -> bool:
    # In one transaction: another process may be making the tables.
    connection.execute("BEGIN")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    if application != schema.application and (application or version or tables):
        raise StartError(f"the database {path!r} belongs to another program")
    if version > schema.version:
        raise StartError(
            f"the database {path!r} has version {version}, which is newer than this program's {schema.version}"
        )
    return bool(application == schema.application and version == schema.version)


def _make(connection: sqlite3.Connection, schema: Schema) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    # Existing tables stay as they are: another daemon may have made them a moment ago.
    for table in schema.tables:
        connection.execute(table)
    connection.execute(f"PRAGMA application_id = {schema.application}")
    connection.execute(f"PRAGMA user_version = {schema.version}")
    connection.execute("COMMIT")


def _read_through(path: str, clock: Clock) -> bool:
    """Read the file into the page cache. Returns whether all of it was read in time."""
    end = clock.now() + _CHECK_TIMEOUT / 2
    with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size > _MAX_CHECKED_SIZE:
            return False
        while file.read(_READ_AHEAD_SIZE):
            if clock.now() > end:
                return False
    return True


def _check_integrity(connection: sqlite3.Connection, path: str, clock: Clock) -> None:
    end = clock.now() + _CHECK_TIMEOUT / 2
    connection.set_progress_handler(lambda: clock.now() > end, _CLOCK_INTERVAL)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        # The time is over, and no damage was found so far.
        if clock.now() <= end:
            raise
        return
    if found != "ok":
        raise StartError(f"the database {path!r} is damaged: {' '.join(found.split())}")
