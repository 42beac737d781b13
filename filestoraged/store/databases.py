"""Where interfaces keep their rows: SQLite files in the directory of the store, or one database of several machines.

It does not know which interfaces there are. Each opens its own rows.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store.cleanup_lock import JANITOR_TIMEOUT, CleanupLock, FileLock
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.path_identity import PathIdentities, PathIdentity
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.transactions import Owners, Transactions

if TYPE_CHECKING:
    from filestoraged.store.postgresql.databases import PostgresDatabases
    from filestoraged.store.postgresql.url import DatabaseAddress

# Opens each kind of rows once in a worker. Those who open one close it.
Databases: TypeAlias = "SqliteDatabases | PostgresDatabases"


class SqliteDatabases:
    """Files in the directory of the store, `root`. Interfaces prepare their own, and fix their `identities`."""

    # Whether queries wait for another machine.
    is_remote: Literal[False] = False

    def __init__(self, root: PathIdentity, identities: PathIdentities, clock: Clock) -> None:
        self.root = root
        self.clock = clock
        self._identities = identities
        # By the names of the files. The lock guards it.
        self._shared: dict[str, TransactionQueue] = {}
        self._lock = threading.Lock()

    def prepare(self) -> Sequence[str]:
        """Make what is missing, in the master. Returns faults that the daemon starts with. Raises StartError."""
        return ()

    def open_transactions(self, name: str, schema: Schema) -> Transactions:
        """Those of the file with that name. All who open one share it, and the last who closes it does."""
        with self._lock:
            shared = self._shared.get(name)
            if shared is None or not shared.users.add():
                identity = self.identity(name)
                shared = self._shared[name] = TransactionQueue(identity.path, schema, identity, clock=self.clock)
            return shared

    def owners(self, name: str) -> Owners:
        """The processes that have the database open, by their lock files in the directory with that name.

        Open transactions first.
        """
        return OwnerFiles(self.path(name), self.root)

    def open_cleanup_lock(self, name: str, timeout: float = JANITOR_TIMEOUT) -> CleanupLock:
        """The lock of janitors, a file with that name. Open transactions first. See `FileLock` for the `timeout`."""
        return FileLock(self.path(name), self.root, timeout=timeout)

    def identity(self, name: str) -> PathIdentity:
        """Return the identity of the file with that name. Queries that find another file there fail."""
        return self._identities.of_database(self.path(name))

    def path(self, name: str) -> str:
        return os.path.join(self.root.path, name)


def open_databases(
    address: DatabaseAddress | None, root: PathIdentity, identities: PathIdentities, clock: Clock = SYSTEM_CLOCK
) -> Databases:
    """The database at an address; without one, those in the directory `root`."""
    if address is None:
        return SqliteDatabases(root, identities, clock)
    # The driver takes some megabytes.
    from filestoraged.store.postgresql.databases import PostgresDatabases

    return PostgresDatabases(address, clock)
