"""Checks the objects in a pool of memcached servers: each manifest, its chunks, and chunks that no manifest names.

Others may use the pool meanwhile. What looks wrong is a finding if its manifest is still the same afterwards.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import closing

from filestoraged.check.findings import DAMAGED, ORPHANED, CheckTotals, Finding
from filestoraged.check.listing import Listing
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import Throttle
from filestoraged.errors import CorruptObject
from filestoraged.store.memcached.blob import fetch
from filestoraged.store.memcached.manifest import (
    Manifest,
    chunk_key,
    is_removal_mark,
    removal_mark,
    try_unpack,
    unpack,
)
from filestoraged.store.memcached.pool import Versioned
from filestoraged.store.memcached.staging import STAGING_TTL
from filestoraged.store.memcached.store import MemcachedStore

# Seconds between two listings. Servers are listed one after the other, so a manifest may be added after its server was
# listed and before the server of its chunks is; and a removal in progress deletes its chunks after its manifest.
_GRACE = 10.0

_Look = Callable[[], Iterator[Finding]]


class MemcachedCheck:
    """One check of all objects of `store` and its namespaces, by threads of its own."""

    def __init__(
        self,
        store: MemcachedStore,
        *,
        pace: Throttle,
        repair: bool = False,
        threads: int | None = None,
        grace: float = _GRACE,
    ) -> None:
        self.tally = CheckTotals()
        self._store = store
        self._pace = pace
        self._repair = repair
        self._threads = threads or len(os.sched_getaffinity(0))
        self._grace = grace
        self._listing = Listing()
        # Keys of the removal marks that were found.
        self._marked: list[str] = []

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """What is wrong; and None whenever `pause` seconds have gone by. Raises StoreUnavailable, and Stopped."""
        with closing(self._listing):
            yield from self._crew(iter((self._list,)), 1).findings(pause)
            yield from self._crew(self._looks(), self._threads).findings(pause)
            # Once all manifests are known.
            yield from self._crew(iter((self._strays,)), 1).findings(pause)
            if self._repair:
                yield from self._crew(iter((self._finish_removals,)), 1).findings(pause)

    def _crew(self, looks: Iterator[_Look], threads: int) -> Runner[_Look]:
        return Runner(looks, [lambda look: look()] * threads, self._pace)

    def _list(self) -> Iterator[Finding]:
        self._listing.fill(self._store.pool, self._pace)
        self.tally.all_objects = self._listing.count()
        return iter(())

    def _looks(self) -> Iterator[_Look]:
        for key in self._listing.manifests():
            yield functools.partial(self._object, key)

    def _object(self, key: str) -> Iterator[Finding]:
        found = self._store.pool.gets(key)
        while found is not None:
            self._pace.go_on()
            reason = self._what_is_wrong(key, found)
            if reason is None:
                break
            if self._is_still(key, found):
                yield Finding(DAMAGED, key, reason, "removed" if self._repair else None)
                break
            # It was replaced or removed meanwhile, and its chunks with it.
            found = self._store.pool.gets(key)
        self.tally.add_object()

    def _what_is_wrong(self, key: str, found: Versioned) -> str | None:
        try:
            manifest = unpack(key, found.data)
        except ValueError as error:
            return str(error)
        if manifest.is_removed:
            # A removal in progress deletes the chunks itself. If they are still there later, they are strays.
            self._marked.append(key)
            return None
        self._listing.name(manifest.token)
        try:
            fetch(self._store.pool, manifest, self._store.hash_threads)
        except CorruptObject as error:
            return f"{manifest.algorithm} {manifest.digest}: {error.reason}"
        self._count(manifest)
        return None

    def _count(self, manifest: Manifest) -> None:
        self.tally.add_size(manifest.size)
        self._pace.pay(manifest.size)

    def _is_still(self, key: str, found: Versioned) -> bool:
        """Whether that manifest is there; or was, if it is to be removed so that a good one takes its place."""
        if not self._repair:
            again = self._store.pool.gets(key)
            return again is not None and again.version == found.version
        return self._store.remove_found(key, found, removal_mark(key, found.data))

    def _strays(self) -> Iterator[Finding]:
        """Chunks that nothing leads to, and that are still there a while later, and a while after that.

        The first time is for those who bring them and have yet to say so. The second one is for those who have replaced
        or removed an object, and have yet to remove its chunks.
        """
        if self._has_no_strays():
            return
        self._pace.pause(self._grace)
        with closing(Listing()) as again:
            again.fill(self._store.pool, self._pace)
            for key in again.manifests():
                self._name(key)
            if self._has_no_strays():
                return
            self._pace.pause(self._grace)
            for stray in self._listing.strays():
                listed = set(stray.numbers) & set(again.numbers(stray.token))
                keys = [chunk_key(bytes.fromhex(stray.token), number) for number in sorted(listed)]
                keys = [key for key in keys if self._store.pool.get(key) is not None]
                if keys:
                    yield self._orphaned(stray.token, keys)

    def _has_no_strays(self) -> bool:
        return next(self._listing.strays(), None) is None

    def _name(self, key: str) -> None:
        """Note the upload of a manifest as it is now."""
        self._pace.go_on()
        data = self._store.pool.get(key)
        if data is not None:
            manifest = try_unpack(key, data)
            if manifest is not None and not manifest.is_removed:
                self._listing.name(manifest.token)

    def _finish_removals(self) -> Iterator[Finding]:
        """Delete removal marks that are left from a crash. Their chunks were reported as orphaned."""
        for key in self._marked:
            found = self._store.pool.gets(key)
            if found is not None and is_removal_mark(key, found.data):
                self._store.finish_removal(key, found)
        return iter(())

    def _orphaned(self, token: str, keys: list[str]) -> Finding:
        remedy = None
        # They go as those do that a crash has left. If they are somebody's against all odds, he has time to see it.
        if self._repair and not self._store.pool.touch_all(dict.fromkeys(keys, STAGING_TTL)):
            remedy = f"let expire in {STAGING_TTL // 3600} hours"
        return Finding(ORPHANED, f"fsd:{token}", f"no manifest names its {len(keys)} chunks", remedy)
