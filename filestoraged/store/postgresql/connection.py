"""Connections to PostgreSQL: made when they are first needed, made anew when they are broken, and never waited for
longer than their deadline.

Make a `Connector` before or after the fork, and connections after it.
"""

from __future__ import annotations

import functools
import math
import re
import select
import threading
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.waiting import Ready, Wait

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, StoreUnavailable
from filestoraged.store.postgresql.failures import failure
from filestoraged.store.postgresql.schema import SCHEMA, prepare_schema
from filestoraged.store.postgresql.url import DatabaseAddress

# Seconds for all statements of one transaction of a few jobs. With the time to connect, and that for which a job is
# queued, a request waits for less than 30 s.
TRANSACTION_TIMEOUT = 10.0

# Seconds after a failed attempt during which others fail at once: many requests must not wait for one after the other.
_FAILURE_TTL = 0.5

# Seconds after the server's own timeout at which a server is taken for stopped.
_GRACE = 1.0

# Seconds within which a connection that is lost was lost before the statement.
_SOON = 1.0

# Seconds to wait for a connection for a query.
_READER_TIMEOUT = 5.0

_MILLISECONDS = 1000

_EVENTS = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}

# SQL of `store.transactions` in PostgreSQL's dialect. The time is that of the statement: one that were read anew for
# each row could not be compared by an index.
_EPOCH = "extract(epoch FROM statement_timestamp())"
_DIALECT: tuple[tuple[str, str], ...] = (
    (r"%", "%%"),
    (r"\bINDEXED BY \w+", ""),
    (r"\bIS \?", "IS NOT DISTINCT FROM ?"),
    (r"\bepoch_second\(\)", f"floor({_EPOCH})::bigint"),
    (r"\bepoch\(\)", f"{_EPOCH}::float8"),
    (r"\?", "%s"),
)


@functools.lru_cache(maxsize=256)
def translate(statement: str) -> str:
    """A statement of `store.transactions` in PostgreSQL's dialect."""
    for pattern, replacement in _DIALECT:
        statement = re.sub(pattern, replacement, statement)
    return statement


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that is closed when an answer does not come before `deadline`, on its clock.

    The server ends statements that take too long. This is for a server, or a network, that does not answer at all.
    """

    deadline = 0.0
    clock: Clock = SYSTEM_CLOCK

    def wait(self, gen: PQGen[Any], interval: float = 0.0, timeout: float | None = None) -> Any:
        descriptor = self.pgconn.socket
        poller = select.poll()
        try:
            events = _EVENTS[next(gen)]
            while True:
                poller.register(descriptor, events)
                left = self.deadline - self.clock.now()
                ready = poller.poll(max(0, left) * _MILLISECONDS)
                if not ready:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server has not answered in time")
                ((_, found),) = ready
                events = _EVENTS[gen.send(_ready(found))]
        except StopIteration as ended:
            return ended.value

    @property
    def is_stale(self) -> bool:
        """Whether the server has closed it, or has sent what no statement waits for."""
        if self.closed:
            return True
        poller = select.poll()
        poller.register(self.pgconn.socket, select.POLLIN)
        return bool(poller.poll(0))


def _ready(events: int) -> Ready:
    if events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
        # Reading tells why.
        return Ready.RW
    if events & select.POLLIN:
        return Ready.RW if events & select.POLLOUT else Ready.R
    return Ready.W


class Connector:
    """Makes connections. Any thread calls it. The lock guards the last failure and whether the schema was checked."""

    def __init__(
        self,
        address: DatabaseAddress,
        prepare: Callable[[DeadlineConnection], None] = prepare_schema,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`prepare` is called with the first connection, and others until it has succeeded once."""
        self.address = address
        self.clock = clock
        self._prepare = prepare
        self._lock = threading.Lock()
        self._failure: Error | None = None
        self._failed_at = 0.0
        self._is_prepared = False

    def timeout(self, longest: float) -> float:
        """Seconds for the statements of a transaction, at most `longest`: the URL may set less."""
        return min(longest, self.address.statement_timeout or longest)

    def connect(self, timeout: float = TRANSACTION_TIMEOUT) -> DeadlineConnection:
        """Make a connection, whose statements the server ends after `timeout` seconds. Raises an Error."""
        with self._lock:
            if self._failure is not None and self.clock.now() - self._failed_at < _FAILURE_TTL:
                # Not the same one: many threads would add to its traceback.
                raise type(self._failure)(str(self._failure)) from self._failure.__cause__
        try:
            connection = self._make(self.timeout(timeout))
        except Exception as error:
            known = failure(error)
            with self._lock:
                self._failure, self._failed_at = known, self.clock.now()
            raise known from known.__cause__
        with self._lock:
            self._failure = None
        return connection

    def _make(self, timeout: float) -> DeadlineConnection:
        connection = DeadlineConnection.connect(make_conninfo(**self.address.parameters), autocommit=True)
        try:
            connection.clock = self.clock
            connection.deadline = self.clock.now() + timeout + _GRACE
            milliseconds = round(timeout * _MILLISECONDS)
            # The server ends what waits for a lock first: its message says so.
            connection.execute(
                f"SET search_path = {SCHEMA}; SET statement_timeout = {milliseconds};"
                f" SET lock_timeout = {milliseconds * 9 // 10};"
                f" SET idle_in_transaction_session_timeout = {milliseconds};"
                " SET default_transaction_isolation = 'read committed'"
            )
            if not self._is_prepared:
                self._prepare(connection)
                self._is_prepared = True
        except BaseException:
            connection.close()
            raise
        return connection


