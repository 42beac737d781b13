"""Checks a store: objects against their names, bytes of drops and uploads against their registries, and leftovers.

Other processes may use the store meanwhile. So each suspicion is verified before it is reported, in an order that tells
damage from a change: an item that was removed or replaced since it was read is not a finding.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from filestoraged.check.findings import DAMAGED, FOREIGN, MISSING, ORPHANED, UNREADABLE, CheckTotals, Finding
from filestoraged.check.inventory import DIRECTORY_IN_PLACE, OBJECTS, CheckedStore, Item, ItemKind, OpenItem
from filestoraged.check.rows import IDS_PER_QUERY, ComparedRows, RegistryUnreadable
from filestoraged.check.runner import Runner, start_counting
from filestoraged.check.throttle import Throttle
from filestoraged.digest import ALGORITHMS, digest_length
from filestoraged.errors import Error, NotFound
from filestoraged.store.sqlite.reading import describe

_NAMED_BY_SHA256 = (ItemKind.OID, ItemKind.NAMED)

# Of a file in the quarantine that was in place of a directory. No name in a store ends with it.
_FILE_SUFFIX = "~"

_Task = Callable[["ItemChecker"], Iterator[Finding]]


class StoreCheck:
    """One check of a store, on threads of its own. Without `repair` it changes nothing."""

    def __init__(
        self,
        open_store: Callable[[], CheckedStore],
        rows: Sequence[ComparedRows],
        *,
        algorithm: str,
        throttle: Throttle,
        repair: bool = False,
        threads: int | None = None,
    ) -> None:
        """Each thread opens the store for itself. `algorithm` is the one that names most objects."""
        self.totals = CheckTotals()
        self._open_store = open_store
        self._store = open_store()
        self._rows = {each.bytes_kind.kind: each for each in rows}
        self._algorithm = algorithm
        self._throttle = throttle
        self._repair = repair
        self._threads = threads or len(os.sched_getaffinity(0))

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All findings; and None after each `pause` seconds without one. Raises an Error, OSError and CheckStopped."""
        start_counting(self._store.usages, self.totals, self._throttle)
        # Before the threads query the databases.
        yield from self._store.losses()
        runner = Runner(self._tasks(), [self._run_tasks() for _ in range(self._threads)], self._throttle)
        yield from runner.findings(pause)

    def _run_tasks(self) -> Callable[[_Task], Iterator[Finding]]:
        """The function of one thread, with a checker of its own."""
        checker = self._checker()
        return lambda task: task(checker)

    def _checker(self) -> ItemChecker:
        return ItemChecker(
            self._open_store(),
            algorithm=self._algorithm,
            throttle=self._throttle,
            totals=self.totals,
            repair=self._repair,
        )

    def _tasks(self) -> Iterator[_Task]:
        """Tasks for the threads, which take them one by one.

        Objects that take no time are checked here, by the thread that takes the next task. In parallel, threads would
        wait for each other at every step, and two of them take twice as long as one.
        """
        # First, since it may take longest.
        for rows in self._rows.values():
            if rows.are_here:
                yield functools.partial(_find_missing, rows)
        checker = self._checker()
        batches: dict[ItemKind, list[str]] = {kind: [] for kind in self._rows}
        for item in self._store.items():
            if item.kind in OBJECTS:
                if not checker.is_small_and_whole(item):
                    yield functools.partial(_check_item, item)
            elif item.kind not in batches:
                yield functools.partial(_check_item, item)
            if item.kind not in batches:
                continue
            batches[item.kind].append(item.path)
            if len(batches[item.kind]) == IDS_PER_QUERY:
                yield functools.partial(_find_orphans, self._rows[item.kind], batches[item.kind])
                batches[item.kind] = []
        for kind, paths in batches.items():
            if paths:
                yield functools.partial(_find_orphans, self._rows[kind], paths)


