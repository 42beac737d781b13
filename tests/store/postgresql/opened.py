"""The databases in PostgreSQL, opened as a worker opens them."""

from __future__ import annotations

import contextlib

from filestoraged.store.drops import Drops
from filestoraged.store.locks import Locks
from filestoraged.store.postgresql.connection import Connector
from filestoraged.store.postgresql.kv import PostgresKeys
from filestoraged.store.postgresql.transactions import PostgresTransactions
from filestoraged.store.postgresql.url import parse_url
from tests.postgresql import PostgresCase


class OpenedCase(PostgresCase):
    """Opens each database as often as a test wants: each time is another process."""

    def connector(self, more: str = "") -> Connector:
        return Connector(parse_url(self.url + more))

    def open_keys(self) -> PostgresKeys:
        keys = PostgresKeys(self.connector())
        self.addCleanup(keys.close)
        return keys

    def open_transactions(self) -> PostgresTransactions:
        transactions = PostgresTransactions(self.connector())
        self.addCleanup(transactions.close)
        return transactions

    def open_drops(self) -> Drops:
        transactions = self.open_transactions()
        return Drops(transactions, transactions, ttl=100)

    def open_locks(self) -> Locks:
        return Locks(self.open_transactions())

    def end_sessions(self) -> None:
        """End all sessions of the database, as an administrator does."""
        statement = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
        with contextlib.closing(self.server.connect()) as connection:
            connection.execute(statement, (self.database,))