class Session:
    """A connection that is kept, for one thread at a time. `on_connect` is called for each that is made."""

    def __init__(
        self,
        connector: Connector,
        *,
        timeout: float = TRANSACTION_TIMEOUT,
        on_connect: Callable[[DeadlineConnection], None] | None = None,
    ) -> None:
        self._connector = connector
        self._clock = connector.clock
        self._timeout = connector.timeout(timeout)
        self._on_connect = on_connect
        self._connection: DeadlineConnection | None = None
        # When a statement began on a connection that was kept.
        self._reused_at = -math.inf

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def begin(self) -> DeadlineConnection:
        """The connection, for statements that take `timeout` seconds together at most. Raises an Error."""
        connection = self._connection
        if connection is None or connection.is_stale:
            self.close()
            connection = self._connect()
        else:
            self._reused_at = self._clock.now()
        connection.deadline = self._clock.now() + self._timeout + _GRACE
        return connection

    def _connect(self) -> DeadlineConnection:
        self._reused_at = -math.inf
        connection = self._connector.connect(self._timeout)
        try:
            if self._on_connect is not None:
                self._on_connect(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def query(self, statement: str, values: Sequence[object], *, binary: bool = False) -> list[Any]:
        """All rows of a query, in PostgreSQL's dialect."""
        try:
            return self.begin().execute(statement, values, binary=binary).fetchall()
        except Exception:
            if not self.recover():
                raise
        return self.query(statement, values, binary=binary)

    def recover(self) -> bool:
        """After an error: end the transaction, or close a connection that is not usable any more.

        Returns whether a query can be repeated: its connection, which was not new, was lost at once. The server was
        restarted, for example.
        """
        connection = self._connection
        if connection is None or connection.closed:
            self.close()
            return self._clock.now() - self._reused_at < _SOON
        try:
            connection.deadline = self._clock.now() + _GRACE
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self.close()
        return False

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class ReadSessions:
    """Sessions for queries, as many as threads query at once, up to `size`. Any thread calls it."""

    def __init__(self, connector: Connector, size: int) -> None:
        self._connector = connector
        self._free = threading.Semaphore(size)
        self._idle: list[Session] = []

    def all(self, statement: str, values: Sequence[object]) -> list[Any]:
        """All rows of a query, in PostgreSQL's dialect. Raises an Error."""
        if not self._free.acquire(timeout=self._connector.timeout(_READER_TIMEOUT)):
            raise StoreUnavailable("All connections to the database are in use; retry later.")
        try:
            return self._read(statement, values)
        finally:
            self._free.release()

    def _read(self, statement: str, values: Sequence[object]) -> list[Any]:
        try:
            session = self._idle.pop()
        except IndexError:
            session = Session(self._connector)
        try:
            rows = session.query(statement, values)
        except Exception as error:
            if session.is_open:
                self._idle.append(session)
            known = failure(error)
            raise known from known.__cause__
        self._idle.append(session)
        return rows

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
