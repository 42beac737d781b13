"""The key-value database in PostgreSQL: sets and deletions are queued, and a commit makes all of them visible at once.

One thread of each process writes for all its callers, and one reads for all of them: many jobs take one statement. A
commit is one transaction of any size. Commits of all processes are serial, by an advisory lock. Each takes all rows
that it finds in the queue, the last one of each key, so none is lost or applied twice. A row's id is greater than those
of all rows that were answered before it was queued. Nothing that was read is kept: another machine may commit at any
time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from filestoraged.future import Future
from filestoraged.store.key_jobs import JobKind, KeyChanges, KeyJob
from filestoraged.store.postgresql.connection import Connector, DeadlineConnection, ReadSessions, Session
from filestoraged.store.postgresql.schema import COMMIT_LOCK
from filestoraged.store.postgresql.transactions import PROBE, SessionWriter, wait_for_probe

# Seconds for the statements of one batch: a commit of a million keys takes about that long.
_BATCH_TIMEOUT = 15.0

# Values that are read together may have 1 MiB each.
_MAX_READS = 64

# Queues rows in their order, and returns the keys of `sets` that are committed.
_QUEUE = """WITH queued AS (
    INSERT INTO queue (digest, key, value) SELECT digest, key, value
    FROM unnest(%b::bytea[], %b::bytea[], %b::bytea[]) WITH ORDINALITY AS new (digest, key, value, place)
    ORDER BY place)
SELECT digest FROM pairs WHERE digest = ANY(%b::bytea[])"""

_LOCK = f"SELECT pg_advisory_xact_lock({COMMIT_LOCK})"

# The last queued row of a key counts. Deletions select by an array, so that a plan made for a large queue does not read
# all pairs for a small one.
_APPLY = """WITH taken AS (DELETE FROM queue RETURNING id, digest, key, value),
last AS MATERIALIZED (SELECT DISTINCT ON (digest) digest, key, value FROM taken ORDER BY digest, id DESC),
deleted AS (DELETE FROM pairs WHERE digest = ANY(ARRAY(SELECT digest FROM last WHERE value IS NULL)))
INSERT INTO pairs (digest, key, value) SELECT digest, key, value FROM last WHERE value IS NOT NULL
ON CONFLICT (digest) DO UPDATE SET value = excluded.value"""

_GET = "SELECT digest, value FROM pairs WHERE digest = ANY(%b::bytea[])"


class _Read(Future["bytes | None"]):
    __slots__ = ("digest",)

    def __init__(self, key: str) -> None:
        super().__init__()
        self.digest = _digest(key.encode())


class PostgresKeys(KeyChanges):
    """Make it after the fork."""

    is_remote: Literal[True] = True

    def __init__(self, connector: Connector) -> None:
        self._writing = _Writing(Session(connector, timeout=_BATCH_TIMEOUT), clock=connector.clock)
        self._reading = _Reading(Session(connector), max_batch=_MAX_READS, clock=connector.clock)
        self._counting = ReadSessions(connector, 1)

    @property
    def queued(self) -> int:
        """The number of sets and deletions since the last commit."""
        ((count,),) = self._counting.all("SELECT count(*) FROM queue", ())
        return int(count)

    def get(self, key: str) -> bytes | None:
        """The committed value, None for a missing key."""
        return self.get_later(key).result()

    def get_later(self, key: str) -> Future[bytes | None]:
        job = _Read(key)
        self._reading.submit(job)
        return job

    def probe(self) -> None:
        """Check that the database can be written. Raises an Error."""
        wait_for_probe(self._queued(KeyJob(JobKind.PROBE)))

    def close(self) -> None:
        self._writing.end()
        self._reading.end()
        self._counting.close()

    def _submit(self, job: KeyJob) -> None:
        self._writing.submit(job)


class _Reading(SessionWriter[_Read]):
    """Reads the values of many callers by one statement."""

    def _transact(self, jobs: Sequence[_Read]) -> list[tuple[_Read, bytes | None]]:
        values = dict(self._session.query(_GET, (list({job.digest for job in jobs}),), binary=True))
        return [(job, values.get(job.digest)) for job in jobs]


class _Writing(SessionWriter[KeyJob]):
    """Queues and commits the changes of many callers."""

    def _transact(self, jobs: Sequence[KeyJob]) -> list[tuple[KeyJob, bool]]:
        existing = self._repeat(self._write, jobs)
        return [(job, job.kind is JobKind.SET and _digest(job.key) not in existing) for job in jobs]

    def _write(self, jobs: Sequence[KeyJob]) -> set[bytes]:
        """Write all jobs. Returns the digests of their keys that are committed.

        Their callers wait at the same time, so commits may come last.
        """
        changes = [job for job in jobs if job.kind in (JobKind.SET, JobKind.DELETE)]
        connection = self._session.begin()
        try:
            if any(job.kind is JobKind.PROBE for job in jobs):
                connection.execute(PROBE)
            if not any(job.kind is JobKind.COMMIT for job in jobs):
                return _queue(connection, changes) if changes else set()
            if not changes:
                # One message: the server makes one transaction of both statements.
                connection.execute(f"{_LOCK}; {_APPLY}")
                return set()
            return self._queue_and_commit(connection, changes)
        except BaseException:
            self._session.recover()
            raise

    def _queue_and_commit(self, connection: DeadlineConnection, changes: Sequence[KeyJob]) -> set[bytes]:
        """One transaction, whose statements are sent together."""
        with connection.pipeline():
            connection.execute("BEGIN")
            found = connection.execute(_QUEUE, _arrays(changes), binary=True)
            connection.execute(_LOCK)
            connection.execute(_APPLY)
            connection.execute("COMMIT")
        return {bytes(digest) for (digest,) in found.fetchall()}


def _queue(connection: DeadlineConnection, changes: Sequence[KeyJob]) -> set[bytes]:
    return {bytes(digest) for (digest,) in connection.execute(_QUEUE, _arrays(changes), binary=True).fetchall()}


def _arrays(changes: Sequence[KeyJob]) -> tuple[Any, ...]:
    digests = [_digest(job.key) for job in changes]
    sets = [digest for digest, job in zip(digests, changes) if job.kind is JobKind.SET]
    return digests, [job.key for job in changes], [job.value for job in changes], sets


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
