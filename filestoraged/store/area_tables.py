"""The tables of areas: what is stored in each, and the sums of that. Their schemas in SQLite and PostgreSQL.

| table | one row for each |
|---|---|
| `areas` | area: the sums of its objects, in which those count that have a name |
| `stored` | object of an area: always of a space of names, of other areas where a limit fits them |
| `removals` | area and reason: how many objects or names a limit has removed |

An area is called as in `--limit`: `files`, `data/REPOSITORY`, `names/SPACE`, `restic/REPOSITORY` or `drops`.
"""

from __future__ import annotations

from filestoraged.store.rows import RowCheck

_INDEXES = (
    "CREATE INDEX IF NOT EXISTS stored_by_time ON stored (area, at)",
    "CREATE INDEX IF NOT EXISTS stored_unnamed ON stored (names, since) WHERE names < 1",
    "CREATE INDEX IF NOT EXISTS stored_in_doubt ON stored (since) WHERE names > 0 AND since IS NOT NULL",
)

# `key` is the name of the object in its namespace. `names` is the number of names that lead to it, 1 where there are
# none, and `at` when it was stored. `since` is when the last name left, or when the object was condemned or removed; of
# one that has no names, when an upload or a removal of it began whose end was not seen. `version` counts those.
# `condemned` is the number of the last collection of it. Times are seconds since 1970.
#
# `complete` is when the last count of all objects of the area began, 0 if there was none; of names, it is 1. `removals`
# has the objects or names that limits have removed.
_REMOVALS = """CREATE TABLE IF NOT EXISTS removals (
    area TEXT NOT NULL, reason TEXT NOT NULL, number BIGINT NOT NULL, PRIMARY KEY (area, reason))"""

SQLITE_AREAS = (
    """CREATE TABLE IF NOT EXISTS stored (
        area TEXT NOT NULL, key TEXT NOT NULL, size BIGINT NOT NULL, at REAL NOT NULL, names BIGINT NOT NULL,
        since REAL, version BIGINT NOT NULL DEFAULT 0, condemned BIGINT NOT NULL DEFAULT 0,
        PRIMARY KEY (area, key)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS areas (
        area TEXT PRIMARY KEY, bytes BIGINT NOT NULL, objects BIGINT NOT NULL, last_upload BIGINT NOT NULL,
        complete BIGINT NOT NULL) WITHOUT ROWID""",
    _REMOVALS,
    *_INDEXES,
)

POSTGRESQL_AREAS = (
    """CREATE TABLE stored (
        area text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, size bigint NOT NULL, at float8 NOT NULL,
        names bigint NOT NULL, since float8, version bigint NOT NULL DEFAULT 0, condemned bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (area, key))""",
    """CREATE TABLE areas (
        area text COLLATE "C" PRIMARY KEY, bytes bigint NOT NULL, objects bigint NOT NULL, last_upload bigint NOT NULL,
        complete bigint NOT NULL)""",
    _REMOVALS,
    *_INDEXES,
)

# Of a row of `areas`.
SUMS_ARE_RIGHT = """(bytes, objects) = (
    SELECT coalesce(sum(size), 0), count(*) FROM stored WHERE stored.area = areas.area AND names > 0)"""
WRONG_SUMS = "its sums are not those of its objects"

POSTGRESQL_CHECK = RowCheck(
    "areas",
    "area",
    "",
    "area",
    "octet_length(area)",
    SUMS_ARE_RIGHT,
    WRONG_SUMS,
)
