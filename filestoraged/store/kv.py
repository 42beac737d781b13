"""A transactional key-value database: what is set and deleted is queued, and a commit makes all of it visible at once.

One SQLite file with a write-ahead log, so that readers never wait and never see half a commit. The queue is a table:
every process sees the same one, and a restart forgets nothing. A commit is on disk when it is answered; what is queued
survives a kill, and the next commit's sync covers it.

A small queue is applied to the pairs by one transaction. A large one would hold up all who write meanwhile, so it goes
by short transactions, with others between them: from the queue to the staged pairs, which nobody reads yet; then one
transaction makes these visible, in front of the older pairs, and is the commit; then they move to the pairs.
"""

from __future__ import annotations

import builtins
import contextlib
import enum
import math
import sqlite3
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.sqlite.group_commit import LATER, GroupCommitDatabase
from filestoraged.store.sqlite.writer import URGENT

_SCHEMA = Schema(
    # "fskv"
    application=0x66736B76,
    version=2,
    tables=(
        "CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL)",
        # In the order of arrival; without a value, the key is to be deleted.
        "CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB)",
        # What has left the queue and is not yet among the pairs: the last value of each key.
        "CREATE TABLE IF NOT EXISTS staged (key BLOB PRIMARY KEY, value BLOB)",
        # Whether the staged pairs are visible. One row.
        "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), is_visible INTEGER NOT NULL)",
        "INSERT OR IGNORE INTO state VALUES (1, 0)",
    ),
)

# A larger queue than that, in rows or in bytes, is committed by short transactions.
_LARGE = 5000
_LARGE_SIZE = 8 * 1024 * 1024

# Seconds that a short transaction takes: others wait no longer than for one of them. Rows are as many as that gives.
_STEP = 0.05
_FEWEST, _MOST = 50, 5000
# And no more bytes than that: rows that were small say nothing of those that follow.
_STEP_SIZE = 2 * 1024 * 1024

# Seconds between two transactions that move what is visible already: other processes get the lock, and readers a core.
_PAUSE = 0.05
# And behind one that has failed.
_PAUSE_AFTER_FAILURE = 1.0

# Pages that a transaction writes which queues a little: the end of the queue, and the first page.
_FIXED_PAGES = 3
_PAGE = 4096

# What a key has where nothing that is staged is visible. No row: something is, or there is no such key.
_GET_PAIR = "SELECT value FROM pairs WHERE key = ? AND NOT (SELECT is_visible FROM state)"
_GET = (
    "SELECT value FROM ("
    "SELECT 0 AS age, value FROM staged WHERE key = ?1 AND (SELECT is_visible FROM state)"
    " UNION ALL SELECT 1, value FROM pairs WHERE key = ?1) ORDER BY age LIMIT 1"
)

# Of all that is queued for a key, the last counts: with max(), SQLite takes the other columns from that row.
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
_STAGED_TO_PAIRS = (
    "DELETE FROM pairs WHERE key IN (SELECT key FROM staged WHERE key <= ? AND value IS NULL)",
    "INSERT OR REPLACE INTO pairs SELECT key, value FROM staged WHERE key <= ? AND value IS NOT NULL",
    "DELETE FROM staged WHERE key <= ?",
)


class _Kind(enum.Enum):
    SET = "set"
    DELETE = "delete"
    COMMIT = "commit"
    PROBE = "probe"


class _Job(NamedTuple):
    """What is to be written for one caller. `key` is empty but for a set and a deletion, `value` but for a set."""

    kind: _Kind
    # A set's is whether the commit will create the key.
    done: Future[bool]
    key: bytes = b""
    value: bytes | None = None


class _Queue(NamedTuple):
    """What is queued: the first and the last row's id, 0 for none, and the bytes between them."""

    first: int
    last: int
    size: int

    @property
    def is_large(self) -> bool:
        return self.last - self.first >= _LARGE or self.size > _LARGE_SIZE


class _Waiting(NamedTuple):
    """A commit that takes several transactions: of all rows up to `last`."""

    last: int
    done: Future[bool]


def prepare_keys(path: str) -> None:
    """Make the database, or see that it can be used. Raises StartError and StorageFull."""
    database.prepare(path, _SCHEMA)


