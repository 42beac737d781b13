"""SQLite files that many read and that one thread of each process writes: jobs that arrive meanwhile go together.

A write or a sync of the log that fails is reported once: the kernel then takes the pages for written, and the next sync
succeeds without them (https://wiki.postgresql.org/wiki/Fsync_Errors). SQLite would go on behind them in the same log,
and after a power failure its recovery stops at the first bad frame. So the log is in doubt from before the first write
of a transaction until all of it has succeeded, for all processes that share the file; in doubt, nothing is written
before the log was copied into the database, synced, and begun anew.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from filestoraged.errors import Error, StoreUnavailable
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import Readers, Schema
from filestoraged.store.sqlite.write_lock import WriteLock
from filestoraged.store.sqlite.writer import Writer

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

# Pages that may be in the log before they are copied into the database: syncing both then takes a while.
_CHECKPOINT = 4000

# Bytes of the log's file that are kept when a large transaction has made it larger.
_LOG_SIZE = 64 * 1024 * 1024

# Seconds that `close` waits for the writer. It may wait for the lock, which a stopped process may hold for ever.
_CLOSING = 5.0

# Seconds that `probe` waits for its answer.
_PROBE = 2.0


class Job(Protocol):
    """Something to be written, and its caller's future."""

    @property
    def done(self) -> Future[Any]: ...


_Job = TypeVar("_Job", bound=Job)

# In place of a result: the job goes on, and is answered later.
LATER = object()


class GroupCommitDatabase(ABC, Generic[_Job]):
    """Jobs of many callers become one transaction. Make it after the fork.

    A subclass says what a job is, and writes those of a round.
    """

    def __init__(self, path: str, schema: Schema) -> None:
        self._path = path
        self._schema = schema
        self._turn = WriteLock(path)
        self._readers = Readers(path)
        self._connection: sqlite3.Connection | None = None
        self._pages = 0
        self._writer: Writer[_Job] = Writer(self._turn, self)

    def probe(self) -> None:
        """Write something that changes nothing, to see whether that is possible. Raises an Error or OSError."""
        job = self._probe_job()
        self._writer.submit(job)
        try:
            job.done.result(_PROBE)
        except futures.TimeoutError as error:
            raise StoreUnavailable("The database cannot be written for now.") from error

    def close(self) -> None:
        """Finish what is being written, and close all files. What takes too long is left to the end of the process."""
        if not self._writer.close(_CLOSING):
            log.error("%s: closed while another process holds its write lock", os.path.basename(self._path))
            return
        # Opened if there is none: a reader's must not be the last one that is closed.
        with contextlib.suppress(sqlite3.Error):
            self._connection = self._connection or database.connect(self._path)
        self._readers.close()
        if self._connection is not None:
            database.retire(self._connection, self._turn)
        self._turn.close()

    # The rest runs on the writer's threads.

    @abstractmethod
    def _transact(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        """Write the jobs by one transaction. Returns the result of each; an exception is raised to its caller."""

    @abstractmethod
    def _probe_job(self) -> _Job:
        """A job that writes and changes nothing."""

    def write_jobs(self, jobs: Sequence[_Job]) -> None:
        try:
            results = self._transact(jobs)
        except Exception as error:
            self.refuse(jobs, error)
            return
        for job, result in zip(jobs, results):
            if isinstance(result, Exception):
                job.done.set_exception(result)
            elif result is not LATER:
                job.done.set_result(result)

    def tidy(self) -> float:
        try:
            self._checkpoint()
        except (Error, sqlite3.Error, OSError) as error:
            # The log is in doubt now, and copied before the next transaction, whose callers are told if that fails.
            log.warning("%s: checkpoint failed: %s", os.path.basename(self._path), error)
        return math.inf

    def refuse(self, jobs: Sequence[_Job], error: Exception) -> None:
        failure = database.failure(error, self._path) if isinstance(error, (sqlite3.Error, OSError)) else error
        for job in jobs:
            job.done.set_exception(failure)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = database.connect_made(self._path, self._schema)
            # Not by itself after a commit, where SQLite keeps to itself that a sync has failed.
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, around_commit: contextlib.AbstractContextManager[None]) -> Iterator[sqlite3.Connection]:
        """A transaction, for a block that sets `_pages` to about as many as it writes."""
        connection = self._connect()
        if self._turn.is_doubtful:
            self._rewrite_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._turn.begin_writing()
            yield connection
            with around_commit:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._turn.end_writing(self._turn.written + self._pages)

    def _rewrite_log(self, connection: sqlite3.Connection) -> None:
        """Take the log out of doubt."""
        if not database.begin_log_anew(connection):
            error = sqlite3.OperationalError("the log cannot be rewritten while another process reads")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        self._turn.end_writing(0)
        log.warning("%s: log rewritten, since a write to it had failed or was cut off", os.path.basename(self._path))

    def _checkpoint(self) -> None:
        """Copy the log into the database, as far as no reader is in the way, when it has grown enough."""
        if self._turn.written >= _CHECKPOINT and not self._turn.is_doubtful:
            self._turn.begin_writing()
            self._connect().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._turn.end_writing(0)


class _Work(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


# Pages that one job of a ledger changes, with those of its indexes.
_PAGES = 6


class TransactionQueue(GroupCommitDatabase[_Work]):
    """What is written is on disk when it is answered."""

    def read(self, question: str, *values: Any) -> list[Any]:
        """All rows. Raises an Error."""
        return self._readers.all(question, *values)

    def write(self, work: Callable[[sqlite3.Connection], _Result]) -> Future[_Result]:
        """Have `work` done within a transaction that others share. Where it raises an Error, it has changed nothing.

        Raises StoreUnavailable where it cannot be submitted.
        """
        job = _Work(work, Future())
        self._writer.submit(job)
        return job.done

    def write_rows(self, statement: str, rows: Sequence[Sequence[object]]) -> Future[None]:
        """Have a statement executed with the values of each row."""

        def execute(connection: sqlite3.Connection) -> None:
            connection.executemany(statement, rows)

        return self.write(execute)

    def _transact(self, jobs: Sequence[_Work]) -> list[Any]:
        with self._transaction(contextlib.nullcontext()) as connection:
            self._pages = _PAGES * len(jobs)
            return [_result(job, connection) for job in jobs]

    def _probe_job(self) -> _Work:
        return _Work(lambda connection: database.touch(connection, self._schema), Future())


def _result(job: _Work, connection: sqlite3.Connection) -> Any:
    try:
        return job.work(connection)
    except Error as error:
        return error
