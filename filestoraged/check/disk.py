"""Checks a disk store: objects against their names, drops against their registry, databases, and leftover stagings.

Other processes may use the store meanwhile. So each suspicion is verified before it is reported, in an order that tells
damage from a change: a file that was removed or replaced since it was read is not a finding.
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from filestoraged.check.databases import (
    IDS_PER_QUERY,
    Registry,
    RegistryUnreadable,
    RowRegistry,
    describe,
    integrity_failure,
)
from filestoraged.check.findings import DAMAGED, FOREIGN, HALF_MADE, MISSING, ORPHANED, UNREADABLE, CheckTotals, Finding
from filestoraged.check.inventory import Inventory, Item, Kind
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import CheckStopped, FileHasher, Throttle
from filestoraged.check.upload_files import UploadFiles, exists
from filestoraged.digest import ALGORITHMS, digest_length
from filestoraged.errors import StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.disk.quarantine import Quarantine
from filestoraged.store.disk.staging_area import list_abandoned, sweep_area
from filestoraged.store.sqlite.losses import find_losses

# Seconds before the objects are counted for the progress display: a short check ends without.
_COUNT_DELAY = 1.0

# A symbolic link must not lead to a foreign file, nor a pipe block.
_OPEN_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# Errors of a disk that has lost bytes: its own, of the file system's structure, or of a checksum.
_LOST = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA)

# Errors of a machine without free resources, which say nothing about an object.
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Of a file in the quarantine that was in place of a directory. No name in a store ends with it.
_FILE_SUFFIX = "~"

_Task = Callable[["_ObjectChecker"], Iterator[Finding]]


class DiskCheck:
    """One check of the store in the directory `root`, on threads of its own. Without `repair` it changes nothing."""

    def __init__(
        self,
        root: str,
        *,
        algorithm: str,
        throttle: Throttle,
        repair: bool = False,
        threads: int | None = None,
        has_drops: bool = True,
        registry: RowRegistry | None = None,
        has_uploads: bool = True,
        uploads: RowRegistry | None = None,
    ):
        """`algorithm` is the one that names most objects. Without `has_drops`, another store has the drops' bytes.

        `registry` is that of drops, None for the one in `root`; `has_uploads` and `uploads` say the same of unfinished
        uploads.
        """
        self.totals = CheckTotals()
        self._root = os.path.abspath(root)
        self._algorithm = algorithm
        self._throttle = throttle
        self._repair = repair
        self._has_drops = has_drops
        self._threads = threads or len(os.sched_getaffinity(0))
        self._inventory = Inventory(self._root)
        # The one in the directory; and the one that knows the drops.
        self._local = Registry(f"{self._root}/{layout.DROPS_DATABASE}", throttle)
        self._registry: RowRegistry = registry or self._local
        self._uploads = UploadFiles(self._root, throttle, uploads) if has_uploads else None
        self._quarantine = Quarantine(self._root) if repair else None
        # The thread that takes the element reports that the registry cannot be read.
        self._unreported = iter((True,))

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """All findings; and None after each `pause` seconds without one. Raises OSError and CheckStopped."""
        threading.Thread(target=self._count, name="count", daemon=True).start()
        # Before the threads query the databases.
        yield from self._find_losses()
        runner = Runner(self._tasks(), [self._run_tasks() for _ in range(self._threads)], self._throttle)
        yield from runner.findings(pause)

    def _find_losses(self) -> Iterator[Finding]:
        for name in layout.DATABASES:
            for loss in find_losses(f"{self._root}/{name}"):
                yield Finding(DAMAGED, os.path.basename(loss.path), loss.reason)

    def _count(self) -> None:
        """Count the objects to be read, beside the threads that read them."""
        objects = size = 0
        with suppress(OSError, CheckStopped):
            self._throttle.sleep(_COUNT_DELAY)
            for one, its_size in self._inventory.measure():
                self._throttle.raise_if_stopped()
                objects += one
                size += its_size
            self.totals.all_objects, self.totals.all_size = objects, size

    def _run_tasks(self) -> Callable[[_Task], Iterator[Finding]]:
        """The function of one thread, with a checker of its own."""
        checker = self._checker(self._algorithm)
        return lambda task: task(checker)

    def _checker(self, algorithm: str) -> _ObjectChecker:
        return _ObjectChecker(
            self._root, algorithm=algorithm, throttle=self._throttle, totals=self.totals, quarantine=self._quarantine
        )

    def _tasks(self) -> Iterator[_Task]:
        """Tasks for the threads, which take them one by one.

        Small objects in the page cache are checked here, by the thread that takes the next task. In parallel, threads
        would wait for each other at every step, and two of them take twice as long as one.
        """
        # First, since it may take longest.
        if self._has_drops:
            yield self._check_missing_bytes
        if self._uploads is not None:
            yield self._uploads.find_missing
        checkers = {Kind.OBJECT: self._checker(self._algorithm), Kind.OID: self._checker("sha256")}
        drops: list[str] = []
        for item in self._inventory.items():
            if item.kind in checkers and checkers[item.kind].is_small_and_whole(item.path):
                continue
            if item.kind is not Kind.DROP:
                yield functools.partial(_CHECKS[item.kind], self, item)
                continue
            drops.append(item.path)
            if len(drops) == IDS_PER_QUERY:
                yield functools.partial(self._check_drops, drops)
                drops = []
        yield functools.partial(self._check_drops, drops)

    def _check_object(self, item: Item, checker: _ObjectChecker) -> Iterator[Finding]:
        finding = checker.check(item.path)
        if finding is not None:
            yield finding

    def _check_oid(self, item: Item, checker: _ObjectChecker) -> Iterator[Finding]:
        finding = checker.check_oid(item.path)
        if finding is not None:
            yield finding

    def _check_drops(self, paths: list[str], checker: _ObjectChecker) -> Iterator[Finding]:
        """Find files without a drop. They were listed before their rows are queried."""
        if not paths or not self._is_registry_sound():
            return
        try:
            without_row = self._registry.without_row([os.path.basename(path) for path in paths])
        except RegistryUnreadable as error:
            yield from self._report_unreadable(error)
            return
        for path in paths:
            # The bytes of a removed drop were removed before its row.
            if os.path.basename(path) in without_row and self._exists(path):
                orphaned = Finding(ORPHANED, path, "no drop has this id")
                finding = checker.quarantine(orphaned) if self._repair else orphaned
                if finding is not None:
                    yield finding

    def _check_missing_bytes(self, _: _ObjectChecker) -> Iterator[Finding]:
        """Find drops without bytes. The row must need them both before and after the file was looked up."""
        if not self._is_registry_sound():
            return
        try:
            for id_ in self._registry.all_with_bytes():
                self._throttle.raise_if_stopped()
                path = layout.drop_path(id_)
                if not self._exists(path) and self._registry.needs_bytes(id_):
                    yield Finding(MISSING, path, "its drop is available, but has no bytes")
        except RegistryUnreadable as error:
            yield from self._report_unreadable(error)

    def _report_unreadable(self, error: RegistryUnreadable) -> Iterator[Finding]:
        """The registry was sound, and can no longer be read. Reported once."""
        for _ in self._unreported:
            yield Finding(UNREADABLE, self._registry.name, f"drops cannot be compared with it: {error}")

    def _check_database(self, item: Item, _: _ObjectChecker) -> Iterator[Finding]:
        path = f"{self._root}/{item.path}"
        try:
            is_registry = path == self._local.path
            failure = self._local.damage if is_registry else integrity_failure(path, self._throttle)
        except FileNotFoundError:
            return
        except (sqlite3.OperationalError, OSError, StoreUnavailable, RegistryUnreadable) as error:
            yield Finding(UNREADABLE, item.path, f"it cannot be read: {describe(error)}")
            return
        if failure is not None:
            yield Finding(DAMAGED, item.path, f"SQLite reports: {failure}")

    def _check_area(self, item: Item, _: _ObjectChecker) -> Iterator[Finding]:
        path = f"{self._root}/{item.path}"
        try:
            names = list_abandoned(path)
        except OSError as error:
            yield Finding(UNREADABLE, item.path, f"it cannot be listed: {error.strerror}")
            return
        failure = ""
        # A process that starts may be about to lock an empty area.
        if self._repair and names:
            try:
                sweep_area(path)
            except OSError as error:
                failure = f", and it cannot be removed: {error.strerror}"
        for name in names:
            left = Finding(HALF_MADE, f"{item.path}/{name}", "the process that staged it has ended")
            if self._repair and not self._exists(left.path):
                yield left._replace(remedy="removed")
            else:
                yield left._replace(reason=left.reason + failure)

    def _check_upload(self, item: Item, checker: _ObjectChecker) -> Iterator[Finding]:
        found = () if self._uploads is None else self._uploads.find_orphans([item.path])
        for orphaned in found:
            finding = checker.quarantine(orphaned) if self._repair and orphaned.kind == ORPHANED else orphaned
            if finding is not None:
                yield finding

    def _check_obstacle(self, item: Item, checker: _ObjectChecker) -> Iterator[Finding]:
        finding = checker.check_directory(item.path, item.reason)
        if finding is not None:
            yield finding

    def _report_foreign(self, item: Item, _: _ObjectChecker) -> Iterator[Finding]:
        # It may have been removed since it was listed.
        if self._exists(item.path):
            yield Finding(FOREIGN, item.path, item.reason)

    def _report_item(self, item: Item, _: _ObjectChecker) -> Iterator[Finding]:
        yield Finding(UNREADABLE, item.path, item.reason)

    def _is_registry_sound(self) -> bool:
        """Whether drops can be compared with the registry. If not, `_check_database` reports the registry itself."""
        with suppress(RegistryUnreadable):
            return self._registry.damage is None
        return False

    def _exists(self, path: str) -> bool:
        return exists(f"{self._root}/{path}")


_CHECKS: dict[Kind, Callable[[DiskCheck, Item, _ObjectChecker], Iterator[Finding]]] = {
    Kind.OBJECT: DiskCheck._check_object,
    Kind.OID: DiskCheck._check_oid,
    Kind.DATABASE: DiskCheck._check_database,
    Kind.AREA: DiskCheck._check_area,
    Kind.UPLOAD: DiskCheck._check_upload,
    Kind.OBSTACLE: DiskCheck._check_obstacle,
    Kind.FOREIGN: DiskCheck._report_foreign,
    Kind.UNREADABLE: DiskCheck._report_item,
}


class _ObjectChecker:
    """Compares objects with their names, and moves damaged ones to the quarantine. One thread uses it."""

    def __init__(
        self,
        root: str,
        *,
        algorithm: str,
        throttle: Throttle,
        totals: CheckTotals,
        quarantine: Quarantine | None = None,
    ) -> None:
        """Where several algorithms have names of one length, `algorithm` is tried first."""
        self._root = root
        self._throttle = throttle
        self._totals = totals
        self._quarantine = quarantine
        self._hasher = FileHasher(throttle)
        # By the length of names. The algorithm that matched last is the first.
        self._algorithms: dict[int, list[str]] = {}
        for each in (algorithm, *(other for other in ALGORITHMS if other != algorithm)):
            self._algorithms.setdefault(digest_length(each), []).append(each)

    def check(self, path: str) -> Finding | None:
        """Check the object at `path`, within the store, whose name may be of any algorithm.

        Returns None if it is whole or was removed meanwhile. Raises CheckStopped.
        """
        algorithms = self._algorithms.get(len(os.path.basename(path)))
        if algorithms is None:
            return self._foreign(path, "no algorithm has digests of this length")
        return self._check(path, algorithms)

    def check_oid(self, path: str) -> Finding | None:
        """Like `check`, for an object that is named by its SHA-256."""
        return self._check(path, ["sha256"])

    def check_directory(self, path: str, reason: str) -> Finding | None:
        """Report a file in place of a directory of the store, for the `reason`. Returns None if it was replaced."""
        try:
            descriptor = os.open(f"{self._root}/{path}", os.O_PATH | _OPEN_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(descriptor)
            if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
                return None
            return self._repaired(Finding(DAMAGED, path, reason), descriptor, status, suffix=_FILE_SUFFIX)
        finally:
            os.close(descriptor)

    def is_small_and_whole(self, path: str) -> bool:
        """Whether the object is small, in the page cache, and whole by the algorithm that is tried first.

        False means that it must be checked.
        """
        name = os.path.basename(path)
        algorithms = self._algorithms.get(len(name))
        if algorithms is None:
            return False
        try:
            descriptor = os.open(f"{self._root}/{path}", os.O_RDONLY | _OPEN_FLAGS)
        except OSError:
            return False
        try:
            if not self._hasher.is_small_and_whole(descriptor, algorithms[0], name, self._totals.add_size):
                return False
        finally:
            os.close(descriptor)
        self._totals.add_object()
        return True

    def quarantine(self, finding: Finding) -> Finding | None:
        """Move the file of a finding to the quarantine. Returns None if it was removed meanwhile."""
        try:
            descriptor = os.open(f"{self._root}/{finding.path}", os.O_PATH | _OPEN_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return self._repaired(finding, descriptor, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def _check(self, path: str, algorithms: list[str]) -> Finding | None:
        while True:
            self._throttle.raise_if_stopped()
            try:
                descriptor = os.open(f"{self._root}/{path}", os.O_RDONLY | _OPEN_FLAGS)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                is_link = error.errno == errno.ELOOP
                return self._foreign(path, "it is a symbolic link") if is_link else _read_failure(path, error)
            try:
                status = os.fstat(descriptor)
                finding = self._compare(path, descriptor, status, algorithms)
                if finding is not None and finding.kind == DAMAGED:
                    finding = self._repaired(finding, descriptor, status)
                    if finding is None:
                        # It was replaced or removed while it was read; check the file that is there now.
                        continue
                self._totals.add_object()
                return finding
            finally:
                os.close(descriptor)

    def _compare(self, path: str, descriptor: int, status: os.stat_result, algorithms: list[str]) -> Finding | None:
        if stat.S_ISDIR(status.st_mode):
            return Finding(DAMAGED, path, "a directory is in place of the object")
        if not stat.S_ISREG(status.st_mode):
            return Finding(FOREIGN, path, "it is not a regular file")
        name = os.path.basename(path)
        try:
            for number, algorithm in enumerate(algorithms):
                # Each object is counted once, however often it is read.
                count = _ignore if number else self._totals.add_size
                if self._hasher.digest(descriptor, algorithm, count) == name:
                    algorithms.insert(0, algorithms.pop(number))
                    return None
        except OSError as error:
            return _read_failure(path, error)
        return Finding(DAMAGED, path, "its bytes have another digest")

    def _foreign(self, path: str, reason: str) -> Finding | None:
        return Finding(FOREIGN, path, reason) if os.path.lexists(f"{self._root}/{path}") else None

    def _repaired(
        self, finding: Finding, descriptor: int, status: os.stat_result, *, suffix: str = ""
    ) -> Finding | None:
        """The finding with its remedy, or None if its path no longer leads to the file."""
        if not self._is_at(finding.path, status):
            return None
        if self._quarantine is None:
            return finding
        try:
            target = self._quarantine.move(finding.path, descriptor, suffix)
        except OSError as error:
            return finding._replace(reason=f"{finding.reason}, and it cannot be moved: {error.strerror}")
        return None if target is None else finding._replace(remedy=f"moved to {target}")

    def _is_at(self, path: str, status: os.stat_result) -> bool:
        try:
            return os.path.samestat(os.stat(f"{self._root}/{path}", follow_symlinks=False), status)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            # A directory that cannot be read does not mean that the file is missing.
            return True


def _read_failure(path: str, error: OSError) -> Finding:
    if error.errno in _OUT_OF_RESOURCES:
        raise error
    return Finding(DAMAGED if error.errno in _LOST else UNREADABLE, path, f"it cannot be read: {error.strerror}")


def _ignore(size: int) -> None:
    pass
