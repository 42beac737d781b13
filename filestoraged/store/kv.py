"""A transactional key-value database: sets and deletions are queued, and a commit makes all of them visible at once.

It is one SQLite file with a write-ahead log, so readers never wait and never see half a commit. The queue is a table:
all processes share it, and a restart keeps it. A commit is durable when it is answered. Queued changes survive a kill;
the next commit's sync makes them durable.

One transaction applies a small queue to the pairs. For a large queue it would delay all other writers, so short
transactions do it, with others between them: they move the queue to the staged pairs, which are not read yet; one
transaction makes these visible, in front of the older pairs, which is the commit; then they move to the pairs.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import sqlite3
import threading
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from filestoraged.store import layout
from filestoraged.store.batch_writer import URGENT
from filestoraged.store.key_jobs import JobKind, KeyChanges, KeyJob
from filestoraged.store.path_identity import PathIdentity
from filestoraged.store.rows import RowGroup, Table
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.sqlite.group_commit import GroupCommitDatabase
from filestoraged.store.sqlite.many_rows import execute_with_keys, insert_pairs

KEYS_SCHEMA = Schema(
    # "fskv"
    application=0x66736B76,
    version=2,
    tables=(
        "CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL)",
        # In the order of arrival. NULL as a value is a deletion.
        "CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB)",
        # The last value of each key that has left the queue and is not yet among the pairs.
        "CREATE TABLE IF NOT EXISTS staged (key BLOB PRIMARY KEY, value BLOB)",
        # Whether the staged pairs are visible. One row.
        "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), is_visible INTEGER NOT NULL)",
        "INSERT OR IGNORE INTO state VALUES (1, 0)",
    ),
)

# Staged pairs that are visible are in front of the others; those that are not were queued before the rest of the queue.
_ALL_PAIRS = """SELECT key, value FROM pairs WHERE NOT EXISTS (SELECT 1 FROM staged WHERE staged.key = pairs.key
    AND (SELECT is_visible FROM state)) UNION ALL SELECT key, value FROM staged WHERE value IS NOT NULL
    AND (SELECT is_visible FROM state) ORDER BY key"""
_ALL_QUEUED = """SELECT row_number() OVER (ORDER BY id), key, value FROM (SELECT 0 AS id, key, value FROM staged
    WHERE NOT (SELECT is_visible FROM state) UNION ALL SELECT id, key, value FROM queue) ORDER BY 1"""

# PostgreSQL finds a key by its SHA-256, and numbers the queue itself.
KEY_ROWS = RowGroup(
    "keys",
    (
        Table(
            "pairs",
            "key, value",
            sqlite_query=_ALL_PAIRS,
            postgresql_columns="digest, key, value",
            encode=lambda row: (hashlib.sha256(row[0]).digest(), *row),
        ),
        Table(
            "queue",
            "id, key, value",
            sqlite_query=_ALL_QUEUED,
            postgresql_query="SELECT row_number() OVER (ORDER BY id), key, value FROM queue ORDER BY id",
            postgresql_columns="digest, key, value",
            encode=lambda row: (hashlib.sha256(row[1]).digest(), *row[1:]),
        ),
    ),
    layout.KEYS_DATABASE,
    KEYS_SCHEMA,
    sqlite_clear=("DELETE FROM staged", "UPDATE state SET is_visible = 0"),
)

# Above either, in rows and in bytes, a queue is committed by short transactions.
_LARGE_QUEUE = 5000
_LARGE_QUEUE_SIZE = 8 * 1024 * 1024

# The duration of a short transaction, in seconds, for which other writers wait. The number of rows adapts to it.
_STEP_DURATION = 0.05
_MIN_ROWS, _MAX_ROWS = 50, 5000
# The maximum size of a step in bytes, since large rows may follow small ones.
_STEP_SIZE = 2 * 1024 * 1024

# Seconds between two transactions that move visible pairs: other processes get the lock, and readers a core.
_MOVE_PAUSE = 0.05
# Seconds after a failed one.
_PAUSE_AFTER_FAILURE = 1.0

# Pages that a small transaction writes: the end of the queue, and the first page.
_FIXED_PAGES = 3
_PAGE_SIZE = 4096

# The value of a key if no staged pair is visible. No row: some are visible, or the key is missing.
_GET_PAIR = "SELECT value FROM pairs WHERE key = ? AND NOT (SELECT is_visible FROM state)"
_GET = (
    "SELECT value FROM ("
    "SELECT 0 AS age, value FROM staged WHERE key = ?1 AND (SELECT is_visible FROM state)"
    " UNION ALL SELECT 1, value FROM pairs WHERE key = ?1) ORDER BY age LIMIT 1"
)

# The last queued row of a key counts: with max(), SQLite takes the other columns from that row.
_LAST = "SELECT key, value, max(id) FROM queue WHERE id <= ? GROUP BY key"
_TO_PAIRS = (
    f"DELETE FROM pairs WHERE key IN (SELECT key FROM ({_LAST}) WHERE value IS NULL)",
    f"INSERT OR REPLACE INTO pairs SELECT key, value FROM ({_LAST}) WHERE value IS NOT NULL",
    "DELETE FROM queue WHERE id <= ?",
)
_TO_STAGED = (
    f"INSERT OR REPLACE INTO staged SELECT key, value FROM ({_LAST})",
    "DELETE FROM queue WHERE id <= ?",
)
_UPSERT_PAIRS = "INSERT INTO pairs (key, value) VALUES {} ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_UPSERT_STAGED = "INSERT INTO staged (key, value) VALUES {} ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_STAGED_TO_PAIRS = (
    "DELETE FROM pairs WHERE key IN (SELECT key FROM staged WHERE key <= ? AND value IS NULL)",
    "INSERT OR REPLACE INTO pairs SELECT key, value FROM staged WHERE key <= ? AND value IS NOT NULL",
    "DELETE FROM staged WHERE key <= ?",
)


class _Queue(NamedTuple):
    """The queue: the ids of its first and last row, 0 if it is empty, and its size in bytes."""

    first: int
    last: int
    size: int

    def is_large(self, rows: int) -> bool:
        return self.last - self.first >= rows or self.size > _LARGE_QUEUE_SIZE


class _PendingCommit(NamedTuple):
    """A commit by several transactions, of all rows up to `last`."""

    last: int
    job: KeyJob


class KeyValues(KeyChanges, GroupCommitDatabase[KeyJob]):
    """The database at `path`. Make it after the fork."""

    is_remote: Literal[False] = False

    def __init__(
        self,
        path: str,
        identity: PathIdentity | None = None,
        *,
        large_queue: int = _LARGE_QUEUE,
        rows: tuple[int, int] = (_MIN_ROWS, _MAX_ROWS),
        **settings: Any,
    ) -> None:
        """A queue of `large_queue` rows is committed by short transactions, each of so many `rows` at least and most.

        `settings` are those of every database with group commit.
        """
        super().__init__(path, KEYS_SCHEMA, identity, **settings)
        self._large_queue = large_queue
        self._min_rows, self._max_rows = rows
        # The lock guards the list: the writer's thread completes commits, another thread refuses them.
        self._pending: list[_PendingCommit] = []
        self._pending_lock = threading.Lock()
        self._rows = self._min_rows
        # Whether staged pairs were visible in the last transaction. Unknown at first.
        self._is_visible = True
        self._synchronous = ""

    @property
    def commits(self) -> int:
        """The count of commits. Values that were read stay valid while it is even and unchanged."""
        # Odd once it was noticed that the database is lost: a value is then read anew, which fails. A `stat` for each
        # cached value would cost 1 us of about 15.
        return 1 if self._identity.is_lost else self._write_lock.commits

    @property
    def queued(self) -> int:
        """The number of sets and deletions since the last commit."""
        # Not by counting rows: the queue has no gaps. For a large commit in progress, each staged key counts once.
        ((count,),) = self._readers.all(
            "SELECT (SELECT ifnull(max(id) - min(id) + 1, 0) FROM queue)"
            " + (SELECT count(*) FROM staged WHERE NOT (SELECT is_visible FROM state))"
        )
        return int(count)

    def get(self, key: str) -> bytes | None:
        """The committed value, None for a missing key."""
        rows = self._readers.all(_GET_PAIR, key.encode()) or self._readers.all(_GET, key.encode())
        return None if not rows or rows[0][0] is None else bytes(rows[0][0])

    def _submit(self, job: KeyJob) -> None:
        self._writer.submit(job)

    # The rest runs on the writer's threads.

    def maintain(self) -> float:
        """Do one step of a commit by several transactions, or of moving its pairs."""
        try:
            pause = self._step()
        except Exception as error:
            self.refuse([], error)
            pause = _PAUSE_AFTER_FAILURE
        super().maintain()
        return pause

    def refuse(self, jobs: Sequence[KeyJob], error: Exception) -> None:
        super().refuse(jobs, error)
        if not jobs:
            # The next commit includes the pairs that they have staged.
            pending = self._remove_pending(math.inf)
            super().refuse([each.job for each in pending], error)

    def _makes_room(self, job: KeyJob) -> bool:
        # A commit applies deletions.
        return job.kind in (JobKind.DELETE, JobKind.COMMIT)

    def _probe_job(self) -> KeyJob:
        return KeyJob(JobKind.PROBE)

    def _transact(self, jobs: Sequence[KeyJob]) -> list[tuple[KeyJob, bool]]:
        """Write all jobs. Their callers wait at the same time, so commits may come last."""
        commits = [job for job in jobs if job.kind is JobKind.COMMIT]
        changes = [job for job in jobs if job.kind is not JobKind.COMMIT and job.kind is not JobKind.PROBE]
        rows = [field for job in changes for field in (job.key, job.value)]
        self._sync_commits("FULL" if commits else "NORMAL")
        last: int | None = None
        with self._transaction(self._write_lock.committing() if commits else contextlib.nullcontext()) as connection:
            size = sum(map(len, filter(None, rows)))
            self._pages = _FIXED_PAGES + size // _PAGE_SIZE
            self._is_visible = _is_visible(connection)
            existing = self._existing(connection, {job.key for job in changes if job.value is not None})
            if not (commits and size <= _LARGE_QUEUE_SIZE and self._commit_changes(connection, changes)):
                insert_pairs(connection, "INSERT INTO queue (key, value) VALUES {}", rows)
                last = self._commit_at_once(connection) if commits else None
            if len(changes) + len(commits) < len(jobs):
                database.touch(connection, KEYS_SCHEMA)
        if last is not None:
            with self._pending_lock:
                self._pending += [_PendingCommit(last, job) for job in commits]
            jobs = [job for job in jobs if job.kind is not JobKind.COMMIT]
        return [(job, job.value is not None and job.key not in existing) for job in jobs]

    def _sync_commits(self, synchronous: str) -> None:
        """Set when a commit is synced: FULL at once, NORMAL with the next sync."""
        connection = self._connect()
        if self._synchronous != synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous

    def _existing(self, connection: sqlite3.Connection, keys: Collection[bytes]) -> set[bytes]:
        """Those of the keys that are committed."""
        if not keys:
            return set()
        statement = "SELECT key FROM pairs WHERE key IN ({})"
        existing = {key for (key,) in execute_with_keys(connection, statement, keys)}
        if self._is_visible:
            statement = "SELECT key, value IS NULL FROM staged WHERE key IN ({})"
            for key, is_deleted in execute_with_keys(connection, statement, keys).fetchall():
                (existing.discard if is_deleted else existing.add)(key)
        return existing

    def _commit_changes(self, connection: sqlite3.Connection, changes: Sequence[KeyJob]) -> bool:
        """Commit changes that need not be queued: nothing is queued before them. Returns False if something is."""
        if _has_rows(connection, "queue") or (not self._is_visible and _has_rows(connection, "staged")):
            return False
        values = {job.key: job.value for job in changes}
        self._pages += len(values)
        if self._is_visible:
            # In front of the pairs, which would not be read.
            insert_pairs(connection, _UPSERT_STAGED, _flat(values.items()))
            return True
        deleted = [key for key, value in values.items() if value is None]
        if deleted:
            execute_with_keys(connection, "DELETE FROM pairs WHERE key IN ({})", deleted)
        insert_pairs(connection, _UPSERT_PAIRS, _flat(pair for pair in values.items() if pair[1] is not None))
        return True

    def _commit_at_once(self, connection: sqlite3.Connection) -> int | None:
        """Apply a small queue. For a large one, return the id of its last row."""
        queue = _measure(connection, self._large_queue)
        if queue.is_large(self._large_queue) or (not self._is_visible and _has_rows(connection, "staged")):
            return queue.last
        self._pages += queue.last - queue.first + queue.size // _PAGE_SIZE
        # Visible staged pairs are in front of the pairs, which would not be read.
        _apply(connection, _TO_STAGED if self._is_visible else _TO_PAIRS, queue.last)
        return None

    def _step(self) -> float:
        """Make one short transaction if one is needed. Returns seconds until the next, infinite for none."""
        if self._connection is None or not (self._pending or self._is_visible):
            return math.inf
        last = max((each.last for each in self._pending), default=0)
        self._is_visible = _is_visible(self._connection)
        queue = _measure(self._connection, self._large_queue)
        # Ids start anew in a queue that was emptied; then some later changes are committed as well.
        is_long = 0 < queue.first <= last and queue.is_large(self._large_queue)
        started = self._clock.now()
        if is_long and not self._is_visible:
            self._stage(queue)
        elif self._pending and not is_long:
            self._make_visible(last)
        elif self._is_visible:
            self._move_staged()
        self._adapt(self._clock.now() - started)
        return URGENT if self._pending else _MOVE_PAUSE

    def _stage(self, queue: _Queue) -> None:
        """Move the first rows of the queue to the staged pairs, which are not visible."""
        connection = self._connect()
        statement = "SELECT id, length(key) + ifnull(length(value), 0) FROM queue WHERE id >= ? ORDER BY id LIMIT ?"
        stop, size = _first_rows(connection.execute(statement, (queue.first, self._rows)))
        self._sync_commits("NORMAL")
        with self._transaction(contextlib.nullcontext()):
            self._pages = 2 * self._rows + size // _PAGE_SIZE
            _apply(connection, _TO_STAGED, stop)

    def _make_visible(self, last: int) -> None:
        """Stage the rest of the queue, which is small, and make all staged pairs visible: the commit."""
        connection = self._connect()
        self._sync_commits("FULL")
        with self._transaction(self._write_lock.committing()):
            self._pages = 2 * self._large_queue
            _apply(connection, _TO_STAGED, last)
            connection.execute("UPDATE state SET is_visible = 1 WHERE EXISTS (SELECT 1 FROM staged)")
        self._is_visible = True
        for each in self._remove_pending(last):
            each.job.set_result(False)

    def _move_staged(self) -> None:
        """Move the first staged pairs, in the order of their keys, to the pairs. The visible values stay the same."""
        connection = self._connect()
        self._sync_commits("NORMAL")
        statement = "SELECT key, length(key) + ifnull(length(value), 0) FROM staged ORDER BY key LIMIT ?"
        stop, size = _first_rows(connection.execute(statement, (self._rows,)))
        with self._transaction(contextlib.nullcontext()):
            self._pages = 2 * self._rows + size // _PAGE_SIZE
            if stop is not None:
                _apply(connection, _STAGED_TO_PAIRS, stop)
            is_moved = not _has_rows(connection, "staged")
            if is_moved:
                connection.execute("UPDATE state SET is_visible = 0")
        self._is_visible = not is_moved

    def _adapt(self, seconds: float) -> None:
        factor = 2 if seconds < _STEP_DURATION / 2 else 0.5 if seconds > _STEP_DURATION else 1
        self._rows = int(min(max(self._rows * factor, self._min_rows), self._max_rows))

    def _remove_pending(self, last: float) -> list[_PendingCommit]:
        """Remove and return the pending commits of rows up to `last`."""
        with self._pending_lock:
            taken = [each for each in self._pending if each.last <= last]
            self._pending = [each for each in self._pending if each.last > last]
        return taken


def _apply(connection: sqlite3.Connection, statements: Sequence[str], stop: object) -> None:
    for statement in statements:
        connection.execute(statement, (stop,))


def _measure(connection: sqlite3.Connection, large: int) -> _Queue:
    """Measure the queue. The size of one with so many rows is not needed."""
    first, last = connection.execute("SELECT ifnull(min(id), 0), ifnull(max(id), 0) FROM queue").fetchone()
    if last - first >= large:
        return _Queue(first, last, 0)
    statement = "SELECT ifnull(sum(length(key) + ifnull(length(value), 0)), 0) FROM queue"
    return _Queue(first, last, connection.execute(statement).fetchone()[0])


def _first_rows(rows: Iterable[tuple[Any, int]]) -> tuple[Any, int]:
    """The last of the first rows that fit into one step together, and their size in bytes; None without rows.

    A row is an id or a key, and the row's size.
    """
    stop, total = None, 0
    for row, size in rows:
        if stop is not None and total + size > _STEP_SIZE:
            break
        stop, total = row, total + size
    return stop, total


def _is_visible(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT is_visible FROM state").fetchone()[0])


def _has_rows(connection: sqlite3.Connection, table: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None


def _flat(pairs: Iterable[tuple[bytes, bytes | None]]) -> list[bytes | None]:
    return [field for pair in pairs for field in pair]
