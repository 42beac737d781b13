"""Makes large stores without a daemon: files and rows as a daemon would have written them, and nothing synced until
the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from filestoraged.store import layout
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.kv import KEYS_SCHEMA
from filestoraged.store.permissions import PRIVATE
from filestoraged.store.sqlite import database

# Bytes of an object: the body of number n is n in that many digits.
_BODY_SIZE = 32


def body(number: int) -> bytes:
    return b"%0*d" % (_BODY_SIZE, number)


def digest(number: int) -> str:
    return hashlib.sha256(body(number)).hexdigest()


def repository(number: int) -> str:
    return f"repository-{number}"


def drop_id(number: int) -> str:
    return hashlib.md5(body(number)).hexdigest()


def make_objects(store: Path, count: int) -> None:
    """`count` objects of files."""
    _write_shards(store, count, digest)


def make_repository_of(store: Path, name: str, count: int) -> None:
    """A repository of `count` objects."""
    _write_shards(store / layout.REPOSITORIES / name, count, digest)


def make_repositories(store: Path, count: int) -> None:
    """`count` repositories with one object each."""
    name = digest(0)
    for number in range(count):
        directory = store / layout.REPOSITORIES / repository(number) / layout.shard(name)
        _write_files(directory, [(name, body(0))])


def make_keys(store: Path, count: int) -> None:
    """`count` keys, which are decimal numbers."""
    path = str(store / layout.KEYS_DATABASE)
    database.prepare(path, KEYS_SCHEMA)
    rows = ((str(number).encode(), b'"%s"' % body(number)) for number in range(count))
    _insert(path, "INSERT INTO pairs (key, value) VALUES (?, ?)", rows)


def make_drops(store: Path, count: int) -> None:
    """`count` drops that are available, and as many that are gone."""
    path = str(store / layout.DROPS_DATABASE)
    database.prepare(path, DROPS_SCHEMA)
    now = time.time()
    rows = [(drop_id(number), 1 if number < count else 3, now, now, "name") for number in range(2 * count)]
    _insert(path, "INSERT INTO drops (id, state, changed, created, name) VALUES (?, ?, ?, ?, ?)", rows)
    _write_shards(store / layout.DROPS, count, drop_id)


def _write_shards(directory: Path, count: int, name_of: Callable[[int], str]) -> None:
    shards: dict[str, list[tuple[str, bytes]]] = {}
    for number in range(count):
        name = name_of(number)
        shards.setdefault(layout.shard(name), []).append((name, body(number)))
    for shard, files in shards.items():
        _write_files(directory / shard, files)


def _write_files(directory: Path, files: Iterable[tuple[str, bytes]]) -> None:
    directory.mkdir(PRIVATE.directory, parents=True)
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, data in files:
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE.file, dir_fd=opened)
            os.write(descriptor, data)
            os.close(descriptor)
    finally:
        os.close(opened)


def _insert(path: str, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -65536")
        with connection:
            connection.executemany(statement, rows)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