def _check_item(item: Item, checker: ItemChecker) -> Iterator[Finding]:
    if item.kind in (ItemKind.STAGING, ItemKind.DATABASE):
        yield from checker.examine(item)
        return
    finding = checker.check(item)
    if finding is not None:
        yield finding


def _find_missing(rows: ComparedRows, checker: ItemChecker) -> Iterator[Finding]:
    """Find rows without bytes. The row must need them both before and after they were looked up."""
    if not rows.is_sound():
        return
    kind, registry = rows.bytes_kind, rows.registry
    try:
        for id_, size in registry.all_with_bytes():
            if not checker.exists(kind.path_of(id_), size) and registry.needs_bytes(id_):
                yield Finding(MISSING, kind.path_of(id_), kind.missing)
        for path in registry.incomplete():
            yield Finding(MISSING, path, "its upload has received bytes that no object has")
    except RegistryUnreadable as error:
        yield from rows.report_unreadable(error)


def _find_orphans(rows: ComparedRows, paths: list[str], checker: ItemChecker) -> Iterator[Finding]:
    """Find bytes without a row, at most IDS_PER_QUERY."""
    if not rows.is_sound():
        return
    try:
        without_row = rows.without_row(paths)
    except RegistryUnreadable as error:
        yield from rows.report_unreadable(error)
        return
    for path in without_row:
        # The bytes of a row that was removed were removed before it.
        if checker.exists(path, grace=rows.grace):
            finding = checker.move_aside(Finding(ORPHANED, path, rows.bytes_kind.orphaned))
            if finding is not None:
                yield finding


