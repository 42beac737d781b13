"""SQLite files that many read, and that one thread of each process writes: what is wanted meanwhile goes together."""

from __future__ import annotations

import contextlib
import sqlite3
from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Any, Callable, Generic, Iterator, List, NamedTuple, Optional, Protocol, Sequence, TypeVar

from filestoraged.errors import Error
from filestoraged.store import database
from filestoraged.store.database import Readers
from filestoraged.store.turn import Turn
from filestoraged.store.writer import Writer

_Result = TypeVar("_Result")


class Job(Protocol):
    """What somebody wants written, and waits for."""

    @property
    def done(self) -> "Future[Any]": ...


_Job = TypeVar("_Job", bound=Job)


class GroupedDatabase(ABC, Generic[_Job]):
    """Jobs of many callers become one transaction. Make it after the fork, of a file that was prepared.

    A subclass says what a job is, and writes those of a round.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = Turn(path)
        self._readers = Readers(path)
        self._connection: Optional[sqlite3.Connection] = None
        self._writer: Writer[_Job] = Writer(self._write)

    def close(self) -> None:
        """Finish what is being written, and close all files."""
        self._writer.close()
        self._readers.close()
        if self._connection is not None:
            self._connection.close()
        self._turn.close()

    # The rest runs on the writer's thread.

    @abstractmethod
    def _transact(self, jobs: Sequence[_Job]) -> Sequence[Any]:
        """Write the jobs by one transaction. Returns the result of each; an exception is raised to its caller."""

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = database.connect(self._path)
        return self._connection

    @contextlib.contextmanager
    def _transaction(self, around_commit: "contextlib.AbstractContextManager[None]") -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            with around_commit:
                connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _write(self, jobs: Sequence[_Job]) -> None:
        results: Sequence[Any]
        try:
            with self._turn:
                results = self._transact(jobs)
        except Exception as error:
            results = [database.meaning(error) if isinstance(error, sqlite3.Error) else error] * len(jobs)
        for job, result in zip(jobs, results):
            if isinstance(result, Exception):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)


class _Work(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Ledger(GroupedDatabase[_Work]):
    """What is written is on disk when it is answered."""

    def read(self, question: str, *values: Any) -> List[Any]:
        return self._readers.all(question, *values)

    def write(self, work: "Callable[[sqlite3.Connection], _Result]") -> "Future[_Result]":
        """Have `work` done within a transaction that others share. Where it raises an Error, it has changed nothing."""
        done: "Future[_Result]" = Future()
        self._writer.submit(_Work(work, done))
        return done

    def _transact(self, jobs: Sequence[_Work]) -> List[Any]:
        with self._transaction(contextlib.nullcontext()) as connection:
            return [_result(job, connection) for job in jobs]


def _result(job: _Work, connection: sqlite3.Connection) -> Any:
    try:
        return job.work(connection)
    except Error as error:
        return error