class KeyValues(GroupCommitDatabase[_Job]):
    """The database at `path`. Keys are any strings that can be UTF-8, values are bytes.

    Make it after the fork. Many threads use it; what they write is gathered by one, into few transactions.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, _SCHEMA)
        # The lock guards the list: they are answered by the writer's thread, or refused by another.
        self._waiting: list[_Waiting] = []
        self._waiting_lock = threading.Lock()
        self._rows = _FEWEST
        # Whether something that is staged was visible in the last transaction. Unknown at first.
        self._is_visible = True
        self._synchronous = ""

    @property
    def commits(self) -> int:
        """Whatever was read is still the same while this is, and even."""
        return self._turn.commits

    @property
    def queued(self) -> int:
        """How many keys were set or deleted since the last commit, each time counted."""
        # Without counting: the queue has no gaps. Of what a large commit has staged, each key is counted once.
        ((count,),) = self._readers.all(
            "SELECT (SELECT ifnull(max(id) - min(id) + 1, 0) FROM queue)"
            " + (SELECT count(*) FROM staged WHERE NOT (SELECT is_visible FROM state))"
        )
        return int(count)

    def get(self, key: str) -> bytes | None:
        """The committed value, None where there is none."""
        rows = self._readers.all(_GET_PAIR, key.encode()) or self._readers.all(_GET, key.encode())
        return None if not rows or rows[0][0] is None else bytes(rows[0][0])

    def set(self, key: str, value: bytes) -> bool:
        """Queue a value. Returns whether the commit will create the key."""
        return self.set_later(key, value).result()

    def delete(self, key: str) -> None:
        """Queue a deletion, of what may not be there."""
        self.delete_later(key).result()

    def commit(self) -> None:
        """Make visible all that was queued before, in its order."""
        self.commit_later().result()

    # The same, for callers that do not wait. They raise StoreUnavailable where nothing can be submitted.

    def set_later(self, key: str, value: bytes) -> Future[bool]:
        return self._submit(_Job(_Kind.SET, Future(), key.encode(), value))

    def delete_later(self, key: str) -> Future[bool]:
        return self._submit(_Job(_Kind.DELETE, Future(), key.encode()))

    def commit_later(self) -> Future[bool]:
        return self._submit(_Job(_Kind.COMMIT, Future()))

    def _submit(self, job: _Job) -> Future[bool]:
        self._writer.submit(job)
        return job.done

    # The rest runs on the writer's threads.

    def tidy(self) -> float:
        """Go on with commits that take several transactions, and with what they leave to be moved."""
        try:
            pause = self._step()
        except Exception as error:
            self.refuse([], error)
            pause = _PAUSE_AFTER_FAILURE
        super().tidy()
        return pause

    def refuse(self, jobs: Sequence[_Job], error: Exception) -> None:
        super().refuse(jobs, error)
        if not jobs:
            # What they have staged is committed by the next one.
            waiting = self._take_waiting(math.inf)
            super().refuse([_Job(_Kind.COMMIT, each.done) for each in waiting], error)

    def _probe_job(self) -> _Job:
        return _Job(_Kind.PROBE, Future())

    def _transact(self, jobs: Sequence[_Job]) -> list[Any]:
        """All of them were asked for at once, so commits may come last."""
        commits = [job for job in jobs if job.kind is _Kind.COMMIT]
        self._sync_commits("FULL" if commits else "NORMAL")
        rows = [(job.key, job.value) for job in jobs if job.kind in (_Kind.SET, _Kind.DELETE)]
        last: int | None = None
        with self._transaction(self._turn.committing() if commits else contextlib.nullcontext()) as connection:
            self._pages = _FIXED_PAGES + sum([len(key) + len(value or b"") for key, value in rows]) // _PAGE
            self._is_visible = _is_visible(connection)
            existing = self._existing(connection, [job.key for job in jobs if job.kind is _Kind.SET])
            connection.executemany("INSERT INTO queue (key, value) VALUES (?, ?)", rows)
            if len(rows) + len(commits) < len(jobs):
                database.touch(connection, _SCHEMA)
            if commits:
                last = self._commit_at_once(connection)
        if last is not None:
            with self._waiting_lock:
                self._waiting += [_Waiting(last, job.done) for job in commits]
        return [
            LATER
            if last is not None and job.kind is _Kind.COMMIT
            else job.kind is _Kind.SET and job.key not in existing
            for job in jobs
        ]

    def _sync_commits(self, synchronous: str) -> None:
        """FULL syncs a transaction when it is committed, NORMAL leaves it to the next sync."""
        connection = self._connect()
        if self._synchronous != synchronous:
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous

    def _existing(self, connection: sqlite3.Connection, keys: list[bytes]) -> builtins.set[bytes]:
        """Those of the keys that are committed."""
        if not keys:
            return set()
        places = ",".join("?" * len(keys))
        existing = {bytes(key) for (key,) in connection.execute(f"SELECT key FROM pairs WHERE key IN ({places})", keys)}
        if self._is_visible:
            question = f"SELECT key, value IS NULL FROM staged WHERE key IN ({places})"
            for key, is_deleted in connection.execute(question, keys).fetchall():
                (existing.discard if is_deleted else existing.add)(bytes(key))
        return existing

    def _commit_at_once(self, connection: sqlite3.Connection) -> int | None:
        """Make what is queued visible, where that is quick; else return the id of the last row that is queued."""
        queue = _measure(connection)
        if queue.is_large or (not self._is_visible and _has_staged(connection)):
            return queue.last
        self._pages += queue.last - queue.first + queue.size // _PAGE
        # In front of what is staged and visible, the pairs would not be seen.
        _apply(connection, _TO_STAGED if self._is_visible else _TO_PAIRS, queue.last)
        return None

    def _step(self) -> float:
        """One short transaction, if one is to be made. Returns seconds until the next, infinite for none."""
        if self._connection is None or not (self._waiting or self._is_visible):
            return math.inf
        last = max((each.last for each in self._waiting), default=0)
        self._is_visible = _is_visible(self._connection)
        queue = _measure(self._connection)
        # In a queue that was emptied, ids begin anew: then some that came later are committed as well.
        is_long = 0 < queue.first <= last and queue.is_large
        started = time.monotonic()
        if is_long and not self._is_visible:
            self._stage(queue)
        elif self._waiting and not is_long:
            self._show(last)
        elif self._is_visible:
            self._move_staged()
        self._adapt(time.monotonic() - started)
        return URGENT if self._waiting else _PAUSE

    def _stage(self, queue: _Queue) -> None:
        """Move the beginning of the queue to the staged pairs, which are not visible."""
        connection = self._connect()
        question = "SELECT id, length(key) + ifnull(length(value), 0) FROM queue WHERE id >= ? ORDER BY id LIMIT ?"
        stop, size = _beginning(connection.execute(question, (queue.first, self._rows)))
        self._sync_commits("NORMAL")
        with self._transaction(contextlib.nullcontext()):
            self._pages = 2 * self._rows + size // _PAGE
            _apply(connection, _TO_STAGED, stop)

    def _show(self, last: int) -> None:
        """Stage what is left of the queue, which is little, and make all that is staged visible: the commit."""
        connection = self._connect()
        self._sync_commits("FULL")
        with self._transaction(self._turn.committing()):
            self._pages = 2 * _LARGE
            _apply(connection, _TO_STAGED, last)
            connection.execute("UPDATE state SET is_visible = 1 WHERE EXISTS (SELECT 1 FROM staged)")
        self._is_visible = True
        for each in self._take_waiting(last):
            each.done.set_result(False)

    def _move_staged(self) -> None:
        """Move the first of the staged pairs, by their keys, to the others. What is visible stays the same."""
        connection = self._connect()
        self._sync_commits("NORMAL")
        question = "SELECT key, length(key) + ifnull(length(value), 0) FROM staged ORDER BY key LIMIT ?"
        stop, size = _beginning(connection.execute(question, (self._rows,)))
        with self._transaction(contextlib.nullcontext()):
            self._pages = 2 * self._rows + size // _PAGE
            if stop is not None:
                _apply(connection, _STAGED_TO_PAIRS, stop)
            is_moved = not _has_staged(connection)
            if is_moved:
                connection.execute("UPDATE state SET is_visible = 0")
        self._is_visible = not is_moved

    def _adapt(self, seconds: float) -> None:
        factor = 2 if seconds < _STEP / 2 else 0.5 if seconds > _STEP else 1
        self._rows = int(min(max(self._rows * factor, _FEWEST), _MOST))

    def _take_waiting(self, last: float) -> list[_Waiting]:
        """Those whose rows are not behind `last`."""
        with self._waiting_lock:
            taken = [each for each in self._waiting if each.last <= last]
            self._waiting = [each for each in self._waiting if each.last > last]
        return taken


def _apply(connection: sqlite3.Connection, statements: Sequence[str], stop: object) -> None:
    for statement in statements:
        connection.execute(statement, (stop,))


def _measure(connection: sqlite3.Connection) -> _Queue:
    first, last = connection.execute("SELECT ifnull(min(id), 0), ifnull(max(id), 0) FROM queue").fetchone()
    if last - first >= _LARGE:
        return _Queue(first, last, 0)
    question = "SELECT ifnull(sum(length(key) + ifnull(length(value), 0)), 0) FROM queue"
    return _Queue(first, last, connection.execute(question).fetchone()[0])


def _beginning(rows: Iterable[tuple[Any, int]]) -> tuple[Any, int]:
    """The last of the first rows that are not too large together for one step, None where there are none; their size.

    A row is what it is found by, and its bytes.
    """
    stop, total = None, 0
    for place, size in rows:
        if stop is not None and total + size > _STEP_SIZE:
            break
        stop, total = place, total + size
    return stop, total


def _is_visible(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT is_visible FROM state").fetchone()[0])


def _has_staged(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM staged LIMIT 1").fetchone() is not None
