"""What a pool of memcached servers says it has of ours, at one moment: manifests, and chunks that are to stay.

It is kept in a database of its own, which SQLite moves from memory to a temporary file as it grows.
"""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from filestoraged.check.throttle import Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store.memcached.pool import PoolServer, ServerPool

_MANIFEST = re.compile(rb"fsd:[0-9a-f]{64}")
_CHUNK = re.compile(rb"fsd:([0-9a-f]{32}):([0-9]{1,5})")
_ITEM = re.compile(rb"key=([^ ]+) exp=(-?[0-9]+) ")

_TABLES = (
    "CREATE TABLE manifests (key TEXT PRIMARY KEY) WITHOUT ROWID",
    # Those that never expire, by the token of their upload.
    "CREATE TABLE chunks (token TEXT, number INTEGER, PRIMARY KEY (token, number)) WITHOUT ROWID",
    # The tokens that manifests have been seen with.
    "CREATE TABLE named (token TEXT PRIMARY KEY) WITHOUT ROWID",
)

# Keys that are in memory at a time.
_PAGE = 500

# A server lists for one at a time, and may be busy with tidying up. In seconds: how long one asks, and how often.
_PATIENCE = 60.0
_PAUSE = 0.2


class Stray(NamedTuple):
    """Chunks of one upload that no manifest names."""

    token: str
    numbers: list[int]


class Listing:
    """Many threads use it; the lock guards the connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for table in _TABLES:
            self._connection.execute(table)

    def fill(self, pool: ServerPool, pace: Throttle) -> None:
        """Ask all servers. Raises StoreUnavailable, and Stopped."""
        for server in pool.servers:
            self._fill_from(server, pace)

    def count(self) -> int:
        """How many manifests there are."""
        return int(self._ask("SELECT count(*) FROM manifests")[0][0])

    def manifests(self) -> Iterator[str]:
        """Their keys. One thread at a time goes through them."""
        page = [("",)]
        while page:
            page = self._ask("SELECT key FROM manifests WHERE key > ? ORDER BY key LIMIT ?", page[-1][0], _PAGE)
            for (key,) in page:
                yield key

    def name(self, token: bytes) -> None:
        """Note that there is a manifest of that upload."""
        self._ask("INSERT OR IGNORE INTO named VALUES (?)", token.hex())

    def strays(self) -> Iterator[Stray]:
        """The chunks that no manifest names which was noted."""
        page = [("",)]
        while page:
            question = (
                "SELECT DISTINCT token FROM chunks WHERE token > ? AND token NOT IN (SELECT token FROM named)"
                " ORDER BY token LIMIT ?"
            )
            page = self._ask(question, page[-1][0], _PAGE)
            for (token,) in page:
                yield Stray(token, self.numbers(token))

    def numbers(self, token: str) -> list[int]:
        """Which chunks of an upload there are."""
        return [number for (number,) in self._ask("SELECT number FROM chunks WHERE token = ? ORDER BY number", token)]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _fill_from(self, server: PoolServer, pace: Throttle) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not server.call(lambda client: client.list_items(self._take)):
            if time.monotonic() > deadline:
                raise StoreUnavailable(node=server.name) from TimeoutError(
                    f"memcached {server.name} lists its items for another client"
                )
            pace.pause(_PAUSE)

    def _take(self, line: bytes) -> None:
        """Keep what a server says of one item. Said twice, it is there once."""
        item = _ITEM.match(line)
        if item is None:
            return
        # Servers write them as in a URL.
        key, expires = unquote_to_bytes(item.group(1)), int(item.group(2))
        chunk = _CHUNK.fullmatch(key)
        if _MANIFEST.fullmatch(key):
            self._ask("INSERT OR IGNORE INTO manifests VALUES (?)", key.decode())
        elif chunk and expires < 0:
            self._ask("INSERT OR IGNORE INTO chunks VALUES (?, ?)", chunk.group(1).decode(), int(chunk.group(2)))

    def _ask(self, question: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(question, values).fetchall()
