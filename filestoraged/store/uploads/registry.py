"""The registry of resumable uploads: where each goes, and how many of its bytes are durable. It holds no bytes.

An upload is `receiving`, and then `complete`: its bytes are an object. The number of bytes in a row is a promise: it is
written when they are on disk, and never before.
"""

from __future__ import annotations

import enum
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Expected
from filestoraged.errors import Gone, NotFound
from filestoraged.store import wall_clock
from filestoraged.store.rows import RowCheck
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.transactions import Transaction, Transactions
from filestoraged.store.uploads.storage import Change
from filestoraged.store.wall_clock import JUDGED_TIME, WallClock

_Result = TypeVar("_Result")


class UploadPhase(enum.IntEnum):
    """Of an upload, as its row has it."""

    RECEIVING = 0
    COMPLETE = 1


# Selects the uploads that have bytes of their own, by their ids.
WITH_BYTES = f"received > 0 AND state <> {UploadPhase.COMPLETE:d} AND expires > 0"

UPLOADS_SCHEMA = Schema(
    # "fsup"
    application=0x66737570,
    version=1,
    tables=(
        # `length` is NULL while the client has not told it; `received` counts durable bytes. `expected` has announced
        # digests as JSON. `note` and `name` are the client's; `object` is the name of the object if that is not its
        # digest. `reuse` finds an upload again for the same owner and object. `expires` is in seconds since 1970, 0 for
        # one that is being removed.
        """CREATE TABLE IF NOT EXISTS uploads (
            id TEXT PRIMARY KEY, state INTEGER NOT NULL, target TEXT NOT NULL, owner TEXT NOT NULL, length BIGINT,
            received BIGINT NOT NULL, expected TEXT NOT NULL, note TEXT NOT NULL, name TEXT NOT NULL, password BLOB,
            digest TEXT, object TEXT, reuse TEXT UNIQUE, expires REAL NOT NULL)""",
        "CREATE INDEX IF NOT EXISTS uploads_by_expiry ON uploads (expires)",
        *wall_clock.clock_tables("NULL"),
    ),
)

POSTGRESQL_UPLOADS = (
    """CREATE TABLE uploads (
        id text COLLATE "C" PRIMARY KEY, state integer NOT NULL, target text NOT NULL, owner text NOT NULL,
        length bigint, received bigint NOT NULL, expected text NOT NULL, note text NOT NULL, name bytea NOT NULL,
        password bytea, digest text, object text, reuse text UNIQUE, expires float8 NOT NULL)""",
    "CREATE INDEX uploads_by_expiry ON uploads (expires)",
)

POSTGRESQL_CHECK = RowCheck(
    "uploads",
    "id",
    "",
    "left(id, 4) || '…'",
    "octet_length(target) + octet_length(note) + length(name)",
    "state BETWEEN 0 AND 1 AND id ~ '^[0-9a-f]{32}$' AND received >= 0",
    "its id or its state is not an upload's",
)

_COLUMNS = "id, state, target, owner, length, received, expected, note, name, password, digest, object, expires"

# Values of one statement: SQLite before 3.32 allows 999.
_MAX_VALUES = 500

# Rows in one step of the janitor.
_ROWS_PER_STEP = 200


class Draft(NamedTuple):
    """What a client says of an upload before its first byte."""

    # The interface that gets the object, and a repository of it perhaps: `files`, `repositories/pets`.
    target: str
    # In bytes, None where the client tells it later.
    length: int | None
    # The name of the client's token or user.
    owner: str = ""
    expected: Sequence[Expected] = ()
    # What the interface wants back with the upload.
    note: str = ""
    # A file name and a password in the form of `passwords.kept`, for drops.
    name: str = ""
    password: bytes | None = None
    # Identifies the upload for `find_or_create`.
    reuse: str | None = None


