"""Checks the objects of an S3 store: bytes against names, drops and unfinished uploads against their registries.

Daemons may use the store meanwhile. So a suspicion is a finding only if the object is still the same afterwards.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping

from filestoraged.check import s3_segments
from filestoraged.check.databases import IDS_PER_QUERY, RegistryUnreadable, RowRegistry
from filestoraged.check.findings import DAMAGED, FOREIGN, HALF_MADE, MISSING, ORPHANED, UNREADABLE, CheckTotals, Finding
from filestoraged.check.inventory import Item, Kind
from filestoraged.check.runner import Runner
from filestoraged.check.s3_inventory import list_items
from filestoraged.check.s3_quarantine import S3Quarantine
from filestoraged.check.s3_reader import Measured, ObjectReader
from filestoraged.check.s3_segments import SegmentRegistry
from filestoraged.check.throttle import Throttle
from filestoraged.digest import ALGORITHMS, digest_length
from filestoraged.errors import Error, NotFound, StorageFull, StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.s3.answers import ListedUpload, StoreRefusal
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.multipart import abort_upload, list_uploads

# Requests at the same time: they wait for the network more than for the processor.
_THREADS = 8

# Seconds after which an upload in parts is one of a process that died: those of a live one take less.
_FORGOTTEN_AFTER = 24 * 3600.0

_Task = Callable[[], Iterator[Finding]]


class S3Check:
    """One check of all objects of a store, on threads of its own. Without `repair` it changes nothing."""

    def __init__(
        self,
        client: S3Client,
        *,
        algorithm: str,
        throttle: Throttle,
        registry: RowRegistry | None,
        segments: SegmentRegistry | None = None,
        repair: bool = False,
        threads: int = _THREADS,
        forgotten_after: float = _FORGOTTEN_AFTER,
    ) -> None:
        """`algorithm` names most objects. `registry` is that of the drops, None if it is not at hand.

        `segments` is that of unfinished uploads.
        """
        self.totals = CheckTotals()
        self._client = client
        self._throttle = throttle
        self._registry = registry
        self._segments = segments
        self._repair = repair
        self._threads = threads
        self._forgotten_after = forgotten_after
        self._reader = ObjectReader(client, throttle)
        self._quarantine = S3Quarantine(client, self._reader)
        # By the length of names, the most likely first.
        self._algorithms: dict[int, list[str]] = {}
        for each in (algorithm, *(other for other in ALGORITHMS if other != algorithm)):
            self._algorithms.setdefault(digest_length(each), []).append(each)

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All findings; and None after each `pause` seconds without one. Raises StoreUnavailable and CheckStopped."""
        runner = Runner(self._tasks(), [lambda task: task()] * self._threads, self._throttle)
        yield from runner.findings(pause)

    def _tasks(self) -> Iterator[_Task]:
        yield self._find_missing_bytes
        yield self._find_forgotten_uploads
        yield self._find_missing_segments
        batches: dict[Kind, list[str]] = {kind: [] for kind in _COMPARISONS}
        for item in list_items(self._client):
            if item.kind not in batches:
                yield functools.partial(self._check_item, item)
                continue
            batches[item.kind].append(item.path)
            if len(batches[item.kind]) == IDS_PER_QUERY:
                yield functools.partial(_COMPARISONS[item.kind], self, batches[item.kind])
                batches[item.kind] = []
        for kind, keys in batches.items():
            yield functools.partial(_COMPARISONS[kind], self, keys)

    def _check_item(self, item: Item) -> Iterator[Finding]:
        try:
            finding = self._examine(item)
        except NotFound:
            # Removed since it was listed.
            return
        except (StoreUnavailable, StorageFull) as error:
            if not isinstance(error.__cause__, StoreRefusal):
                raise
            finding = Finding(UNREADABLE, item.path, f"it cannot be read: {error.__cause__}")
        if finding is not None:
            yield finding

    def _examine(self, item: Item) -> Finding | None:
        self._throttle.raise_if_stopped()
        if item.kind is Kind.FOREIGN:
            self._client.head(item.path)
            return Finding(FOREIGN, item.path, item.reason)
        name = item.path.rpartition("/")[2]
        algorithms = ["sha256"] if item.kind is Kind.OID else self._algorithms.get(len(name))
        if algorithms is None:
            return Finding(FOREIGN, item.path, "no algorithm has digests of this length")
        finding = self._compare(item.path, name, algorithms)
        self.totals.add_object()
        return finding

    def _compare(self, key: str, name: str, algorithms: list[str]) -> Finding | None:
        recorded = self._reader.recorded(key) if "sha256" in algorithms else None
        if recorded is not None and recorded.digests["sha256"] == name:
            self.totals.add_size(recorded.size)
            return None
        if self._reader.read(key, algorithms[:1], self.totals.add_size).digests[algorithms[0]] == name:
            return None
        return self._confirm(key, name, algorithms)

    def _confirm(self, key: str, name: str, algorithms: list[str]) -> Finding | None:
        """Read an object once more: another algorithm may have named it, or the network have changed its bytes."""
        while True:
            found = self._reader.read(key, algorithms, _ignore)
            if name in found.digests.values():
                return None
            # Else it was replaced while it was read; read what is there now.
            if found.is_at(self._client.head(key)):
                finding = self._moved(Finding(DAMAGED, key, "its bytes have another digest"), found)
                if finding is not None:
                    return finding

    def _moved(self, finding: Finding, found: Measured) -> Finding | None:
        """The finding with its remedy, or None if the object was replaced or removed meanwhile."""
        if not self._repair:
            return finding
        try:
            target = self._quarantine.move(finding.path, found)
        except Error as error:
            return finding._replace(reason=f"{finding.reason}, and it cannot be moved: {error.__cause__ or error}")
        return None if target is None else finding._replace(remedy=f"moved to {target}")

    def _find_orphans(self, keys: list[str]) -> Iterator[Finding]:
        """Find bytes without a drop. They were listed before their rows are queried."""
        if not keys or not self._is_registry_sound():
            return
        assert self._registry is not None
        try:
            without_row = self._registry.without_row([os.path.basename(key) for key in keys])
        except RegistryUnreadable as error:
            yield _unreadable(self._registry.name, "drops", error)
            return
        for key in keys:
            if os.path.basename(key) in without_row:
                yield from self._orphaned(Finding(ORPHANED, key, "no drop has this id"), before=math.inf)

    def _find_orphaned_segments(self, keys: list[str]) -> Iterator[Finding]:
        """Find bytes that no unfinished upload has. A request may be about to record those that are recent."""
        if not keys or self._segments is None:
            return
        before = time.time() - self._forgotten_after
        try:
            for key in s3_segments.without_row(self._segments, keys):
                yield from self._orphaned(Finding(ORPHANED, key, "no upload has recorded it"), before=before)
        except RegistryUnreadable as error:
            yield _unreadable(self._segments.name, "uploads", error)

    def _find_missing_segments(self) -> Iterator[Finding]:
        if self._segments is None:
            return
        try:
            yield from s3_segments.find_missing(self._client, self._segments, self._throttle)
        except RegistryUnreadable as error:
            yield _unreadable(self._segments.name, "uploads", error)

    def _orphaned(self, orphaned: Finding, *, before: float) -> Iterator[Finding]:
        """The finding with its remedy, unless the object was stored at `before` or later, or is removed by now."""
        key = orphaned.path
        try:
            # The bytes of a removed drop were removed before its row.
            if self._client.head(key).modified >= before:
                return
            found = self._reader.read(key, ["sha256"], _ignore) if self._repair else None
        except NotFound:
            return
        finding = orphaned if found is None else self._moved(orphaned, found)
        if finding is not None:
            yield finding

    def _find_missing_bytes(self) -> Iterator[Finding]:
        """Find drops without bytes. The row must need them both before and after the object was looked up."""
        if not self._is_registry_sound():
            return
        assert self._registry is not None
        try:
            for id_ in self._registry.all_with_bytes():
                self._throttle.raise_if_stopped()
                if not self._exists(layout.drop_path(id_)) and self._registry.needs_bytes(id_):
                    yield Finding(MISSING, layout.drop_path(id_), "its drop is available, but has no bytes")
        except RegistryUnreadable as error:
            yield _unreadable(self._registry.name, "drops", error)

    def _exists(self, key: str) -> bool:
        try:
            self._client.head(key)
        except NotFound:
            return False
        return True

    def _is_registry_sound(self) -> bool:
        """Whether drops can be compared. If the registry is damaged, the check of its directory reports it."""
        if self._registry is None:
            return False
        try:
            return self._registry.damage is None
        except RegistryUnreadable:
            return False

    def _find_forgotten_uploads(self) -> Iterator[Finding]:
        before = time.time() - self._forgotten_after
        for upload in list_uploads(self._client):
            if upload.initiated < before:
                yield self._forgotten(upload)

    def _forgotten(self, upload: ListedUpload) -> Finding:
        finding = Finding(
            HALF_MADE, upload.key, f"its upload in parts {upload.upload_id} was neither completed nor aborted"
        )
        if not self._repair:
            return finding
        try:
            abort_upload(self._client, upload)
        except Error as error:
            return finding._replace(reason=f"{finding.reason}, and cannot be: {error.__cause__ or error}")
        return finding._replace(remedy="removed")


def _unreadable(name: str, compared: str, error: RegistryUnreadable) -> Finding:
    return Finding(UNREADABLE, name, f"{compared} cannot be compared with it: {error}")


def _ignore(size: int) -> None:
    pass


# Kinds of keys that are compared with rows, many at a time.
_COMPARISONS: Mapping[Kind, Callable[[S3Check, list[str]], Iterator[Finding]]] = {
    Kind.DROP: S3Check._find_orphans,
    Kind.SEGMENT: S3Check._find_orphaned_segments,
}
