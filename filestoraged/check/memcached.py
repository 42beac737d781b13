"""Checks the objects in a pool of memcached servers: manifests, their chunks, and chunks that no manifest lists.

Other clients may use the pool meanwhile. A suspicion is a finding only if the manifest is still the same afterwards.
"""

from __future__ import annotations

import functools
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from urllib.parse import unquote_to_bytes

from filestoraged.check.findings import DAMAGED, ORPHANED, CheckTotals, Finding
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import Throttle
from filestoraged.errors import CorruptObject, StoreUnavailable
from filestoraged.store.memcached.blob import fetch
from filestoraged.store.memcached.manifest import (
    Manifest,
    chunk_key,
    is_removal_mark,
    removal_mark,
    try_unpack,
    unpack,
)
from filestoraged.store.memcached.pool import PoolServer, ServerPool, Versioned
from filestoraged.store.memcached.staging import STAGING_TTL
from filestoraged.store.memcached.store import MemcachedStore

# Seconds between two listings. Servers are listed one after the other, so a manifest may be added after its server was
# listed and before the server of its chunks is; and a removal in progress deletes its chunks after its manifest.
_GRACE_PERIOD = 10.0

# In seconds. A server lists its items for one client at a time: how long the check waits for others, and how often it
# asks.
_LISTING_TIMEOUT = 60.0
_LISTING_PAUSE = 0.2

_MANIFEST_KEY = re.compile(rb"fsd:[0-9a-f]{64}")
_CHUNK_KEY = re.compile(rb"fsd:([0-9a-f]{32}):([0-9]{1,5})")
_ITEM = re.compile(rb"key=([^ ]+) exp=(-?[0-9]+) ")

_LISTING_TABLES = (
    "CREATE TABLE manifests (key TEXT PRIMARY KEY) WITHOUT ROWID",
    # Chunks that never expire, by the token of their upload.
    "CREATE TABLE chunks (token TEXT, number INTEGER, PRIMARY KEY (token, number)) WITHOUT ROWID",
    # The tokens of manifests that were read.
    "CREATE TABLE named (token TEXT PRIMARY KEY) WITHOUT ROWID",
)

# Keys that are in memory at a time.
_KEYS_PER_QUERY = 500

_Task = Callable[[], Iterator[Finding]]


