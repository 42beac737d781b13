"""The names of files and directories in a store's directory. No other module knows them.

    ROOT/ab/abcdef…                       objects of the files interface, in shards
    ROOT/repositories/NAME/ab/abcdef…     objects of a repository
    ROOT/names/SPACE/ab/abcdef…           objects that the names of a space lead to
    ROOT/restic/NAME/config, …/data/ab/…  a repository of restic, as restic itself has it in a directory
    ROOT/restic/NAME/index/abcdef…        the same for keys, locks and snapshots: not in shards
    ROOT/drops/ab/abcdef…                 bytes of drops
    ROOT/staging/TOKEN/NUMBER             stagings, one directory for each process
    ROOT/staging/TOKEN/journal.NUMBER     segments of its journal
    ROOT/journal                          what the journals of all processes share
    ROOT/uploads/ID, ROOT/uploads/ID.lock bytes of an unfinished resumable upload, and who adds to it
    ROOT/uploads/ID/NUMBER                segments of one, in an S3 store alone
    ROOT/quarantine/…                     damaged and pruned files, under the paths that they had
    ROOT/kv.sqlite, ROOT/drops.sqlite,    databases, with their -wal, -shm, .turn and .reserve files
    ROOT/locks.sqlite, ROOT/uploads.sqlite,
    ROOT/names.sqlite
    ROOT/drops.sqlite.janitor             the lock of the janitor
    ROOT/uploads.sqlite.janitor           the same, for expired uploads
    ROOT/names.sqlite.janitor             the same, for expired names and objects without a name
    ROOT/names.sqlite.limits              the same, for what limits of areas remove
    ROOT/drops.owners/TOKEN               owner locks of processes that upload or send drops
    ROOT/uploads.owners/TOKEN             owner locks of processes that add to resumable uploads

Daemons of two versions may share a store while one replaces the other, so names do not change between versions: a lock
file by another name would be another lock.
"""

from __future__ import annotations

import re

REPOSITORIES = "repositories"
NAMES = "names"
RESTIC = "restic"
DROPS = "drops"
STAGING = "staging"
JOURNAL = "journal"
QUARANTINE = "quarantine"
UPLOADS = "uploads"
KEYS_DATABASE = "kv.sqlite"
DROPS_DATABASE = "drops.sqlite"
LOCKS_DATABASE = "locks.sqlite"
UPLOADS_DATABASE = "uploads.sqlite"
NAMES_DATABASE = "names.sqlite"
JANITOR_LOCK = f"{DROPS_DATABASE}.janitor"
DROP_OWNERS = "drops.owners"
UPLOADS_JANITOR_LOCK = f"{UPLOADS_DATABASE}.janitor"
UPLOAD_OWNERS = "uploads.owners"
NAMES_JANITOR_LOCK = f"{NAMES_DATABASE}.janitor"
LIMITS_JANITOR_LOCK = f"{NAMES_DATABASE}.limits"

DATABASES = (KEYS_DATABASE, DROPS_DATABASE, LOCKS_DATABASE, UPLOADS_DATABASE, NAMES_DATABASE)

# The directories of a repository of restic, and its only file besides, whose name is no digest.
RESTIC_DIRECTORIES = ("data", "index", "keys", "locks", "snapshots")
RESTIC_CONFIG = "config"

# Where the daemon writes, locks and removes files whatever their names and contents: a symbolic link would lead all of
# that to foreign files. An operator may make a link of `repositories`, `restic` or a shard, in which the daemon touches
# only files that are named by a digest, or the config of a repository of restic.
OWN_DIRECTORIES = (STAGING, DROPS, DROP_OWNERS, UPLOADS, UPLOAD_OWNERS, QUARANTINE)
OWN_FILES = (JANITOR_LOCK, UPLOADS_JANITOR_LOCK, NAMES_JANITOR_LOCK, LIMITS_JANITOR_LOCK, JOURNAL)

UPLOAD_LOCK_SUFFIX = ".lock"

_SEGMENT = f"{JOURNAL}."

# Made by mkfs in the root directory of a file system, which may be a store.
LOST_AND_FOUND = "lost+found"

# The name of a staging that is renamed into a directory to test that it can be. A crash may leave one; the next test
# replaces it. No repository or space can have this name: its directory would be in the way.
TRIAL = ".trial~"