class Upload(NamedTuple):
    """A row."""

    id: str
    state: UploadPhase
    target: str
    owner: str
    length: int | None
    # Durable bytes.
    received: int
    expected: Sequence[Expected]
    note: str
    name: str
    password: bytes | None
    # Of all bytes, by the target's algorithm; and the name of the object if that is another. None while receiving.
    digest: str | None
    object: str | None
    expires: float

    @property
    def is_complete(self) -> bool:
        return self.state is UploadPhase.COMPLETE

    @property
    def is_whole(self) -> bool:
        """Whether all bytes have been received."""
        return self.received == self.length


_INSERT = (
    f"INSERT INTO uploads ({_COLUMNS}, reuse) VALUES ({', '.join('?' * (len(Upload._fields) + 1))})"
    " ON CONFLICT (reuse) DO NOTHING"
)


class Registry:
    """Make it after the fork. Any thread calls it.

    Methods that write wait until the change is durable, and raise an Error where it is not.
    """

    def __init__(self, transactions: Transactions, *, ttl: float, clock: Clock = SYSTEM_CLOCK) -> None:
        """The database has the tables of the schema. An upload expires `ttl` seconds after its last byte."""
        self._transactions = transactions
        self._ttl = ttl
        self._wall_clock = WallClock(self._transactions, clock)

    def create(self, draft: Draft) -> Upload:
        def insert(transaction: Transaction) -> Upload:
            upload = self._new(draft, self._expiry(transaction))
            transaction.execute(_INSERT, (*self._row(upload), draft.reuse))
            return upload

        return self._write(insert)

    def find_or_create(self, drafts: Sequence[Draft]) -> list[str]:
        """Return the ids of uploads for the drafts: unfinished ones that were created for the same `reuse` key, or new.

        The expiry of all begins anew.
        """

        def insert(transaction: Transaction) -> dict[str, str]:
            expires = self._expiry(transaction)
            rows = {draft.reuse or "": self._row(self._new(draft, expires)) for draft in drafts}
            return _insert_or_find(transaction, rows)

        found = self._write(insert) if drafts else {}
        return [found[draft.reuse or ""] for draft in drafts]

    def get(self, id_: str) -> Upload:
        """Raises NotFound, and Gone for an upload that has expired."""
        statement = f"SELECT expires <= {JUDGED_TIME}, {_COLUMNS} FROM uploads WHERE id = ?"
        for is_expired, *row in self._transactions.read(statement, id_):
            if is_expired:
                raise Gone("The upload has expired or was terminated.")
            return self._upload(row)
        raise NotFound("There is no upload with this id.")

    # Changes of an upload, which the one who holds it makes by its hold.

    def telling(self, id_: str, length: int) -> Change:
        """The client has told the length."""
        return _change("UPDATE uploads SET length = ? WHERE id = ? AND length IS NULL", length, id_)

    def untelling(self, id_: str) -> Change:
        """Undo `telling`: nothing of the request that told the length counts."""
        return _change("UPDATE uploads SET length = NULL WHERE id = ?", id_)

    def promise(self, id_: str, received: int) -> Change:
        """So many bytes are durable."""
        statement = "UPDATE uploads SET received = ?, expires = epoch() + ? WHERE id = ? AND expires > 0"
        return _change(statement, received, self._ttl, id_)

    def completion(self, upload: Upload) -> Change:
        """The object is visible, and has all bytes. The upload can no longer be reused."""
        return _change(
            "UPDATE uploads SET expires = CASE WHEN received < ? THEN epoch() + ? ELSE expires END, received = ?,"
            " state = ?, digest = ?, object = ?, reuse = NULL WHERE id = ?",
            *(upload.received, self._ttl, upload.received, int(upload.state), upload.digest, upload.object, upload.id),
        )

    def retirement(self, id_: str) -> Change:
        """From now on the upload is gone; its bytes and then its row are removed next."""
        return _change("UPDATE uploads SET expires = 0, reuse = NULL WHERE id = ?", id_)

    def apply(self, change: Change) -> None:
        self._write(change)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete the rows of uploads without bytes."""
        self._transactions.write_rows("DELETE FROM uploads WHERE id = ?", [(id_,) for id_ in ids]).result()

    def expired(self, after: str) -> Sequence[str]:
        """The ids of some uploads that have expired, above `after`. None after a jump of the clock, see `WallClock`."""
        now = self._wall_clock.settled() or 0.0
        statement = "SELECT id FROM uploads WHERE expires <= ? AND id > ? ORDER BY id LIMIT ?"
        return [id_ for (id_,) in self._transactions.read(statement, now, after, _ROWS_PER_STEP)]

    def is_expired(self, id_: str) -> bool:
        return bool(self._transactions.read(f"SELECT 1 FROM uploads WHERE id = ? AND expires <= {JUDGED_TIME}", id_))

    def count(self) -> Mapping[str, int]:
        """The number of uploads in each state."""
        rows = self._transactions.read("SELECT state, count(*) FROM uploads GROUP BY state")
        return {state.name.lower(): dict(rows).get(int(state), 0) for state in UploadPhase}

    def probe(self) -> None:
        """Check that the database can be written. Raises an Error or OSError."""
        self._transactions.probe()

    def close(self) -> None:
        self._transactions.close()

    def _expiry(self, transaction: Transaction) -> float:
        """When an upload expires that begins now, by the database's clock."""
        ((now,),) = transaction.execute("SELECT epoch()")
        return float(now) + self._ttl

    def _new(self, draft: Draft, expires: float) -> Upload:
        return Upload(
            id=secrets.token_hex(16),
            state=UploadPhase.RECEIVING,
            target=draft.target,
            owner=draft.owner,
            length=draft.length,
            received=0,
            expected=draft.expected,
            note=draft.note,
            name=draft.name,
            password=draft.password,
            digest=None,
            object=None,
            expires=expires,
        )

    def _row(self, upload: Upload) -> Sequence[object]:
        """The values of the columns."""
        values: dict[str, object] = upload._asdict()
        values.update(state=int(upload.state), expected=json.dumps(upload.expected))
        values.update(name=self._transactions.encode(upload.name))
        return tuple(values.values())

    def _upload(self, row: Sequence[Any]) -> Upload:
        upload = Upload(*row)
        return upload._replace(
            state=UploadPhase(upload.state),
            expected=[Expected(*each) for each in json.loads(row[6])],
            name=self._transactions.decode(upload.name),
        )

    def _write(self, function: Callable[[Transaction], _Result]) -> _Result:
        return self._transactions.write(function).result()


