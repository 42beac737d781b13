"""Drops and locks in PostgreSQL: group commit, and the process's session as the sign that it is alive.

All writes of a process go through one connection. Its session holds an advisory lock with a random number, the
process's token. PostgreSQL frees the lock when the session ends, however that happens. So what a session has claimed is
free for others as soon as it is gone, and no claim is made by a session without the lock.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import StoreUnavailable
from filestoraged.future import Future, set_results
from filestoraged.store.batch_writer import MAX_BATCH, BatchWriter
from filestoraged.store.postgresql.connection import Connector, DeadlineConnection, ReadSessions, Session, translate
from filestoraged.store.postgresql.failures import CONFLICTS, failure
from filestoraged.store.postgresql.schema import SCHEMA
from filestoraged.store.transactions import Cursor, Job, JobQueue, Users

log = logging.getLogger(__name__)

_Item = TypeVar("_Item", bound=Future[Any])
_Result = TypeVar("_Result")

# Connections for queries of a process.
_READERS = 4

# How often a transaction is repeated that was rolled back for the sake of another one.
_ATTEMPTS = 5

# Bits of a token: those of an advisory lock without the sign.
_TOKEN_BITS = 62

# Seconds that `close` waits for the transaction in progress.
_CLOSE_TIMEOUT = 5.0

# Writes a lock to a row, unless another process does at this moment.
PROBE = f"SELECT 1 FROM {SCHEMA}.version FOR UPDATE SKIP LOCKED"
# Seconds.
PROBE_TIMEOUT = 5.0


class _Transaction:
    """The `Transaction` of a connection."""

    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, connection: DeadlineConnection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[object] = ()) -> Cursor:
        return self._connection.execute(translate(statement), values)

    def executemany(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(translate(statement), rows)

    def insert(self, statement: str, values: Sequence[object]) -> int | None:
        found = self.execute(f"{statement} RETURNING rowid", values).fetchone()
        return None if found is None else int(found[0])

    def serialize(self, name: str) -> None:
        # A statement's snapshot is older than the lock that it waits for, so it is a statement of its own.
        self._connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


class SessionWriter(ABC, Generic[_Item]):
    """Passes the jobs of many callers to `_transact`, which uses one session for them."""

    def __init__(self, session: Session, *, max_batch: int = MAX_BATCH, clock: Clock = SYSTEM_CLOCK) -> None:
        self._session = session
        none = contextlib.nullcontext()
        self._writer: BatchWriter[_Item] = BatchWriter(none, self, max_batch=max_batch, clock=clock)

    def submit(self, job: _Item) -> None:
        """Raises StoreUnavailable if it cannot be queued."""
        self._writer.submit(job)

    def end(self) -> bool:
        """Finish the batch in progress, and close the session. Returns False if that takes too long."""
        if not self._writer.close(_CLOSE_TIMEOUT):
            log.error("closed while the database does not answer")
            return False
        self._session.close()
        return True

    # The rest runs on the writer's threads.

    @abstractmethod
    def _transact(self, jobs: Sequence[_Item]) -> Iterable[tuple[_Item, Any]]:
        """Returns the jobs with their results or errors. What it raises is the error of all of them."""

    def write_batch(self, jobs: Sequence[_Item]) -> None:
        try:
            results = self._transact(jobs)
        except Exception as error:
            self.refuse(jobs, error)
        else:
            set_results(results)

    def maintain(self) -> float:
        return math.inf

    def refuse(self, jobs: Sequence[_Item], error: Exception) -> None:
        set_results([(job, failure(error)) for job in jobs])

    def _repeat(self, transact: Callable[[Sequence[_Item]], _Result], jobs: Sequence[_Item]) -> _Result:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return transact(jobs)
            except CONFLICTS:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")


class PostgresTransactions(JobQueue, SessionWriter[Job]):
    """Implements `Transactions`, and `Owners` by its session. Make it after the fork. Any thread calls it."""

    is_remote = True

    def __init__(self, connector: Connector) -> None:
        self.users = Users()
        self._readers = ReadSessions(connector, _READERS)
        self._token = ""
        super().__init__(Session(connector, on_connect=self._own))

    # Transactions.

    def read(self, statement: str, /, *values: Any) -> list[Any]:
        return self._readers.all(translate(statement), values)

    def encode(self, text: str, /) -> bytes:
        return text.encode("utf-8", "surrogatepass")

    def decode(self, value: Any, /) -> str:
        return bytes(value).decode("utf-8", "surrogatepass")

    def probe(self) -> None:
        wait_for_probe(self.write(lambda transaction: transaction.execute(PROBE).rowcount))

    def close(self) -> None:
        if self.users.remove() and self.end():
            self._readers.close()

    # Owners.

    def prepare(self) -> None:
        pass

    @property
    def token(self) -> str:
        """That of the session of the transaction in progress."""
        return self._token

    def is_alive(self, token: str, /) -> bool:
        if token == self._token and self._session.is_open:
            return True
        # Held until the end of this statement. Tokens are never used again.
        ((is_free,),) = self.read("SELECT pg_try_advisory_xact_lock(?)", lock_number(token))
        return not is_free

    def sweep(self) -> None:
        pass

    # The rest runs on the writer's threads.

    def _own(self, connection: DeadlineConnection) -> None:
        number = secrets.randbits(_TOKEN_BITS)
        connection.execute("SELECT pg_advisory_lock(%s)", (number,))
        self._token = f"{number:016x}"

    def _transact(self, jobs: Sequence[Job]) -> list[tuple[Job, Any]]:
        """Run the jobs in one transaction. If one fails in a way that ends it, run each in a transaction of its own."""
        try:
            return list(zip(jobs, self._repeat(self._run, jobs), strict=True))
        except Exception as error:
            known = failure(error)
            if len(jobs) == 1 or isinstance(known, StoreUnavailable):
                return [(job, known) for job in jobs]
        return [(job, self._run_alone(job)) for job in jobs]

    def _run_alone(self, job: Job) -> Any:
        try:
            (result,) = self._repeat(self._run, [job])
        except Exception as error:
            return failure(error)
        return result

    def _run(self, jobs: Sequence[Job]) -> list[Any]:
        connection = self._session.begin()
        try:
            # Not prepared: that would take three messages more, and save the parsing of one word.
            connection.execute("BEGIN", prepare=False)
            transaction = _Transaction(connection)
            results = [job.run(transaction) for job in jobs]
            connection.execute("COMMIT", prepare=False)
        except BaseException:
            self._session.recover()
            raise
        return results


def lock_number(token: str) -> int:
    """The number of the advisory lock that the session with a token holds."""
    return int(token, 16)


def wait_for_probe(job: Future[Any]) -> None:
    """Raises an Error."""
    try:
        job.result(PROBE_TIMEOUT)
    except TimeoutError as error:
        raise StoreUnavailable("The database does not answer at present.") from error
