"""Checks a disk store: objects against their names, drops against their registry, databases, what a crash left.

Others may use the store meanwhile. So whatever looks wrong is looked at again before it is said, in an order that
tells a loss from a change: what is not there any more, or not what was read, is no finding.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

from filestoraged.check.databases import damage, reason
from filestoraged.check.findings import DAMAGED, FOREIGN, HALF_MADE, MISSING, ORPHANED, UNREADABLE, CheckTotals, Finding
from filestoraged.check.inspector import Inspector
from filestoraged.check.inventory import Inventory, Item, Kind
from filestoraged.check.quarantine import Quarantine
from filestoraged.check.register import PAGE, Register, Unaskable
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.errors import StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.disk.staging import list_abandoned, sweep_area

# Seconds that go by before anybody asks how much there is.
_UNCOUNTED = 1.0

# What there is to be looked at, by whichever thread has nothing else to do.
_Look = Callable[[Inspector], Iterator[Finding]]


class DiskCheck:
    """One check of the store in the directory `root`, by threads of its own. Without `repair` it changes nothing."""

    def __init__(self, root: str, *, algorithm: str, pace: Throttle, repair: bool = False, threads: int | None = None):
        """`algorithm` is the one that most objects are named by."""
        self.tally = CheckTotals()
        self._root = os.path.abspath(root)
        self._algorithm = algorithm
        self._pace = pace
        self._repair = repair
        self._threads = threads or len(os.sched_getaffinity(0))
        self._inventory = Inventory(self._root)
        self._register = Register(f"{self._root}/{layout.DROPS_DATABASE}", pace)
        self._quarantine = Quarantine(self._root) if repair else None
        # Whichever thread takes it first tells that the registry cannot be asked.
        self._untold = iter((True,))

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """What is wrong; and None whenever `pause` seconds have gone by without. Raises OSError, and Stopped."""
        counting = threading.Thread(target=self._count, name="count", daemon=True)
        counting.start()
        crew = Runner(self._looks(), [self._worker() for _ in range(self._threads)], self._pace)
        yield from crew.findings(pause)

    def _count(self) -> None:
        """Find out how much there is to be read, beside those who read it."""
        objects = size = 0
        with suppress(OSError, CheckStopped):
            # Who is done by then has not been kept from it.
            self._pace.pause(_UNCOUNTED)
            for one, its_size in self._inventory.measure():
                self._pace.go_on()
                objects += one
                size += its_size
            self.tally.all_objects, self.tally.all_size = objects, size

    def _worker(self) -> Callable[[_Look], Iterator[Finding]]:
        """What one thread does, with an inspector of its own."""
        inspector = self._inspector(self._algorithm)
        return lambda look: look(inspector)

    def _inspector(self, algorithm: str) -> Inspector:
        return Inspector(
            self._root, algorithm=algorithm, pace=self._pace, tally=self.tally, quarantine=self._quarantine
        )

    def _looks(self) -> Iterator[_Look]:
        """By the threads in turn. Small objects are compared by whoever has the turn: side by side, threads would wait
        for each other at every step, and two of them take twice as long as one.
        """
        # First, as it may take long by itself.
        yield self._wanting
        glancing = {Kind.OBJECT: self._inspector(self._algorithm), Kind.OID: self._inspector("sha256")}
        drops: list[str] = []
        for item in self._inventory.items():
            if item.kind in glancing and glancing[item.kind].is_whole_at_a_glance(item.path):
                continue
            if item.kind is not Kind.DROP:
                yield functools.partial(_KINDS[item.kind], self, item)
                continue
            drops.append(item.path)
            if len(drops) == PAGE:
                yield functools.partial(self._drops, drops)
                drops = []
        yield functools.partial(self._drops, drops)

    def _object(self, item: Item, inspector: Inspector) -> Iterator[Finding]:
        finding = inspector.compare(item.path)
        if finding is not None:
            yield finding

    def _oid(self, item: Item, inspector: Inspector) -> Iterator[Finding]:
        finding = inspector.compare_oid(item.path)
        if finding is not None:
            yield finding

    def _drops(self, paths: list[str], inspector: Inspector) -> Iterator[Finding]:
        """Those of some files that belong to no drop. They were seen before their rows are asked for."""
        if not paths or not self._is_register_sound():
            return
        try:
            unknown = self._register.unknown([_name(path) for path in paths])
        except Unaskable as error:
            yield from self._unaskable(error)
            return
        for path in paths:
            # The bytes of one that is gone were removed before its row said so.
            if _name(path) in unknown and self._is_there(path):
                orphaned = Finding(ORPHANED, path, "no drop has these bytes")
                finding = inspector.put_away(orphaned) if self._repair else orphaned
                if finding is not None:
                    yield finding

    def _wanting(self, _: Inspector) -> Iterator[Finding]:
        """Drops without bytes. A drop has them as long as its row says so: before and after the look."""
        if not self._is_register_sound():
            return
        try:
            for id_ in self._register.wanting():
                self._pace.go_on()
                path = layout.drop_path(id_)
                if not self._is_there(path) and self._register.wants(id_):
                    yield Finding(MISSING, path, "its drop can be fetched, and has no bytes")
        except Unaskable as error:
            yield from self._unaskable(error)

    def _unaskable(self, error: Unaskable) -> Iterator[Finding]:
        """The registry was sound, and cannot be read any more. That is said once."""
        for _ in self._untold:
            path = os.path.relpath(self._register.path, self._root)
            yield Finding(UNREADABLE, path, f"drops cannot be compared with it: {error}")

    def _database(self, item: Item, _: Inspector) -> Iterator[Finding]:
        path = f"{self._root}/{item.path}"
        try:
            found = self._register.damage if path == self._register.path else damage(path, self._pace)
        except FileNotFoundError:
            return
        except (sqlite3.OperationalError, OSError, StoreUnavailable, Unaskable) as error:
            yield Finding(UNREADABLE, item.path, f"it cannot be read: {reason(error)}")
            return
        if found is not None:
            yield Finding(DAMAGED, item.path, f"SQLite says: {found}")

    def _area(self, item: Item, _: Inspector) -> Iterator[Finding]:
        path = f"{self._root}/{item.path}"
        try:
            names = list_abandoned(path)
        except OSError as error:
            yield Finding(UNREADABLE, item.path, f"it cannot be listed: {error.strerror}")
            return
        failure = ""
        # An empty one may be about to be locked by a process that starts.
        if self._repair and names:
            try:
                sweep_area(path)
            except OSError as error:
                failure = f", and it cannot be removed: {error.strerror}"
        for name in names:
            left = Finding(HALF_MADE, f"{item.path}/{name}", "whoever was about to store it is gone")
            if self._repair and not self._is_there(left.path):
                yield left._replace(remedy="removed")
            else:
                yield left._replace(reason=left.reason + failure)

    def _foreign(self, item: Item, _: Inspector) -> Iterator[Finding]:
        # It may have gone since it was listed.
        if self._is_there(item.path):
            yield Finding(FOREIGN, item.path, item.reason)

    def _unreadable(self, item: Item, _: Inspector) -> Iterator[Finding]:
        yield Finding(UNREADABLE, item.path, item.reason)

    def _is_register_sound(self) -> bool:
        """Whether it can be believed. Where it is damaged, the database is the finding, and drops are none."""
        with suppress(Unaskable):
            return self._register.damage is None
        # The database itself is looked at as well, and that is the finding.
        return False

    def _is_there(self, path: str) -> bool:
        try:
            os.lstat(f"{self._root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            # It cannot be looked for, which does not say that it is gone.
            return True
        return True


def _name(path: str) -> str:
    return path.rpartition("/")[2]


_KINDS: dict[Kind, Callable[[DiskCheck, Item, Inspector], Iterator[Finding]]] = {
    Kind.OBJECT: DiskCheck._object,
    Kind.OID: DiskCheck._oid,
    Kind.DATABASE: DiskCheck._database,
    Kind.AREA: DiskCheck._area,
    Kind.FOREIGN: DiskCheck._foreign,
    Kind.UNREADABLE: DiskCheck._unreadable,
}
