"""An SQLite file that many read, and that one thread of each process writes: what is wanted meanwhile goes together."""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, TypeVar

from filestoraged.errors import Error
from filestoraged.store import database
from filestoraged.store.database import Readers
from filestoraged.store.turn import Turn
from filestoraged.store.writer import Writer

_Result = TypeVar("_Result")


class _Job(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    done: "Future[Any]"


class Ledger:
    """What is written is on disk when it is answered. Make it after the fork, of a file that was prepared."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._turn = Turn(path)
        self._readers = Readers(path)
        self._connection: Optional[sqlite3.Connection] = None
        self._writer = Writer(self._write)

    def read(self, question: str, *values: Any) -> List[Any]:
        return self._readers.all(question, *values)

    def write(self, work: "Callable[[sqlite3.Connection], _Result]") -> "Future[_Result]":
        """Have `work` done within a transaction that others share. Where it raises an Error, it has changed nothing."""
        done: "Future[_Result]" = Future()
        self._writer.submit(_Job(work, done))
        return done

    def close(self) -> None:
        self._writer.close()
        self._readers.close()
        if self._connection is not None:
            self._connection.close()
        self._turn.close()

    def _write(self, jobs: Sequence[_Job]) -> None:
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

    def _transact(self, jobs: Sequence[_Job]) -> List[Any]:
        if self._connection is None:
            self._connection = database.connect(self._path)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [_result(job, connection) for job in jobs]
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results


def _result(job: _Job, connection: sqlite3.Connection) -> Any:
    try:
        return job.work(connection)
    except Error as error:
        return error
