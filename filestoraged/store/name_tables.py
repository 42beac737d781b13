"""The tables of names, and of the objects that they lead to: their columns, and the schemas in SQLite and PostgreSQL.

| table | one row for each |
|---|---|
| `names` | name of a space; one that has expired stays until the janitor removes it |
| `stored`, `areas` | object of an area, and area; see `area_tables` |
| `collections` | one row: numbers what the collection of objects does; see `name_collection` |
"""

from __future__ import annotations

from filestoraged.store import layout, wall_clock
from filestoraged.store.area_tables import POSTGRESQL_AREAS, SQLITE_AREAS
from filestoraged.store.rows import Row, RowCheck, RowGroup, Table
from filestoraged.store.sqlite.database import Schema

# In place of a number of names: the object is being removed; it was removed.
CONDEMNED, REMOVED = -1, -2

_COLLECTIONS = (
    # `number` is that of the last collection, `forgotten` the highest in a row of `stored` that was deleted. `scanned`
    # is when the last scan for objects without a row began, in seconds since 1970.
    """CREATE TABLE IF NOT EXISTS collections (
        number BIGINT NOT NULL, forgotten BIGINT NOT NULL, scanned DOUBLE PRECISION NOT NULL)""",
    """INSERT INTO collections (number, forgotten, scanned)
        SELECT 0, 0, 0 WHERE NOT EXISTS (SELECT * FROM collections)""",
)
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS names_by_expiry ON names (expires) WHERE expires IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS names_by_use ON names (space, used)",
    "CREATE INDEX IF NOT EXISTS names_by_time ON names (space, modified)",
)

NAMES_SCHEMA = Schema(
    # "fsnm"
    application=0x66736E6D,
    version=1,
    tables=(
        # `path` is the space, a slash and the name in UTF-8. `fields` are further header fields of downloads. Times are
        # whole seconds since 1970; `expires` is NULL for a name that does not expire.
        """CREATE TABLE IF NOT EXISTS names (
            path BLOB PRIMARY KEY, space TEXT NOT NULL, oid TEXT NOT NULL, size BIGINT NOT NULL, type TEXT NOT NULL,
            fields TEXT NOT NULL, modified BIGINT NOT NULL, expires BIGINT, used REAL NOT NULL) WITHOUT ROWID""",
        *SQLITE_AREAS,
        *_COLLECTIONS,
        *_INDEXES,
        *wall_clock.clock_tables("NULL"),
    ),
)

POSTGRESQL_NAMES = (
    """CREATE TABLE names (
        path bytea PRIMARY KEY, space text COLLATE "C" NOT NULL, oid text NOT NULL, size bigint NOT NULL,
        type text NOT NULL, fields text NOT NULL, modified bigint NOT NULL, expires bigint, used float8 NOT NULL)""",
    *POSTGRESQL_AREAS,
    *_COLLECTIONS,
    *_INDEXES,
)

POSTGRESQL_CHECK = RowCheck(
    "names",
    "path",
    b"",
    "encode(path, 'escape')",
    "length(path) + octet_length(type) + octet_length(fields)",
    "oid ~ '^[0-9a-f]{64}$' AND size >= 0 AND position((space || '/')::bytea IN path) = 1",
    "it leads to no object of its space",
)


def _decode(row: Row) -> Row:
    path, *others = row
    return (bytes(path), *others)


# The other tables follow from the names: a copy has none of what is being removed.
NAME_ROWS = RowGroup(
    "names",
    (Table("names", "path, space, oid, size, type, fields, modified, expires, used", decode=_decode),),
    layout.NAMES_DATABASE,
    NAMES_SCHEMA,
    clear=("DELETE FROM stored WHERE area LIKE 'names/%'", "DELETE FROM areas WHERE area LIKE 'names/%'"),
    derive=(
        """INSERT INTO stored (area, key, size, at, names)
            SELECT 'names/' || space, oid, max(size), min(modified), count(*) FROM names GROUP BY space, oid""",
        """INSERT INTO areas (area, bytes, objects, last_upload, complete)
            SELECT area, sum(size), count(*), max(at), 1 FROM stored WHERE area LIKE 'names/%' GROUP BY area""",
    ),
)

# Not to be copied either: of other areas, the rows follow from what their stores have.
AREA_ROWS = RowGroup("areas", (Table("areas", "area, bytes, objects"),), layout.NAMES_DATABASE, NAMES_SCHEMA)


def area_of(space: str) -> str:
    return f"{layout.NAMES}/{space}"
