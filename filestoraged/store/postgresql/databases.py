"""A PostgreSQL database for the rows of all interfaces. It is loaded where --database is given."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import Literal

from filestoraged.clock import Clock
from filestoraged.command_errors import StartError
from filestoraged.errors import StorageFull, StoreFailed, StoreUnavailable
from filestoraged.store.cleanup_lock import JANITOR_TIMEOUT, CleanupLock
from filestoraged.store.postgresql.connection import Connector
from filestoraged.store.postgresql.lease import JanitorLease
from filestoraged.store.postgresql.transactions import PostgresTransactions
from filestoraged.store.postgresql.url import DatabaseAddress
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.transactions import Owners, Transactions


class PostgresDatabases:
    """The database at an address, with the methods of `SqliteDatabases`.

    All but keys share their connections, which the last of them closes.
    """

    is_remote: Literal[True] = True

    def __init__(self, address: DatabaseAddress, clock: Clock) -> None:
        self._address = address
        self.clock = clock
        self.connector = Connector(address, clock=clock)
        self._lock = threading.Lock()
        self._shared: PostgresTransactions | None = None

    def prepare(self) -> Sequence[str]:
        try:
            with contextlib.closing(self.connector.connect()):
                return ()
        except (StoreUnavailable, StorageFull) as error:
            cause = error.__cause__ or error
            return (f"starting without the database {self._address.description}: {cause}",)
        except StoreFailed as error:
            cause = error.__cause__ or error
            raise StartError(f"cannot use the database {self._address.description}: {cause}") from error

    def owners(self, name: str) -> Owners:
        return self.shared

    def open_cleanup_lock(self, name: str, timeout: float = JANITOR_TIMEOUT) -> CleanupLock:
        # It ends with the transactions.
        return JanitorLease(self.shared)

    @property
    def shared(self) -> PostgresTransactions:
        """What its users have in common: there is one, who closes it."""
        assert self._shared is not None
        return self._shared

    def open_transactions(self, name: str, schema: Schema) -> Transactions:
        with self._lock:
            if self._shared is None or not self._shared.users.add():
                self._shared = PostgresTransactions(self.connector)
            return self._shared
