"""SQLite databases with group commit: one thread of each process writes the jobs of all its callers in batches.

A batch is one transaction with one sync.

A write or a sync of the log that fails is reported once: the kernel then takes the pages for written, and the next sync
succeeds without them (https://wiki.postgresql.org/wiki/Fsync_Errors). SQLite would append to the same log, and after a
power failure its recovery stops at the first bad frame. So the log is in doubt from before the first write of a
transaction until all of it has succeeded, for all processes that share the file. While it is in doubt, nothing is
written before the log was copied into the database, synced, and begun anew.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, StorageFull, StoreDetached, StoreUnavailable
from filestoraged.future import Future, set_results
from filestoraged.store import layout
from filestoraged.store.batch_writer import BatchWriter
from filestoraged.store.path_identity import PathIdentity, database_identity
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import ReadConnections, Schema
from filestoraged.store.sqlite.reserve import Reserve
from filestoraged.store.sqlite.write_lock import WriteLock
from filestoraged.store.transactions import FreeingJob, Job, JobQueue, Users

log = logging.getLogger(__name__)

# Pages of the log before they are copied into the database. Syncing both takes long with more.
_CHECKPOINT_PAGES = 4000

# Bytes of the log's file that are kept after a large transaction.
_LOG_SIZE = 64 * 1024 * 1024

# Seconds that `close` waits for the writer, which may wait for a lock that a stopped process holds.
_CLOSE_TIMEOUT = 5.0

# Seconds that `probe` waits for its result.
_PROBE_TIMEOUT = 2.0

# Pages that one job of a TransactionQueue changes, with those of its indexes.
_PAGES_PER_JOB = 6


# A change to be written. It is the future of its caller.
_Job = TypeVar("_Job", bound=Future[Any])


class GroupCommitDatabase(ABC, Generic[_Job]):
    """A database whose jobs are written in batches. Make it after the fork. Any thread calls it.

    A subclass defines the jobs, and writes a batch of them.
    """

    def __init__(
        self,
        path: str,
        schema: Schema,
        identity: PathIdentity | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
        checkpoint_pages: int = _CHECKPOINT_PAGES,
    ) -> None:
        """`identity` is what the master has opened at the path; without it, the first connection decides."""
        self.users = Users()
        self._path = path
        self._schema = schema
        self._identity = identity or database_identity(path)
        self._clock = clock
        self._checkpoint_pages = checkpoint_pages
        self._write_lock = WriteLock(path, self._identity, clock)
        self._reserve = Reserve(path)
        self._readers = ReadConnections(self._identity, clock, lambda: self._log)
        self._connection: sqlite3.Connection | None = None
        # Of the log and its index, which SQLite has open behind the connection.
        self._log: Sequence[PathIdentity] = ()
        self._pages = 0
        self._writer: BatchWriter[_Job] = BatchWriter(self._write_lock, self, clock=clock)

    def probe(self) -> None:
        """Check that the database can be written, by a write that changes nothing. Raises an Error or OSError."""
        job = self._probe_job()
        self._writer.submit(job)
        try:
            job.result(_PROBE_TIMEOUT)
        except TimeoutError as error:
            raise StoreUnavailable("The database cannot be written at present.") from error

    def close(self) -> None:
        """Finish the batch in progress, and close all files. If that takes too long, the process's end closes them.

        The last of its users does that.
        """
        if not self.users.remove():
            return
        if not self._writer.close(_CLOSE_TIMEOUT):
            log.error("%s: closed while another process holds its write lock", os.path.basename(self._path))
            return
        # Opened if there is none: the last connection that is closed must not be a reader's.
        with contextlib.suppress(sqlite3.Error, Error):
            self._connection = self._connection or database.connect_identified(self._identity, self._clock)
        self._readers.close()
        if self._connection is not None and any(os.path.exists(each.path) and _is_lost(each) for each in self._log):
            # Another process uses another log: what this one has would overwrite what that one wrote.
            self._identity.kept.append(self._connection)
        elif self._connection is not None:
            database.retire(self._connection, self._write_lock, self._identity)
        self._write_lock.close()

    # The rest runs on the writer's threads.

    @abstractmethod
    def _transact(self, jobs: Sequence[_Job]) -> Iterable[tuple[_Job, Any]]:
        """Write the jobs by one transaction. Returns those that are done, with their results or errors."""

    @abstractmethod
    def _makes_room(self, job: _Job) -> bool:
        """Whether a job removes something, so that it may use the reserve."""

    @abstractmethod
    def _probe_job(self) -> _Job:
        """A job that writes and changes nothing."""

    def write_batch(self, jobs: Sequence[_Job]) -> None:
        try:
            results = self._transact_on_full_disk(jobs)
        except Exception as error:
            self.refuse(jobs, error)
            return
        # Before any caller learns of it. The database is not lost, or this would not be reached.
        self._reserve.keep()
        # Together: the loop, to which most callers belong, is woken once.
        set_results(results)

    def _transact_on_full_disk(self, jobs: Sequence[_Job]) -> Iterable[tuple[_Job, Any]]:
        """Write the jobs; if the disk is full, those that make room, with the space of the reserve."""
        try:
            return self._transact(jobs)
        except (sqlite3.Error, OSError) as error:
            known = database.identified_failure(error, self._identity, *self._log)
            freeing = [job for job in jobs if self._makes_room(job)]
            if not isinstance(known, StorageFull) or not freeing or not self._reserve.give_up():
                raise
        refused = [(job, known) for job in jobs if not self._makes_room(job)]
        return [*self._transact(freeing), *refused]

    def maintain(self) -> float:
        try:
            self._checkpoint()
        except (Error, sqlite3.Error, OSError) as error:
            # The log is now in doubt, and is copied before the next transaction, whose callers get that failure.
            log.warning("%s: checkpoint failed: %s", os.path.basename(self._path), error)
        return math.inf

    def refuse(self, jobs: Sequence[_Job], error: Exception) -> None:
        if isinstance(error, (sqlite3.Error, OSError)):
            error = database.identified_failure(error, self._identity, *self._log)
        set_results([(job, error) for job in jobs])

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = database.connect_made(self._identity, self._schema, self._clock)
            try:
                # No automatic checkpoints after commits, in which SQLite does not report a failed sync.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
                self._log = _identify_log(self._path)
            except BaseException:
                database.close_identified(connection, self._identity)
                raise
            self._connection = connection
        # SQLite would go on writing to files that were removed. Two calls of `stat` for each group of changes.
        for each in self._log:
            each.check()
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, around_commit: AbstractContextManager[None]) -> Iterator[sqlite3.Connection]:
        """A transaction, for a block that sets `_pages` to about the number of pages that it writes."""
        connection = self._connect()
        if self._write_lock.is_doubtful:
            self._rewrite_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._write_lock.begin_writing()
            yield connection
            with around_commit:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._write_lock.end_writing(self._write_lock.written + self._pages)

    def _rewrite_log(self, connection: sqlite3.Connection) -> None:
        """Begin the log anew, so that it is no longer in doubt."""
        if not database.begin_log_anew(connection):
            error = sqlite3.OperationalError("the log cannot be rewritten while another process reads")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        self._write_lock.end_writing(0)
        log.warning("%s: log rewritten, since a write to it had failed or was cut off", os.path.basename(self._path))

    def _checkpoint(self) -> None:
        """Copy the log into the database if it is large enough, up to the oldest page that a reader uses."""
        if self._write_lock.written >= self._checkpoint_pages and not self._write_lock.is_doubtful:
            self._write_lock.begin_writing()
            self._connect().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._write_lock.end_writing(0)


def _identify_log(path: str) -> Sequence[PathIdentity]:
    """The log and its index, which SQLite neither removes nor replaces while a connection is open."""
    identities = [database_identity(each) for each in layout.log_files(path)]
    try:
        for each in identities:
            each.fix(is_held=True)
    except FileNotFoundError as error:
        # Removed behind a connection for reading of this process, which shares them.
        raise StoreDetached("The database") from error
    return identities


def _is_lost(identity: PathIdentity) -> bool:
    try:
        identity.check()
    except StoreDetached:
        return True
    return False


class _SqliteTransaction:
    """The `Transaction` of a connection."""

    # All transactions that write are serial.
    skip_locked = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany

    def insert(self, statement: str, values: Sequence[object]) -> int | None:
        cursor = self.execute(statement, values)
        return cursor.lastrowid if cursor.rowcount else None

    def serialize(self, name: str) -> None:
        pass


class TransactionQueue(JobQueue, GroupCommitDatabase[Job]):
    """Runs functions within transactions. A result means that the change is durable."""

    is_remote = False

    def read(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query. Raises an Error."""
        return self._readers.all(statement, *values)

    def _transact(self, jobs: Sequence[Job]) -> list[tuple[Job, Any]]:
        with self._transaction(contextlib.nullcontext()) as connection:
            self._pages = _PAGES_PER_JOB * len(jobs)
            transaction = _SqliteTransaction(connection)
            return [(job, job.run(transaction)) for job in jobs]

    def _makes_room(self, job: Job) -> bool:
        return isinstance(job, FreeingJob)

    def encode(self, text: str) -> str:
        return text

    def decode(self, value: str) -> str:
        return value

    def _probe_job(self) -> Job:
        return Job(lambda transaction: database.touch(transaction, self._schema))
