"""One migration from its first to its last step, and the comparison of its two sides.

| step | why then |
|---|---|
| the target's databases are examined | it is refused before anything is copied |
| all objects and bytes of drops are copied | takes longest |
| those that were stored meanwhile are copied | soon before the rows that name them |
| the databases are copied | a row never comes before its bytes |
| bytes of drops that are gone are removed from the target | after their rows |
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from filestoraged.check.findings import Finding
from filestoraged.check.runner import start_counting
from filestoraged.check.throttle import Throttle
from filestoraged.command_errors import CheckError
from filestoraged.migration.databases import DatabaseComparison, DatabaseCopy, available_drops
from filestoraged.migration.findings import MigrationTotals
from filestoraged.migration.namespace_pairs import NamespacePair, Service, drop_pair, object_pairs
from filestoraged.migration.passes import ComparePass, CopyPasses


class Parts(NamedTuple):
    """What is to be migrated: each unless both sides keep it in the same place."""

    objects: bool
    # The bytes of drops.
    drops: bool
    databases: bool


class _Run:
    """What a migration and a comparison share. The calling thread uses it."""

    def __init__(self, source: Service, target: Service, parts: Parts, throttle: Throttle) -> None:
        self.totals = MigrationTotals()
        self._source = source
        self._target = target
        self._parts = parts
        self._throttle = throttle

    def _pairs(self) -> Iterator[NamespacePair]:
        source, target = self._source, self._target
        if self._parts.objects:
            yield from object_pairs(source, target)
        if self._parts.drops:
            yield drop_pair(source, target, functools.partial(available_drops, source.rows))

    def _start_counting(self) -> None:
        if self._parts.objects:
            store, throttle = self._source.objects, self._throttle
            start_counting(lambda: store.usage(throttle.raise_if_stopped).values(), self.totals, throttle)


class Migration(_Run):
    """Copies from the source to the target. With `delete`, objects that only the target has are removed from it."""

    def __init__(
        self, source: Service, target: Service, parts: Parts, throttle: Throttle, *, delete: bool = False
    ) -> None:
        super().__init__(source, target, parts, throttle)
        self._delete = delete
        self._passes = CopyPasses(throttle, self.totals, delete=delete)
        self._databases = DatabaseCopy(source, target, throttle, self.totals)

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All objects that are not copied; and None after each `pause` seconds without one.

        Raises CheckError, CheckStopped and ListingUnsupported.
        """
        if self._parts.databases:
            self._databases.require_unserved()
        self._start_counting()
        yield from self._passes.first(self._pairs, pause)
        if self._delete and self._parts.objects and not self.totals.objects:
            # A disk that is not mounted, perhaps.
            raise CheckError("the source has no objects: --delete would remove all objects of the target")
        yield from self._passes.last(self._pairs, pause)
        if self._parts.databases:
            self._databases.run()
        if self._parts.drops:
            self._databases.remove_orphans()


class Comparison(_Run):
    """Compares the source with the target, and changes neither."""

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All differences; and None after each `pause` seconds without one. Raises as `Migration.findings`."""
        self._start_counting()
        yield from ComparePass(self._throttle, self.totals).run(self._pairs, pause)
        if self._parts.databases:
            yield from DatabaseComparison(self._source, self._target, self._throttle, self.totals).findings()
