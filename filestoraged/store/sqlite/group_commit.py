"""SQLite databases with group commit: one thread of each process writes the jobs of all its callers in batches.

A batch is one transaction with one sync. Jobs that arrive while a batch is written form the next one.

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
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from filestoraged.errors import Error, StoreUnavailable
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import Readers, Schema
from filestoraged.store.sqlite.write_lock import WriteLock

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Item_contra = TypeVar("_Item_contra", contravariant=True)
_Result = TypeVar("_Result")

# Jobs in one batch: in a larger one, the first job would wait long for the last.
_MAX_BATCH = 500

# Seconds to wait for as many jobs as the last batch had: a transaction of one job costs half as much as one of ten. The
# only caller never waits.
_GATHER_TIMEOUT = 0.001

# Seconds without a job after which the writer's thread ends.
_WRITER_IDLE_TIMEOUT = 5.0

# Seconds after which a queued job is refused while the writer is blocked: another process, perhaps a stopped one, holds
# the lock, or the disk does not answer. A writer that is behind with many jobs is not blocked.
_JOB_TIMEOUT = 5.0

# Seconds between two searches for such jobs.
_OVERDUE_INTERVAL = 0.25

# What `maintain` returns while callers wait for its next step: seconds during which other processes write.
URGENT = 0.02

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

# In place of a result: the job is answered by a later transaction.
LATER = object()


class BatchTarget(Protocol[_Item_contra]):
    """Receives the batches of a BatchWriter, on its thread and within the lock; `refuse` is called without either."""

    def write_batch(self, jobs: Sequence[_Item_contra]) -> None:
        """Write the jobs, and complete each of them, whatever happens."""

    def maintain(self) -> float:
        """Do one step of background work. Returns seconds until the next one, infinite if none is needed."""

    def refuse(self, jobs: Sequence[_Item_contra], error: Exception) -> None:
        """Fail jobs that will not be written. Without jobs: fail those that `maintain` was to complete."""


class BatchWriter(Generic[_Item]):
    """Passes jobs to `target` in batches, on a thread that exists while jobs arrive. The condition guards the rest.

    A second thread refuses overdue jobs while the first one waits for the lock or for the disk.
    """

    def __init__(
        self, lock: AbstractContextManager[object], target: BatchTarget[_Item], *, timeout: float = _JOB_TIMEOUT
    ) -> None:
        """Queued jobs are refused after `timeout` seconds while the writer is blocked."""
        self._lock = lock
        self._target = target
        self._timeout = timeout
        # With the time when each was submitted, on the monotonic clock.
        self._jobs: deque[tuple[float, _Item]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        # The size of the last batch.
        self._last_batch = 1
        # When to call `maintain`, on the monotonic clock, and what it returned last. At first, since a process that
        # died may have left work.
        self._maintain_at = self._pause = 0.0
        # When this round began, and when it began to wait for the lock; infinite when it does not.
        self._round_since = self._lock_since = math.inf

    def submit(self, job: _Item) -> None:
        """Queue a job. Raises StoreUnavailable if no thread can be started."""
        with self._changed:
            self._jobs.append((time.monotonic(), job))
            if self._thread is None:
                self._start()
            elif len(self._jobs) in (1, self._last_batch):
                self._changed.notify()

    def close(self, timeout: float = math.inf) -> bool:
        """Write the queued jobs, and end the thread. Returns False if that takes more than `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            return True
        thread.join(None if timeout == math.inf else timeout)
        return not thread.is_alive()

    def _start(self) -> None:
        ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ended,), name="writer", daemon=True)
        overdue = threading.Thread(target=self._refuse_overdue, args=(ended,), name="overdue", daemon=True)
        try:
            overdue.start()
            self._thread.start()
        except RuntimeError as error:
            ended.set()
            self._thread = None
            self._jobs.pop()
            raise StoreUnavailable("The server cannot start a thread to write; retry later.") from error

    def _run(self, ended: threading.Event) -> None:
        try:
            while self._wait_for_work():
                self._round_since = self._lock_since = time.monotonic()
                self._try_round()
                self._round_since = self._lock_since = math.inf
        finally:
            ended.set()

    def _try_round(self) -> None:
        try:
            with self._lock:
                self._lock_since = math.inf
                self._write_round()
        except OSError as error:
            # The lock cannot be acquired.
            self._refuse_all(error)
        except Exception as error:
            # The thread goes on: without it, all later jobs would wait for ever.
            log.exception("a round of the writer failed")
            self._refuse_all(error)

    def _wait_for_work(self) -> bool:
        """Wait for jobs or the next maintenance. Returns False if the thread is to end."""
        with self._changed:
            pause = min(max(0.0, self._maintain_at - time.monotonic()), _WRITER_IDLE_TIMEOUT)
            self._changed.wait_for(lambda: self._jobs or self._closed, pause)
            if not self._jobs and (self._pause == math.inf or (self._closed and self._pause > URGENT)):
                self._thread = None
                return False
            # The callers of the last batch have their results, and may submit more jobs.
            if self._jobs:
                self._changed.wait_for(lambda: len(self._jobs) >= self._last_batch or self._closed, _GATHER_TIMEOUT)
            return True

    def _write_round(self) -> None:
        jobs = self._next_batch()
        if jobs:
            self._target.write_batch(jobs)
        if (jobs and self._pause == math.inf) or time.monotonic() >= self._maintain_at or self._closed:
            self._schedule(self._target.maintain())

    def _schedule(self, pause: float) -> None:
        self._pause = pause
        self._maintain_at = time.monotonic() + pause

    def _next_batch(self) -> list[_Item]:
        with self._changed:
            jobs = [self._jobs.popleft()[1] for _ in range(min(_MAX_BATCH, len(self._jobs)))]
            self._last_batch = len(jobs) or self._last_batch
        return jobs

    def _refuse_all(self, error: Exception) -> None:
        self._target.refuse(self._next_batch(), error)
        self._target.refuse([], error)
        self._schedule(math.inf)

    # The rest runs on the second thread.

    def _refuse_overdue(self, ended: threading.Event) -> None:
        while not ended.wait(min(_OVERDUE_INTERVAL, self._timeout / 2)):
            now = time.monotonic()
            if now - self._round_since >= self._timeout:
                self._refuse_since(now - self._timeout)

    def _refuse_since(self, since: float) -> None:
        overdue: list[_Item] = []
        with self._changed:
            while self._jobs and self._jobs[0][0] <= since:
                overdue.append(self._jobs.popleft()[1])
        error = StoreUnavailable("The database is locked by another process; retry later.")
        error.__cause__ = TimeoutError(f"the writer was blocked for {self._timeout:g} s")
        if overdue:
            self._target.refuse(overdue, error)
        if self._lock_since <= since:
            self._target.refuse([], error)


class WriteJob(Protocol):
    """A change to be written, with its caller's future."""

    @property
    def done(self) -> Future[Any]: ...


_Job = TypeVar("_Job", bound=WriteJob)


class GroupCommitDatabase(ABC, Generic[_Job]):
    """A database whose jobs are written in batches. Make it after the fork. Any thread calls it.

    A subclass defines the jobs, and writes a batch of them.
    """

    def __init__(self, path: str, schema: Schema) -> None:
        self._path = path
        self._schema = schema
        self._write_lock = WriteLock(path)
        self._readers = Readers(path)
        self._connection: sqlite3.Connection | None = None
        self._pages = 0
        self._writer: BatchWriter[_Job] = BatchWriter(self._write_lock, self)

    def probe(self) -> None:
        """Check that the database can be written, by a write that changes nothing. Raises an Error or OSError."""
        job = self._probe_job()
        self._writer.submit(job)
        try:
            job.done.result(_PROBE_TIMEOUT)
        except futures.TimeoutError as error:
            raise StoreUnavailable("The database cannot be written at present.") from error

    def close(self) -> None:
        """Finish the batch in progress, and close all files. If that takes too long, the process's end closes them."""
        if not self._writer.close(_CLOSE_TIMEOUT):
            log.error("%s: closed while another process holds its write lock", os.path.basename(self._path))
            return
        # Opened if there is none: the last connection that is closed must not be a reader's.
        with contextlib.suppress(sqlite3.Error):
            self._connection = self._connection or database.connect(self._path)
        self._readers.close()
        if self._connection is not None:
            database.retire(self._connection, self._write_lock)
        self._write_lock.close()

    # The rest runs on the writer's threads.

    @abstractmethod
    def _transact(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        """Write the jobs by one transaction. Returns the result of each; an exception is raised to its caller."""

    @abstractmethod
    def _probe_job(self) -> _Job:
        """A job that writes and changes nothing."""

    def write_batch(self, jobs: Sequence[_Job]) -> None:
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

    def maintain(self) -> float:
        try:
            self._checkpoint()
        except (Error, sqlite3.Error, OSError) as error:
            # The log is now in doubt, and is copied before the next transaction, whose callers get that failure.
            log.warning("%s: checkpoint failed: %s", os.path.basename(self._path), error)
        return math.inf

    def refuse(self, jobs: Sequence[_Job], error: Exception) -> None:
        failure = database.failure(error, self._path) if isinstance(error, (sqlite3.Error, OSError)) else error
        for job in jobs:
            job.done.set_exception(failure)

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = database.connect_made(self._path, self._schema)
            # No automatic checkpoints after commits, in which SQLite does not report a failed sync.
            self._connection.execute("PRAGMA wal_autocheckpoint = 0")
            self._connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
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
        if self._write_lock.written >= _CHECKPOINT_PAGES and not self._write_lock.is_doubtful:
            self._write_lock.begin_writing()
            self._connect().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._write_lock.end_writing(0)


class _Transaction(NamedTuple):
    function: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


class TransactionQueue(GroupCommitDatabase[_Transaction]):
    """Runs functions within transactions. A result means that the change is durable."""

    def read(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query. Raises an Error."""
        return self._readers.all(statement, *values)

    def write(self, function: Callable[[sqlite3.Connection], _Result]) -> Future[_Result]:
        """Call `function` within a transaction that other jobs share. If it raises an Error, it has changed nothing.

        Raises StoreUnavailable if it cannot be queued.
        """
        job = _Transaction(function, Future())
        self._writer.submit(job)
        return job.done

    def write_rows(self, statement: str, rows: Sequence[Sequence[object]]) -> Future[None]:
        """Execute a statement with the values of each row."""

        def execute(connection: sqlite3.Connection) -> None:
            connection.executemany(statement, rows)

        return self.write(execute)

    def _transact(self, jobs: Sequence[_Transaction]) -> list[Any]:
        with self._transaction(contextlib.nullcontext()) as connection:
            self._pages = _PAGES_PER_JOB * len(jobs)
            return [_call(job, connection) for job in jobs]

    def _probe_job(self) -> _Transaction:
        return _Transaction(lambda connection: database.touch(connection, self._schema), Future())


def _call(job: _Transaction, connection: sqlite3.Connection) -> Any:
    try:
        return job.function(connection)
    except Error as error:
        return error