_SHARD = re.compile(r"[0-9a-f]{2}")
# An even number of digits, from the 32 of MD5 to the 128 of SHA-512. The 64 of SHA-256 come first, by themselves: a
# repeated group takes twice the time to match.
_DIGEST = re.compile(r"[0-9a-f]{64}(?:[0-9a-f]{2}){0,32}|(?:[0-9a-f]{2}){16,31}")
_CONFIG = re.compile(RESTIC_CONFIG)
_RESTIC_REPOSITORY = re.compile(rf"{RESTIC}/[^/]+")
# Namespaces whose objects lie in the directory itself: restic has shards for its data alone.
_FLAT = re.compile(rf"{RESTIC}/[^/]+(?:/(?:index|keys|locks|snapshots))?")
_REPOSITORY = re.compile(r"[A-Za-z0-9._\-]{1,128}")
# Database files have suffixes such as -wal, -shm, -journal, .turn, .reserve and .janitor.
_BESIDE_DATABASE = re.compile(rf"(?:{'|'.join(map(re.escape, DATABASES))})[.-].+")


def shard(name: str) -> str:
    """The directory of an object within its namespace."""
    return name[:2]


def is_shard(name: str) -> bool:
    return _SHARD.fullmatch(name) is not None


def is_repository(name: str) -> bool:
    """Whether a repository can have that name, which is that of its directory."""
    return _REPOSITORY.fullmatch(name) is not None and name not in (".", "..")


def is_flat(namespace: str) -> bool:
    """Whether the namespace at that path within the store has no shards."""
    return _FLAT.fullmatch(namespace) is not None


def object_names(namespace: str) -> re.Pattern[str]:
    """The names that objects of the namespace at that path within the store can have."""
    return _CONFIG if namespace and _RESTIC_REPOSITORY.fullmatch(namespace) else _DIGEST


def is_object_name(name: str, namespace: str = "") -> bool:
    """Whether an object of the namespace can have that name."""
    return object_names(namespace).fullmatch(name) is not None


def object_path(name: str, namespace: str = "") -> str:
    """The path of an object within its namespace, which is at the path `namespace` within the store."""
    return name if namespace and is_flat(namespace) else f"{name[:2]}/{name}"


def checked_path(name: str, namespace: str = "") -> str:
    """The path of an object within the store. Raises ValueError if no object of the namespace can have that name."""
    if not is_object_name(name, namespace):
        raise ValueError(f"invalid name {name!r}: objects on disk are named by 32 to 128 lower-case hex digits")
    path = object_path(name, namespace)
    return f"{namespace}/{path}" if namespace else path


def segment_name(number: int) -> str:
    """The name of a segment of a journal in the staging area of its process."""
    return f"{_SEGMENT}{number}"


def is_segment(name: str) -> bool:
    return name.startswith(_SEGMENT)


def drop_path(id_: str) -> str:
    """The path of a drop's bytes within the store."""
    return f"{DROPS}/{object_path(id_)}"


def named_path(id_: str) -> str:
    """The path within the store of an object that names lead to, by its space, a slash and its oid."""
    space, _, oid = id_.partition("/")
    return f"{NAMES}/{space}/{object_path(oid)}"


def upload_path(id_: str) -> str:
    """The path of an unfinished upload's bytes within the store."""
    return f"{UPLOADS}/{id_}"


def upload_segment_path(id_: str, number: int) -> str:
    """The key of a segment of an unfinished upload in an S3 store. In a directory, its bytes are one file."""
    return f"{upload_path(id_)}/{number}"


def upload_lock_path(id_: str) -> str:
    """The path of the file that says who adds to an upload."""
    return f"{UPLOADS}/{id_}{UPLOAD_LOCK_SUFFIX}"


def quarantine_path(path: str) -> str:
    """Where the quarantine keeps a file that was at `path`. Both are within the store."""
    return f"{QUARANTINE}/{path}"


def is_beside_database(name: str) -> bool:
    """Whether a file in the root directory belongs to a database without being one."""
    return _BESIDE_DATABASE.fullmatch(name) is not None


def write_ahead_log(database: str) -> str:
    """The path of the log that SQLite keeps beside the database at that path while it is in use."""
    return f"{database}-wal"


def write_ahead_log_index(database: str) -> str:
    """The path of the file with which processes share SQLite's index of that log."""
    return f"{database}-shm"


def log_files(database: str) -> tuple[str, str]:
    """The paths of the log and of its index."""
    return write_ahead_log(database), write_ahead_log_index(database)


def files_of_database(database: str) -> tuple[str, ...]:
    """The paths of the database at that path and of the files that SQLite and the daemon keep beside it."""
    return (database, *log_files(database), f"{database}-journal", write_lock(database), reserve(database))


def write_lock(database: str) -> str:
    """The path of the file that holds the write lock of the database at that path."""
    return f"{database}.turn"


def reserve(database: str) -> str:
    """The path of the file whose space the database at that path gets where the disk is full."""
    return f"{database}.reserve"
