"""Prunes a repository in an S3 store, as `check.prune` does one on disk.

An object that was uploaded again since it was listed stays, unless that upload came within the round trip between the
last look at the object and its deletion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from filestoraged.check.prune import Pruned, PruneTotals
from filestoraged.check.s3_quarantine import S3Quarantine
from filestoraged.check.s3_reader import Measured, ObjectReader
from filestoraged.check.throttle import Throttle
from filestoraged.errors import NotFound
from filestoraged.store import layout
from filestoraged.store.s3.answers import ListedObject
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.listing import advance

# An oid, in its shard.
_OID = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}")


class S3Prune:
    """One run over the repository `name`. One thread calls it."""

    def __init__(
        self, client: S3Client, name: str, keep: frozenset[bytes], *, before: float, throttle: Throttle
    ) -> None:
        """Objects that were stored at `before` or later, in seconds since 1970, stay."""
        self.totals = PruneTotals()
        self._client = client
        self._prefix = f"{layout.REPOSITORIES}/{name}/"
        self._keep = keep
        self._before = before
        self._throttle = throttle
        self._reader = ObjectReader(client, throttle)
        self._quarantine = S3Quarantine(client, self._reader)

    def exists(self) -> bool:
        """Whether the repository has an object. Raises StoreUnavailable."""
        return bool(self._client.list(self._prefix, limit=1).objects)

    def find(self) -> Iterator[Pruned]:
        """Yield what `run` would move. Raises StoreUnavailable and CheckStopped."""
        for oid, listed in self._candidates():
            yield self._count(Pruned(oid, listed.size, listed.modified, None))

    def run(self) -> Iterator[Pruned]:
        """Move the objects, and yield each of them. Raises StoreUnavailable, StorageFull and CheckStopped."""
        for oid, listed in self._candidates():
            moved = self._move(listed)
            # None: it was removed, or uploaded again, since it was listed.
            if moved is not None:
                yield self._count(Pruned(oid, listed.size, listed.modified, moved))

    def _move(self, listed: ListedObject) -> str | None:
        try:
            found = self._measure(listed.key)
        except NotFound:
            return None
        return self._quarantine.move(listed.key, found) if found.modified < self._before else None

    def _measure(self, key: str) -> Measured:
        """What the object is, which may be damaged, so that its copy can be compared with it."""
        return self._reader.recorded(key) or self._reader.read(key, ["sha256"], lambda size: None)

    def _count(self, pruned: Pruned) -> Pruned:
        self.totals.pruned += 1
        self.totals.size += pruned.size
        return pruned

    def _candidates(self) -> Iterator[tuple[str, ListedObject]]:
        """Yield the objects that are neither named nor recent."""
        for listed in self._objects():
            self._throttle.raise_if_stopped()
            oid = listed.key.rpartition("/")[2]
            if not _OID.fullmatch(listed.key.removeprefix(self._prefix)):
                # Foreign: a check reports it.
                continue
            if bytes.fromhex(oid) in self._keep:
                self.totals.named += 1
            elif listed.modified < self._before:
                yield oid, listed
            else:
                self.totals.recent += 1

    def _objects(self) -> Iterator[ListedObject]:
        after = ""
        while True:
            page = self._client.list(self._prefix, after=after)
            yield from page.objects
            if page.is_last or not page.objects:
                return
            after = advance(after, page.objects[-1].key)
