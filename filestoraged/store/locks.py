"""The locks of Git LFS: which owner has locked which path of which repository. It knows no HTTP and no objects.

They are rows of one SQLite database. The unique key of repository and path decides which of several simultaneous locks
succeeds, for all threads, workers and daemons that share the database. A lock, and its release, is durable when it is
answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from filestoraged.errors import NotFound
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.rows import Row, RowCheck, RowGroup, Table, decoded, encoded
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.transactions import ServiceTables, Transaction

LOCKS_SCHEMA = Schema(
    # "fslk"
    application=0x66736C6B,
    version=1,
    tables=(
        # AUTOINCREMENT: an id is never used again, so a client that still has it cannot release another lock. `created`
        # is in seconds since 1970.
        """CREATE TABLE IF NOT EXISTS locks (
            id INTEGER PRIMARY KEY AUTOINCREMENT, repository TEXT NOT NULL, path TEXT NOT NULL, owner TEXT NOT NULL,
            created INTEGER NOT NULL, UNIQUE (repository, path))""",
        "CREATE INDEX IF NOT EXISTS locks_by_repository ON locks (repository, id)",
    ),
)

POSTGRESQL_LOCKS = (
    """CREATE TABLE locks (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, repository text COLLATE "C" NOT NULL, path bytea NOT NULL,
        owner text NOT NULL, created bigint NOT NULL)""",
    "CREATE UNIQUE INDEX locks_once ON locks (repository, sha256(path))",
    "CREATE INDEX locks_by_path ON locks USING hash (path)",
    "CREATE INDEX locks_by_repository ON locks (repository, id)",
)

POSTGRESQL_CHECK = RowCheck(
    "locks",
    "id",
    -1,
    "id::text",
    "length(path) + octet_length(owner) + octet_length(repository)",
    "id > 0 AND length(path) > 0 AND repository <> ''",
    "it names no path of a repository",
)


def _encode(row: Row) -> Row:
    id_, repository, path, owner, created = row
    return id_, repository, encoded(path), owner, created


def _decode(row: Row) -> Row:
    id_, repository, path, owner, created = row
    return id_, repository, decoded(path), owner, created


LOCK_ROWS = RowGroup(
    "locks",
    (
        Table("locks", "id, repository, path, owner, created", encode=_encode, decode=_decode),
        Table("lock_ids", "", ids_of="locks"),
    ),
    layout.LOCKS_DATABASE,
    LOCKS_SCHEMA,
)

_COLUMNS = "id, path, owner, created"


class Lock(NamedTuple):
    id: int
    path: str
    owner: str
    # Seconds since 1970.
    created: int


class LockResult(NamedTuple):
    """The lock of a path, and whether it is the new one."""

    lock: Lock
    is_new: bool


class Locks(ServiceTables):
    """Make it after the fork, of a database with the tables of LOCKS_SCHEMA. Any thread calls it.

    Methods that return a future raise StoreUnavailable if the job cannot be queued.
    """

    def lock(self, repository: str, path: str, owner: str) -> Future[LockResult]:
        """Lock a path, unless it is locked. Of simultaneous calls one gets a new lock, the others get that one."""
        encoded = self.transactions.encode(path)

        def insert(transaction: Transaction) -> LockResult:
            statement = f"SELECT {_COLUMNS} FROM locks WHERE repository = ? AND path = ?"
            while True:
                # The path alone can conflict: ids are new.
                is_new = transaction.execute(
                    "INSERT INTO locks (repository, path, owner, created) VALUES (?, ?, ?, epoch_second())"
                    " ON CONFLICT DO NOTHING",
                    (repository, encoded, owner),
                ).rowcount
                row = transaction.execute(statement, (repository, encoded)).fetchone()
                # In PostgreSQL, another daemon may release the lock between the two statements.
                if row is not None:
                    return LockResult(self._lock(row), bool(is_new))

        return self.transactions.write(insert)

    def release(self, repository: str, id_: int) -> Future[Lock]:
        """Remove a lock, and return it. Raises NotFound if it was removed meanwhile."""

        def delete(transaction: Transaction) -> Lock:
            statement = f"SELECT {_COLUMNS} FROM locks WHERE repository = ? AND id = ?"
            rows = transaction.execute(statement, (repository, id_)).fetchall()
            # The second condition decides between two transactions that have both found it.
            if not rows or not transaction.execute("DELETE FROM locks WHERE id = ?", (id_,)).rowcount:
                raise _not_found()
            return self._lock(rows[0])

        return self.transactions.free(delete)

    def get(self, repository: str, id_: int) -> Lock:
        """Look up a lock. Its owner and its path never change. Raises NotFound."""
        found = self._read("id = ?", repository, id_)
        if not found:
            raise _not_found()
        return found[0]

    def find(self, repository: str, path: str) -> Sequence[Lock]:
        """The lock of a path, if it is locked."""
        return self._read("path = ?", repository, self.transactions.encode(path))

    def list(self, repository: str, after: int, limit: int) -> Sequence[Lock]:
        """At most `limit` locks of a repository with ids above `after`, in their order."""
        return self._read("id > ? ORDER BY id LIMIT ?", repository, after, limit)

    def count(self) -> int:
        """The number of locks in all repositories."""
        ((number,),) = self.transactions.read("SELECT count(*) FROM locks")
        return int(number)

    def _read(self, condition: str, *values: object) -> Sequence[Lock]:
        statement = f"SELECT {_COLUMNS} FROM locks WHERE repository = ? AND {condition}"
        return [self._lock(row) for row in self.transactions.read(statement, *values)]

    def _lock(self, row: Sequence[Any]) -> Lock:
        id_, path, owner, created = row
        return Lock(id_, self.transactions.decode(path), owner, created)


def _not_found() -> NotFound:
    return NotFound("There is no lock with this id.")