class ItemChecker:
    """Compares objects with their names, and moves damaged ones aside with `repair`. One thread uses it.

    Methods return None for an item that is as it should be, or was removed meanwhile. They raise CheckStopped.
    """

    def __init__(
        self, store: CheckedStore, *, algorithm: str, throttle: Throttle, totals: CheckTotals, repair: bool = False
    ) -> None:
        """Where several algorithms have names of one length, `algorithm` is tried first."""
        self._store = store
        self._throttle = throttle
        self._totals = totals
        self._repair = repair
        # By the length of names. The algorithm that matched last is the first.
        self._algorithms: dict[int, list[str]] = {}
        for each in (algorithm, *(other for other in ALGORITHMS if other != algorithm)):
            self._algorithms.setdefault(digest_length(each), []).append(each)

    def check(self, item: Item) -> Finding | None:
        """Check an item that is neither a STAGING nor a DATABASE, nor bytes that a row names."""
        self._throttle.raise_if_stopped()
        try:
            return _CHECKS[item.kind](self, item) if item.kind in _CHECKS else None
        except NotFound:
            # Removed since it was listed.
            return None
        except (Error, OSError) as error:
            return self._store.failure(item.path, error)

    def is_small_and_whole(self, item: Item) -> bool:
        """Whether it takes no time to see that an object is whole. False means that it must be checked."""
        algorithms = (
            ["sha256"] if item.kind in _NAMED_BY_SHA256 else self._algorithms.get(len(os.path.basename(item.path)))
        )
        if algorithms is None or not self._store.is_small_and_whole(item.path, algorithms[0], self._totals.add_size):
            return False
        self._totals.add_object()
        return True

    def examine(self, item: Item) -> Iterator[Finding]:
        """What is wrong with a STAGING or a DATABASE."""
        return self._store.examine(item, repair=self._repair)

    def exists(self, path: str, size: int | None = None, *, grace: float = 0.0) -> bool:
        """Whether an item of that size, if one is given, is there and at least `grace` seconds old."""
        self._throttle.raise_if_stopped()
        try:
            status = self._store.status(path)
        except NotFound:
            return False
        except OSError:
            # It cannot be looked up, which does not mean that it is missing.
            return True
        return size in (None, status.size) and (not grace or status.modified < self._throttle.clock.date() - grace)

    def move_aside(self, finding: Finding) -> Finding | None:
        """Move the item of a finding to the quarantine. Returns the finding, without `repair` as it was."""
        if not self._repair:
            return finding
        try:
            with closing(self._store.locate(finding.path)) as found:
                return self._moved(finding, found)
        except NotFound:
            return None

    def _check_object(self, item: Item) -> Finding | None:
        algorithms = self._algorithms.get(len(os.path.basename(item.path)))
        if algorithms is None:
            return self._check_foreign(item._replace(reason="no algorithm has digests of this length"))
        return self._compare(item.path, algorithms)

    def _check_oid(self, item: Item) -> Finding | None:
        return self._compare(item.path, ["sha256"])

    def _check_config(self, item: Item) -> Finding | None:
        """What its bytes should be only restic knows."""
        if not item.reason:
            return None
        with closing(self._store.locate(item.path)) as found:
            is_directory = stat.S_ISDIR(found.status.mode)
            return self._moved(Finding(DAMAGED, item.path, item.reason), found) if is_directory else None

    def _check_obstacle(self, item: Item) -> Finding | None:
        with closing(self._store.locate(item.path)) as found:
            if stat.S_ISDIR(found.status.mode) or stat.S_ISLNK(found.status.mode):
                # It was replaced.
                return None
            return self._moved(Finding(DAMAGED, item.path, item.reason), found, suffix=_FILE_SUFFIX)

    def _check_foreign(self, item: Item) -> Finding | None:
        return Finding(FOREIGN, item.path, item.reason) if self.exists(item.path) else None

    def _check_unreadable(self, item: Item) -> Finding | None:
        return Finding(UNREADABLE, item.path, item.reason)

    def _compare(self, path: str, algorithms: list[str]) -> Finding | None:
        # Each object is counted once, however often it is read.
        count = self._totals.add_size
        while True:
            self._throttle.raise_if_stopped()
            with closing(self._store.open(path)) as found:
                finding = self._difference(path, found, algorithms, count)
                if finding is not None and finding.kind == DAMAGED:
                    finding = self._moved(finding, found)
                    if finding is None:
                        # It was replaced or removed while it was read; check what is there now.
                        count = _ignore
                        continue
                self._totals.add_object()
                return finding

    def _difference(
        self, path: str, found: OpenItem, algorithms: list[str], count: Callable[[int], None]
    ) -> Finding | None:
        if stat.S_ISDIR(found.status.mode):
            return Finding(DAMAGED, path, DIRECTORY_IN_PLACE)
        if not stat.S_ISREG(found.status.mode):
            return Finding(FOREIGN, path, "it is not a regular file")
        try:
            if found.has_digest(os.path.basename(path), algorithms, count):
                return None
        except NotFound:
            raise
        except (Error, OSError) as error:
            return self._store.failure(path, error)
        return Finding(DAMAGED, path, "its bytes have another digest")

    def _moved(self, finding: Finding, found: OpenItem, *, suffix: str = "") -> Finding | None:
        """The finding with its remedy, or None if its path no longer leads to the item."""
        if not found.is_in_place():
            return None
        if not self._repair:
            return finding
        try:
            target = found.move_aside(suffix)
        except (Error, OSError) as error:
            return finding._replace(reason=f"{finding.reason}, and it cannot be moved: {describe(error)}")
        return None if target is None else finding._replace(remedy=f"moved to {target}")


_CHECKS = {
    ItemKind.OBJECT: ItemChecker._check_object,
    ItemKind.OID: ItemChecker._check_oid,
    ItemKind.NAMED: ItemChecker._check_oid,
    ItemKind.CONFIG: ItemChecker._check_config,
    ItemKind.OBSTACLE: ItemChecker._check_obstacle,
    ItemKind.FOREIGN: ItemChecker._check_foreign,
    ItemKind.UNREADABLE: ItemChecker._check_unreadable,
}


def _ignore(size: int) -> None:
    pass