def _change(statement: str, *values: object) -> Change:
    return lambda transaction: transaction.execute(statement, values)


def _insert_or_find(transaction: Transaction, rows: Mapping[str, Sequence[object]]) -> dict[str, str]:
    """Return the ids of uploads by their `reuse`. `rows` are those of new ones.

    Each statement is for many rows: one for each would keep all other writers waiting for as many round trips.
    """
    found: dict[str, str] = {}
    # In PostgreSQL, another daemon may complete an upload between the INSERT that finds it and the SELECT. A second
    # round then makes a new one.
    while missing := sorted(rows.keys() - found.keys()):
        # One that has expired is about to be removed.
        transaction.executemany(
            f"UPDATE uploads SET reuse = NULL WHERE reuse = ? AND expires <= {JUDGED_TIME}",
            [(reuse,) for reuse in missing],
        )
        transaction.executemany(_INSERT, [(*rows[reuse], reuse) for reuse in missing])
        # The last column is the time at which a new one expires.
        transaction.executemany(
            "UPDATE uploads SET expires = ? WHERE reuse = ?", [(rows[reuse][-1], reuse) for reuse in missing]
        )
        for start in range(0, len(missing), _MAX_VALUES):
            some = missing[start : start + _MAX_VALUES]
            statement = f"SELECT reuse, id FROM uploads WHERE reuse IN ({', '.join('?' * len(some))})"
            found.update(transaction.execute(statement, some).fetchall())
    return found
