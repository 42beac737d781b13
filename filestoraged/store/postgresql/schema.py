"""The tables in PostgreSQL, all in a schema of their own. Whichever daemon connects first makes them.

Keys, names and paths are `bytea`: `text` cannot hold U+0000, and an index holds no value above 2.7 kB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filestoraged.errors import StoreFailed
from filestoraged.store.drop_tables import POSTGRESQL_DROPS
from filestoraged.store.locks import POSTGRESQL_LOCKS
from filestoraged.store.name_tables import POSTGRESQL_NAMES
from filestoraged.store.rows import RowCheck
from filestoraged.store.uploads.registry import POSTGRESQL_UPLOADS

if TYPE_CHECKING:
    import psycopg

SCHEMA = "filestoraged"

# Of the tables below. Those of older releases are upgraded; others are refused.
_VERSION = 3

# Names of advisory locks, which all programs that use the database share: "fs" and a number.
MAKING_LOCK = 0x6673_0001
COMMIT_LOCK = 0x6673_0002

# Who adds to resumable uploads, and which objects have their bytes; see `uploads.hold_rows`. The rows of an upload go
# with it, so that its generations are never used twice.
_UPLOAD_HOLDS = (
    """CREATE TABLE upload_holds (
        id text COLLATE "C" PRIMARY KEY REFERENCES uploads ON DELETE CASCADE, generation bigint NOT NULL, holder text,
        touched float8 NOT NULL, has_bytes integer NOT NULL)""",
    """CREATE TABLE upload_segments (
        id text COLLATE "C" REFERENCES uploads ON DELETE CASCADE, number bigint, start bigint NOT NULL,
        size bigint NOT NULL, digest text NOT NULL, PRIMARY KEY (id, number))""",
)

KEY_CHECKS = (
    RowCheck(
        "pairs",
        "digest",
        b"",
        "encode(digest, 'hex')",
        "octet_length(md5(value)) - 32 + length(key) + length(value)",
        "sha256(key) = digest",
        "its digest is not that of its key",
    ),
    RowCheck(
        "queue",
        "id",
        -1,
        "id::text",
        "coalesce(octet_length(md5(value)) - 32 + length(value), 0) + length(key)",
        "sha256(key) = digest",
        "its digest is not that of its key",
    ),
)

_TABLES = (
    # `digest` is the SHA-256 of the key.
    "CREATE TABLE pairs (digest bytea PRIMARY KEY, key bytea NOT NULL, value bytea NOT NULL)",
    # In the order of arrival. NULL as a value is a deletion. Rows live briefly: the space of dead ones is needed soon.
    """CREATE TABLE queue (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, digest bytea NOT NULL, key bytea NOT NULL, value bytea)
        WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000)""",
    *POSTGRESQL_DROPS,
    *(
        statement.format(table=table)
        for table in ("guesses", "judging")
        for statement in (
            """CREATE TABLE {table} (
                rowid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text COLLATE "C" NOT NULL,
                time float8 NOT NULL)""",
            "CREATE INDEX {table}_by_id ON {table} (id, time)",
        )
    ),
    "CREATE TABLE clock (seen float8)",
    "INSERT INTO clock VALUES (NULL)",
    "CREATE TABLE grace (passed float8 NOT NULL)",
    "INSERT INTO grace VALUES (0)",
    # Which process cleans up, and until when, if it does not renew that.
    "CREATE TABLE janitor (holder text, until float8 NOT NULL)",
    "INSERT INTO janitor VALUES (NULL, 0)",
    *POSTGRESQL_LOCKS,
    *POSTGRESQL_UPLOADS,
    *_UPLOAD_HOLDS,
    *POSTGRESQL_NAMES,
)

# What each older version lacks.
_UPGRADES = {2: POSTGRESQL_NAMES}


def prepare_schema(connection: psycopg.Connection[Any]) -> None:
    """Make the tables where they are missing. Raises StoreFailed where they are those of no release, or a newer one."""
    if _version(connection) == _VERSION:
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (MAKING_LOCK,))
        version = _version(connection)
        if version is None:
            _make(connection)
        elif version in _UPGRADES:
            _upgrade(connection, version)
        elif version != _VERSION:
            age = "newer" if version > _VERSION else "older"
            raise StoreFailed(
                f"The database has tables of version {version}, which is {age} than this program's {_VERSION}."
            )


def require_schema(connection: psycopg.Connection[Any]) -> None:
    """Raises StoreFailed where the tables are missing, or of another version."""
    version = _version(connection)
    if version != _VERSION:
        found = "no tables" if version is None else f"tables of version {version}"
        raise StoreFailed(f"The database has {found}; expected tables of version {_VERSION}.")


def _version(connection: psycopg.Connection[Any]) -> int | None:
    """The version of the tables, None without them."""
    # By a query of the catalog: `to_regclass` answers from a cache, which is older than the lock that was waited for.
    statement = "SELECT 1 FROM pg_tables WHERE schemaname = %s AND tablename = 'version'"
    if not connection.execute(statement, (SCHEMA,)).fetchone():
        return None
    (version,) = connection.execute(f"SELECT version FROM {SCHEMA}.version").fetchone() or (0,)
    return int(version)


def _make(connection: psycopg.Connection[Any]) -> None:
    # An operator may have made it for a user who may not.
    if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (SCHEMA,)).fetchone():
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
    for table in _TABLES:
        connection.execute(table)
    connection.execute("CREATE TABLE version (version integer NOT NULL)")
    connection.execute("INSERT INTO version VALUES (%s)", (_VERSION,))


def _upgrade(connection: psycopg.Connection[Any], version: int) -> None:
    for older in range(version, _VERSION):
        for statement in _UPGRADES[older]:
            connection.execute(statement)
    connection.execute("UPDATE version SET version = %s", (_VERSION,))
