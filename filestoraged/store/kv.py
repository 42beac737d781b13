"""A transactional key-value database: what is set and deleted is queued, and a commit makes all of it visible at once.

One SQLite file with a write-ahead log, so that readers never wait and never see half a commit. The queue is a table:
every process sees the same one, and a restart forgets nothing. A commit is on disk when it is answered; what is queued
survives a kill, and the next commit's sync covers it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, List, NamedTuple, Optional, Sequence, Set

from filestoraged.store import database
from filestoraged.store.database import Schema
from filestoraged.store.ledger import GroupedDatabase
from filestoraged.store.priority import stand_back

_SCHEMA = Schema(
    # "fskv"
    application=0x66736B76,
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL)",
        # In the order of their coming; without a value, the key is to be deleted.
        "CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB)",
    ),
)

# Of all that is queued for a key, the last counts.
_LAST = "id IN (SELECT max(id) FROM queue GROUP BY key)"
_APPLY = (
    f"DELETE FROM pairs WHERE key IN (SELECT key FROM queue WHERE value IS NULL AND {_LAST})",
    f"INSERT OR REPLACE INTO pairs SELECT key, value FROM queue WHERE value IS NOT NULL AND {_LAST}",
    "DELETE FROM queue",
)

# A queue of so many is applied beside other work, not before it.
_LARGE = 5000

# Pages of the log before they are copied into the database: syncing both then takes a while.
_CHECKPOINT = 4000

# Bytes of the log's file that are kept when a large commit has made it larger.
_LOG_SIZE = 64 * 1024 * 1024


class _Job(NamedTuple):
    """What is to be written for one caller: a pair, a key without a value to delete it, or, without a key, a commit."""

    key: Optional[bytes]
    value: Optional[bytes]
    # A set's is whether the commit will create the key.
    done: "Future[bool]"


def prepare_keys(path: str) -> None:
    """Make the database, or see that it can be used. Raises StartError."""
    database.prepare(path, _SCHEMA)


class KeyValues(GroupedDatabase[_Job]):
    """The database at `path`, which is there. Keys are any strings that can be UTF-8, values are bytes.

    Make it after the fork. Many threads use it; what they write is gathered by one, into few transactions.
    """

    @property
    def commits(self) -> int:
        """Whatever was read is still the same while this is, and even."""
        return self._turn.commits

    @property
    def queued(self) -> int:
        """How many keys were set or deleted since the last commit, each time counted."""
        # Without counting: the queue has no gaps, and is emptied as a whole.
        ((count,),) = self._readers.all("SELECT ifnull(max(id) - min(id) + 1, 0) FROM queue")
        return int(count)

    def get(self, key: str) -> Optional[bytes]:
        """The committed value, None where there is none."""
        rows = self._readers.all("SELECT value FROM pairs WHERE key = ?", key.encode())
        return bytes(rows[0][0]) if rows else None

    def set(self, key: str, value: bytes) -> bool:
        """Queue a value. Returns whether the commit will create the key."""
        return self.set_later(key, value).result()

    def delete(self, key: str) -> None:
        """Queue a deletion, of what may not be there."""
        self.delete_later(key).result()

    def commit(self) -> None:
        """Make visible all that was queued before, in its order."""
        self.commit_later().result()

    # The same, for those who do not wait.

    def set_later(self, key: str, value: bytes) -> "Future[bool]":
        return self._submit(key.encode(), value)

    def delete_later(self, key: str) -> "Future[bool]":
        return self._submit(key.encode(), None)

    def commit_later(self) -> "Future[bool]":
        return self._submit(None, None)

    def _submit(self, key: Optional[bytes], value: Optional[bytes]) -> "Future[bool]":
        done: "Future[bool]" = Future()
        self._writer.submit(_Job(key, value, done))
        return done

    # The rest runs on the writer's thread.

    def _transact(self, jobs: Sequence[_Job]) -> List[bool]:
        """All of them were asked for at once, so commits may come last."""
        commits = any(job.key is None for job in jobs)
        self._connect().execute(f"PRAGMA synchronous = {'FULL' if commits else 'NORMAL'}")
        with self._transaction(self._turn.committing() if commits else contextlib.nullcontext()) as connection:
            existing = _existing(connection, [job.key for job in jobs if job.value is not None])
            queued = [(job.key, job.value) for job in jobs if job.key is not None]
            connection.executemany("INSERT INTO queue (key, value) VALUES (?, ?)", queued)
            if commits:
                _apply(connection)
        return [job.value is not None and job.key not in existing for job in jobs]

    def _connect(self) -> sqlite3.Connection:
        is_new = self._connection is None
        connection = super()._connect()
        if is_new:
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
        return connection


def _apply(connection: sqlite3.Connection) -> None:
    (queued,) = connection.execute("SELECT ifnull(max(id) - min(id), 0) FROM queue").fetchone()
    if queued < _LARGE:
        _execute_all(connection)
        return
    # It takes a while, and readers may have no other core: they go first.
    with ThreadPoolExecutor(1, initializer=stand_back, initargs=(19,)) as thread:
        thread.submit(_execute_all, connection).result()


def _execute_all(connection: sqlite3.Connection) -> None:
    for statement in _APPLY:
        connection.execute(statement)


def _existing(connection: sqlite3.Connection, keys: List[Any]) -> Set[bytes]:
    if not keys:
        return set()
    places = ",".join("?" * len(keys))
    return {bytes(key) for (key,) in connection.execute(f"SELECT key FROM pairs WHERE key IN ({places})", keys)}
