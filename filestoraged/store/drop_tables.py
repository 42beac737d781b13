"""The tables of the registry of drops: the states of a row, its columns, and the schemas in SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from filestoraged.store import guess_limit, layout, wall_clock
from filestoraged.store.rows import Row, RowCheck, RowGroup, Table, decoded, encoded
from filestoraged.store.sqlite.database import Schema

ARRIVING, AVAILABLE, CLAIMED, GONE = range(4)
STATE_NAMES = ("arriving", "available", "claimed", "gone")

# Conditions on a row. An arriving drop may have bytes, and one that is gone has them until they are removed.
HAS_BYTES = f"state IN ({AVAILABLE}, {CLAIMED})"
MAY_HAVE_BYTES = f"(state <> {GONE} OR removal IS NOT NULL)"

DROPS_SCHEMA = Schema(
    # "fsdr"
    application=0x66736472,
    version=2,
    tables=(
        # Times are seconds since 1970: `changed` is when the state was set, `removal` when the bytes may be removed,
        # NULL if there are none or the drop is available. `owner` is the process that uploads or has claimed it,
        # `breaks` counts claims that ended without a download; see `drops.Claim`.
        """CREATE TABLE IF NOT EXISTS drops (
            id TEXT PRIMARY KEY, state INTEGER NOT NULL, changed REAL NOT NULL, created REAL NOT NULL, owner TEXT,
            name TEXT, password BLOB, breaks INTEGER NOT NULL DEFAULT 0, removal REAL)""",
        "CREATE INDEX IF NOT EXISTS drops_by_state ON drops (state, changed)",
        f"CREATE INDEX IF NOT EXISTS drops_by_creation ON drops (created) WHERE state = {AVAILABLE}",
        "CREATE INDEX IF NOT EXISTS drops_by_removal ON drops (removal) WHERE removal IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS drops_with_removal ON drops (id) WHERE removal IS NOT NULL",
        # The number of drops in each state: counting a million rows takes a tenth of a second. Triggers update it in
        # each transaction, whichever version of this program writes.
        "CREATE TABLE IF NOT EXISTS counts (state INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
        """INSERT INTO counts (state, number)
            SELECT state, count(id) FROM (SELECT 0 AS state UNION SELECT 1 UNION SELECT 2 UNION SELECT 3)
            LEFT JOIN drops USING (state) WHERE NOT EXISTS (SELECT * FROM counts) GROUP BY state""",
        """CREATE TRIGGER IF NOT EXISTS count_inserted AFTER INSERT ON drops BEGIN
            UPDATE counts SET number = number + 1 WHERE state = new.state; END""",
        """CREATE TRIGGER IF NOT EXISTS count_deleted AFTER DELETE ON drops BEGIN
            UPDATE counts SET number = number - 1 WHERE state = old.state; END""",
        """CREATE TRIGGER IF NOT EXISTS count_changed AFTER UPDATE OF state ON drops WHEN old.state <> new.state BEGIN
            UPDATE counts SET number = number - 1 WHERE state = old.state;
            UPDATE counts SET number = number + 1 WHERE state = new.state; END""",
        *guess_limit.GUESS_TABLES,
        # An older database has no clock.
        *wall_clock.clock_tables("(SELECT max(changed) FROM drops)"),
    ),
)


POSTGRESQL_DROPS = (
    """CREATE TABLE drops (
        id text COLLATE "C" PRIMARY KEY, state integer NOT NULL, changed float8 NOT NULL, created float8 NOT NULL,
        owner text, name bytea, password bytea, breaks integer NOT NULL DEFAULT 0, removal float8)""",
    "CREATE INDEX drops_by_state ON drops (state, changed)",
    f"CREATE INDEX drops_by_creation ON drops (created) WHERE state = {AVAILABLE}",
    "CREATE INDEX drops_by_removal ON drops (removal) WHERE removal IS NOT NULL",
    "CREATE INDEX drops_with_removal ON drops (id) WHERE removal IS NOT NULL",
    # Not a table as in SQLite: all transactions of all daemons would wait for its four rows.
    "CREATE VIEW counts AS SELECT state, count(*) AS number FROM drops GROUP BY state",
)

POSTGRESQL_CHECK = RowCheck(
    "drops",
    "id",
    "",
    "left(id, 4) || '…'",
    "coalesce(length(name), 0) + coalesce(length(password), 0)",
    "state BETWEEN 0 AND 3 AND id ~ '^[0-9a-f]{32}$' AND (state <> 1 OR name IS NOT NULL)",
    "its id or its state is not one of a drop",
)


class DropRow(NamedTuple):
    """A row, as a migration copies it. Times are seconds since 1970."""

    id: str
    state: int
    changed: float
    created: float
    # The process that uploads it or has claimed it.
    owner: str | None
    name: str | None
    password: bytes | None
    breaks: int

    def is_available(self, is_alive: Callable[[str | None], bool]) -> bool:
        """Whether a drop can be fetched: also one that a process had claimed which is dead."""
        if self.state == CLAIMED:
            return not is_alive(self.owner)
        return self.state == AVAILABLE

    @property
    def may_have_bytes(self) -> bool:
        return self.state != GONE

    def copied(self, is_in_use: bool, has_bytes: Callable[[str], bool]) -> DropRow | None:
        """The row of a copy whose bytes are asked for; None where there is to be none.

        A drop that is uploaded or fetched at present is not copied, nor is one that is available without its bytes.
        """
        if is_in_use:
            return None
        if self.state == GONE:
            return self._replace(owner=None)
        if self.state in (AVAILABLE, CLAIMED) and has_bytes(self.id):
            return self._replace(state=AVAILABLE, owner=None)
        return None

    def is_given_up(self, is_in_use: bool) -> bool:
        """Whether its upload ended without a drop."""
        return self.state == ARRIVING and not is_in_use

    @property
    def contents(self) -> Row:
        """What is the same in a copy."""
        return self.id, self.created, self.name, self.password


def _encode(row: Row) -> Row:
    id_, state, changed, created, owner, name, password, breaks = row
    return id_, state, changed, created, owner, encoded(name), password, breaks


def _decode(row: Row) -> DropRow:
    drop = DropRow(*row)
    return drop._replace(name=decoded(drop.name))


DROP_TABLE = Table("drops", ", ".join(DropRow._fields), encode=_encode, decode=_decode)
DROP_ROWS = RowGroup("drops", (DROP_TABLE,), layout.DROPS_DATABASE, DROPS_SCHEMA)