class MemcachedCheck:
    """One check of all objects of `store` and its namespaces, on threads of its own."""

    def __init__(
        self,
        store: MemcachedStore,
        *,
        throttle: Throttle,
        repair: bool = False,
        threads: int | None = None,
        grace: float = _GRACE_PERIOD,
    ) -> None:
        """`grace` is the time between two listings, in seconds."""
        self.totals = CheckTotals()
        self._store = store
        self._pool = store.pool
        self._throttle = throttle
        self._repair = repair
        self._threads = threads or len(os.sched_getaffinity(0))
        self._grace = grace
        self._listing = Listing()
        # Keys of the removal marks that were found.
        self._marked: list[str] = []

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All findings; and None after each `pause` seconds without one. Raises StoreUnavailable and CheckStopped."""
        with closing(self._listing):
            yield from self._runner(iter((self._list,)), 1).findings(pause)
            yield from self._runner(self._object_tasks(), self._threads).findings(pause)
            # After all manifests were read.
            yield from self._runner(iter((self._find_orphans,)), 1).findings(pause)
            if self._repair:
                yield from self._runner(iter((self._finish_removals,)), 1).findings(pause)

    def _runner(self, tasks: Iterator[_Task], threads: int) -> Runner[_Task]:
        return Runner(tasks, [lambda task: task()] * threads, self._throttle)

    def _list(self) -> Iterator[Finding]:
        self._listing.fill(self._pool, self._throttle)
        self.totals.all_objects = self._listing.count()
        return iter(())

    def _object_tasks(self) -> Iterator[_Task]:
        for key in self._listing.manifests():
            yield functools.partial(self._check_object, key)

    def _check_object(self, key: str) -> Iterator[Finding]:
        found = self._pool.gets(key)
        while found is not None:
            self._throttle.raise_if_stopped()
            reason = self._damage(key, found)
            if reason is None:
                break
            if self._is_confirmed(key, found):
                yield Finding(DAMAGED, key, reason, "removed" if self._repair else None)
                break
            # The object was replaced or removed meanwhile, and its chunks with it.
            found = self._pool.gets(key)
        self.totals.add_object()

    def _damage(self, key: str, found: Versioned) -> str | None:
        """Why the object is damaged, None if it is whole."""
        try:
            manifest = unpack(key, found.data)
        except ValueError as error:
            return str(error)
        if manifest.is_removed:
            # A removal in progress deletes the chunks itself. If they still exist later, they are orphaned.
            self._marked.append(key)
            return None
        self._listing.add_token(manifest.token)
        try:
            fetch(self._pool, manifest, self._store.hash_threads)
        except CorruptObject as error:
            return f"{manifest.algorithm} {manifest.digest}: {error.reason}"
        self._count(manifest)
        return None

    def _count(self, manifest: Manifest) -> None:
        self.totals.add_size(manifest.size)
        self._throttle.pay(manifest.size)

    def _is_confirmed(self, key: str, found: Versioned) -> bool:
        """Whether the manifest is still the same. A repair removes it, so that an upload can replace the object."""
        if not self._repair:
            again = self._pool.gets(key)
            return again is not None and again.version == found.version
        return self._store.remove_found(key, found, removal_mark(key, found.data))

    def _find_orphans(self) -> Iterator[Finding]:
        """Find chunks that no manifest lists, and that still exist after two grace periods.

        The first is for uploads that have sent chunks and not yet their manifest, the second for removals and
        replacements that have yet to delete chunks.
        """
        if self._has_no_orphans():
            return
        self._throttle.sleep(self._grace)
        with closing(Listing()) as again:
            again.fill(self._pool, self._throttle)
            for key in again.manifests():
                self._add_token_of(key)
            if self._has_no_orphans():
                return
            self._throttle.sleep(self._grace)
            for token in self._listing.orphans():
                listed = set(self._listing.numbers(token)) & set(again.numbers(token))
                keys = [chunk_key(bytes.fromhex(token), number) for number in sorted(listed)]
                keys = [key for key in keys if self._pool.get(key) is not None]
                if keys:
                    yield self._orphaned(token, keys)

    def _has_no_orphans(self) -> bool:
        return next(self._listing.orphans(), None) is None

    def _add_token_of(self, key: str) -> None:
        """Add the token of a manifest as it is now."""
        self._throttle.raise_if_stopped()
        data = self._pool.get(key)
        manifest = None if data is None else try_unpack(key, data)
        if manifest is not None and not manifest.is_removed:
            self._listing.add_token(manifest.token)

    def _finish_removals(self) -> Iterator[Finding]:
        """Delete the removal marks of crashed removals. Their chunks were reported as orphaned."""
        for key in self._marked:
            found = self._pool.gets(key)
            if found is not None and is_removal_mark(key, found.data):
                self._store.finish_removal(key, found)
        return iter(())

    def _orphaned(self, token: str, keys: list[str]) -> Finding:
        remedy = None
        # They expire like the chunks of a crashed upload. A client that still needs them has time to notice.
        if self._repair and not self._pool.touch_all(dict.fromkeys(keys, STAGING_TTL)):
            remedy = f"set to expire in {STAGING_TTL // 3600} hours"
        return Finding(ORPHANED, f"fsd:{token}", f"no manifest lists its {len(keys)} chunks", remedy)


class Listing:
    """The manifests and the permanent chunks that servers list, at one moment.

    They are in a database of their own, which SQLite moves from memory to a temporary file as it grows. Any thread
    calls it; the lock guards the connection.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for table in _LISTING_TABLES:
            self._connection.execute(table)

    def fill(self, pool: ServerPool, throttle: Throttle) -> None:
        """List the items of all servers. Raises StoreUnavailable and CheckStopped."""
        for server in pool.servers:
            self._fill_from(server, throttle)

    def count(self) -> int:
        """The number of manifests."""
        return int(self._execute("SELECT count(*) FROM manifests")[0][0])

    def manifests(self) -> Iterator[str]:
        """The keys of all manifests, for one thread at a time."""
        return self._pages("SELECT key FROM manifests WHERE key > ? ORDER BY key LIMIT ?")

    def add_token(self, token: bytes) -> None:
        """Record that a manifest lists the chunks of that upload."""
        self._execute("INSERT OR IGNORE INTO named VALUES (?)", token.hex())

    def orphans(self) -> Iterator[str]:
        """The tokens of uploads that have chunks and were not added."""
        return self._pages(
            "SELECT DISTINCT token FROM chunks WHERE token > ? AND token NOT IN (SELECT token FROM named)"
            " ORDER BY token LIMIT ?"
        )

    def numbers(self, token: str) -> list[int]:
        """The numbers of an upload's chunks."""
        statement = "SELECT number FROM chunks WHERE token = ? ORDER BY number"
        return [number for (number,) in self._execute(statement, token)]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _fill_from(self, server: PoolServer, throttle: Throttle) -> None:
        deadline = throttle.clock.now() + _LISTING_TIMEOUT
        while not server.call(lambda client: client.list_items(self._add_item)):
            if throttle.clock.now() > deadline:
                cause = TimeoutError(f"memcached {server.name} lists its items for another client")
                raise StoreUnavailable(node=server.name) from cause
            throttle.sleep(_LISTING_PAUSE)

    def _add_item(self, line: bytes) -> None:
        """Add the item of a line of a server's listing, if it is a manifest or a permanent chunk."""
        item = _ITEM.match(line)
        if item is None:
            return
        # Keys are percent-encoded.
        key, expires = unquote_to_bytes(item.group(1)), int(item.group(2))
        chunk = _CHUNK_KEY.fullmatch(key)
        if _MANIFEST_KEY.fullmatch(key):
            self._execute("INSERT OR IGNORE INTO manifests VALUES (?)", key.decode())
        elif chunk and expires < 0:
            self._execute("INSERT OR IGNORE INTO chunks VALUES (?, ?)", chunk.group(1).decode(), int(chunk.group(2)))

    def _pages(self, statement: str) -> Iterator[str]:
        """What a statement selects behind a value, so many at a time."""
        page = [("",)]
        while page:
            page = self._execute(statement, page[-1][0], _KEYS_PER_QUERY)
            for (each,) in page:
                yield each

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, values).fetchall()
