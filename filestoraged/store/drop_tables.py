"""The tables of the registry of drops: the states of a row, and the schema of its SQLite database."""

from __future__ import annotations

from filestoraged.store import guess_limit, wall_clock
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import Schema

ARRIVING, AVAILABLE, CLAIMED, GONE = range(4)
STATE_NAMES = ("arriving", "available", "claimed", "gone")

# Conditions on a row. An arriving drop may have bytes, and one that is gone has them until they are removed.
HAS_BYTES = f"state IN ({AVAILABLE}, {CLAIMED})"
MAY_HAVE_BYTES = f"(state <> {GONE} OR removal IS NOT NULL)"

# The application id in the header of the SQLite file: "fsdr".
APPLICATION = 0x66736472

DROPS_SCHEMA = Schema(
    application=APPLICATION,
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


def prepare_drops(path: str) -> None:
    """Make the database, or check that it can be used. Raises StartError and StorageFull."""
    database.prepare(path, DROPS_SCHEMA)
