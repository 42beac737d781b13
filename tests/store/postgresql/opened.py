"""The databases in PostgreSQL, opened as a worker opens them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from filestoraged.clock import Clock
from filestoraged.store.drops import Drops
from filestoraged.store.locks import Locks
from filestoraged.store.postgresql import transactions
from filestoraged.store.postgresql.connection import Connector
from filestoraged.store.postgresql.kv import PostgresKeys
from filestoraged.store.postgresql.transactions import PostgresTransactions
from filestoraged.store.postgresql.url import parse_url
from tests.clock import PATIENT_CLOCK
from tests.postgresql import PostgresCase
from tests.support import CHEAP_PASSWORDS


@contextlib.contextmanager
def after_statement(text: str, function: Callable[[], object]) -> Iterator[None]:
    """Call a function once, within the block, behind the first statement of a transaction that contains `text`."""
    functions = [function]

    def calling(name: str) -> Callable[..., Any]:
        execute = getattr(transactions._Transaction, name)

        def call(self: Any, statement: str, *values: Any) -> Any:
            result = execute(self, statement, *values)
            if text in statement and functions:
                functions.pop()()
            return result

        return call

    with mock.patch.multiple(transactions._Transaction, execute=calling("execute"), executemany=calling("executemany")):
        yield


class OpenedCase(PostgresCase):
    """Opens each database as often as a test wants: each time is another process."""

    def connector(self, clock: Clock = PATIENT_CLOCK) -> Connector:
        return Connector(parse_url(self.url), clock=clock)

    def open_keys(self, clock: Clock = PATIENT_CLOCK) -> PostgresKeys:
        keys = PostgresKeys(self.connector(clock))
        self.addCleanup(keys.close)
        return keys

    def open_transactions(self) -> PostgresTransactions:
        transactions = PostgresTransactions(self.connector())
        self.addCleanup(transactions.close)
        return transactions

    def open_drops(self) -> Drops:
        transactions = self.open_transactions()
        return Drops(transactions, transactions, ttl=100, passwords=CHEAP_PASSWORDS)

    def open_locks(self) -> Locks:
        return Locks(self.open_transactions())

    def end_sessions(self) -> None:
        """End all sessions of the database, as an administrator does."""
        statement = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        with contextlib.closing(self.server.connect()) as connection:
            connection.execute(statement, (self.database,))
