"""Collects the objects that no name leads to any more, and names that have expired.

The invariant: a name never leads to an object that was removed, whatever happens at the same time.

| step of a collection | by |
|---|---|
| 1. the row of an object without names is CONDEMNED, once it has had none for a while | a transaction, with a number |
| 2. the object is removed | the process that has the lock of the janitor |
| 3. the row is REMOVED | a transaction, with another number |
| 4. the row is deleted, an hour later, and its number remembered | a transaction |

An upload reads the last number before it stores an object, and fails where the row has a higher one when the name is to
lead there: a removal may have happened in between. So it may take any time, and no clock decides. The time before step
1, and that before step 4, make failures rare.

Step 2 must not happen later than its row says. So a process removes only what it has condemned itself a moment ago, and
leaves the rest. Another process condemns that anew when nothing that the former one has begun can happen any more.

An upload that ended between the object and the name may leave an object without a row. A scan finds those.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import ListingUnsupported, NotFound
from filestoraged.store import areas
from filestoraged.store.cleanup_lock import CleanupLock
from filestoraged.store.contract import Store
from filestoraged.store.janitors import Janitor
from filestoraged.store.name_limits import NameEviction
from filestoraged.store.name_tables import CONDEMNED, REMOVED, area_of
from filestoraged.store.names import Names
from filestoraged.store.transactions import Transaction
from filestoraged.store.wall_clock import WallClock

# Seconds without a name before an object is condemned: longer than an upload takes to store it.
_GRACE = 30.0

# Seconds for which a row that is REMOVED is kept.
_TOMBSTONE_TTL = 3600.0

# Seconds. An object without a row that is younger may be that of an upload in progress.
_UNKNOWN_AGE = 3600.0

# Seconds between two scans for objects without a row, of all processes. One that starts waits for _UNKNOWN_AGE: what
# another one has left is younger.
_SCAN_INTERVAL = 24 * 3600.0

# Rows in one step: other writers wait for it, about 10 ms.
_ROWS_PER_STEP = 400

# Seconds after which a process removes no more of what it has condemned.
_REMOVAL_TIME = 10.0

# Seconds from a condemnation until another process may remove the objects, where a lock does not say that the former
# one is dead, or where its last request may still be on its way. Stores give requests up in half of it.
SUCCESSION_TIME = 120.0

# Values of one statement: SQLite before 3.32 allows 999.
_MAX_VALUES = 500


# Seconds. A time that is so far ahead is from before the clock was set back.
_AHEAD = 3600.0

# The rows of objects that may be condemned; the value is the succession time. With `names < 1`, the index is used.
_COLLECTABLE = f"""names < 1 AND (
    names = 0 AND (since <= epoch() - {_GRACE} OR since > epoch() + {_AHEAD})
    OR names = {CONDEMNED} AND (since <= epoch() - ? OR since > epoch() + {_AHEAD}))"""


class Condemned(NamedTuple):
    """An object that is to be removed."""

    space: str
    oid: str


class Collector:
    """The steps of the janitor. One thread calls it; each step returns how much it has done."""

    def __init__(
        self, names: Names, store: Store, *, succession_time: float = 0.0, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`store` has a namespace for each space.

        Without a `succession_time`, the janitor's lock must be one that dies with its process alone.
        """
        self._transactions = names.transactions
        self._store = store
        self._succession_time = succession_time
        self._clock = clock
        self.wall_clock = WallClock(names.transactions, clock)
        self._scan: Iterator[int] = iter(())
        self._next_scan = clock.now() + _UNKNOWN_AGE

    def expire(self) -> int:
        """Remove names that have expired."""
        now = self.wall_clock.settled()
        if now is None:
            return 0
        statement = "SELECT path FROM names WHERE expires <= ? LIMIT ?"
        paths = [bytes(path) for (path,) in self._transactions.read(statement, now, _ROWS_PER_STEP)]
        if paths:
            self._transactions.free(functools.partial(_expire, paths, now)).result()
        return len(paths)

    def collect(self) -> int:
        """Condemn objects that have had no name for a while, or that others have condemned, and remove them."""
        values = (self._succession_time, _ROWS_PER_STEP)
        found = _objects(self._transactions.read(f"SELECT area, key FROM stored WHERE {_COLLECTABLE} LIMIT ?", *values))
        if not found:
            return 0
        deadline = self._clock.now() + _REMOVAL_TIME
        condemn = functools.partial(_condemn, found, self._succession_time)
        return self._remove(self._transactions.free(condemn).result(), deadline)

    def forget(self) -> int:
        """Delete the rows of objects that were removed long ago."""
        statement = f"""SELECT area, key, condemned FROM stored
            WHERE names < 1 AND names = {REMOVED} AND since <= epoch() - {_TOMBSTONE_TTL} LIMIT ?"""
        rows = self._transactions.read(statement, _ROWS_PER_STEP)
        if rows:
            self._transactions.free(functools.partial(_forget, rows)).result()
        return len(rows)

    def scan(self) -> int:
        """Look for objects without a row, a page of a space at a time, once a day. Others wait for nothing."""
        if self._clock.now() >= self._next_scan:
            self._next_scan = self._clock.now() + _UNKNOWN_AGE
            if self._transactions.write(_begin_scan).result():
                self._scan = self._scan_pages()
        return next(self._scan, 0)

    def _remove(self, condemned: Sequence[Condemned], deadline: float) -> int:
        removed: list[Condemned] = []
        failures: dict[str, Exception] = {}
        # Together, unless another process may take over: then the time is looked at before each.
        size = 1 if self._succession_time else _ROWS_PER_STEP
        for space, group in itertools.groupby(sorted(condemned), lambda each: each.space):
            store = self._store.namespace(space)
            oids = iter([each.oid for each in group])
            while self._clock.now() < deadline and (some := list(itertools.islice(oids, size))):
                failed = store.remove_all(some)
                failures.update(failed)
                removed += [Condemned(space, oid) for oid in some if oid not in failed]
        if removed:
            self._transactions.free(functools.partial(_mark_removed, removed)).result()
        elif failures:
            raise next(iter(failures.values()))
        return len(removed)

    def _scan_pages(self) -> Iterator[int]:
        """Yields the number of objects of each page, so that the janitor goes on."""
        try:
            for space in _all(self._store.list_namespaces):
                store, after = self._store.namespace(space), ""
                while page := store.list(after, _MAX_VALUES):
                    after = page[-1]
                    self._enter_unknown(space, store, page)
                    yield len(page)
        except ListingUnsupported:
            return

    def _enter_unknown(self, space: str, store: Store, oids: Sequence[str]) -> None:
        """Give a row to those of the objects that have none, and to those that came back after their removal."""
        area = area_of(space)
        marks = ", ".join("?" * len(oids))
        statement = f"SELECT key FROM stored WHERE area = ? AND names <> {REMOVED} AND key IN ({marks})"
        known = {oid for (oid,) in self._transactions.read(statement, area, *oids)}
        ((now,),) = self._transactions.read("SELECT epoch()")
        for oid in oids:
            if oid in known:
                continue
            try:
                status = store.stat(oid)
            except NotFound:
                continue
            if status.modified < now - _UNKNOWN_AGE:
                self._transactions.write(functools.partial(_enter, area, oid, status.size)).result()


class NamesJanitor(Janitor):
    """Names that have expired or are beyond the limits of their spaces, and objects that no name leads to."""

    def __init__(self, names: Names, collector: Collector, lock: CleanupLock, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__("names", lock, clock)
        self._names = names
        self._collector = collector
        self._eviction = NameEviction(names.transactions, names.find_rules, clock, wall_clock=collector.wall_clock)

    def retry(self) -> None:
        self._try(self._names.retry)

    def stop(self) -> None:
        super().stop()
        self._try(self._names.flush)

    def _take_step(self) -> int:
        collector = self._collector
        found = self._try(collector.expire) + self._try(self._eviction.step)
        found += self._try(collector.collect)
        # Those of this process that wait for what was removed.
        self.retry()
        return found + self._try(collector.forget) + self._try(collector.scan)


def _expire(paths: Sequence[bytes], now: float, transaction: Transaction) -> None:
    areas.serialize(transaction)
    for path in paths:
        # It may have been put again since.
        statement = "SELECT space, oid FROM names WHERE path = ? AND expires <= ?"
        for space, oid in transaction.execute(statement, (path, now)).fetchall():
            transaction.execute("DELETE FROM names WHERE path = ?", (path,))
            areas.remove_name(transaction, area_of(space), oid)


def _condemn(found: Sequence[Condemned], succession_time: float, transaction: Transaction) -> list[Condemned]:
    """Returns those that this has condemned: another name may lead to one, or another process have condemned it."""
    areas.serialize(transaction)
    number = _next_number(transaction)
    statement = f"""UPDATE stored SET names = {CONDEMNED}, since = epoch(), condemned = ?
        WHERE area = ? AND key = ? AND {_COLLECTABLE}"""
    return [
        each
        for each in found
        if transaction.execute(statement, (number, area_of(each.space), each.oid, succession_time)).rowcount
    ]


def _mark_removed(removed: Sequence[Condemned], transaction: Transaction) -> None:
    areas.serialize(transaction)
    number = _next_number(transaction)
    statement = f"""UPDATE stored SET names = {REMOVED}, since = epoch(), condemned = ?
        WHERE area = ? AND key = ? AND names = {CONDEMNED}"""
    transaction.executemany(statement, [(number, area_of(each.space), each.oid) for each in removed])


def _next_number(transaction: Transaction) -> int:
    transaction.execute("UPDATE collections SET number = number + 1")
    ((number,),) = transaction.execute("SELECT number FROM collections").fetchall()
    return int(number)


def _forget(rows: Sequence[Any], transaction: Transaction) -> None:
    areas.serialize(transaction)
    statement = f"DELETE FROM stored WHERE area = ? AND key = ? AND condemned = ? AND names = {REMOVED}"
    transaction.executemany(statement, rows)
    last = max(condemned for _, _, condemned in rows)
    transaction.execute("UPDATE collections SET forgotten = ? WHERE forgotten < ?", (last, last))


def _enter(area: str, oid: str, size: int, transaction: Transaction) -> None:
    areas.serialize(transaction)
    transaction.execute(
        f"""INSERT INTO stored (area, key, size, at, names, since) VALUES (?, ?, ?, epoch_second(), 0, epoch())
            ON CONFLICT (area, key) DO UPDATE SET names = 0, since = excluded.since WHERE stored.names = {REMOVED}""",
        (area, oid, size),
    )


def _begin_scan(transaction: Transaction) -> bool:
    """Returns False if a process has begun one within a day. A time in the future is from before the clock was set."""
    areas.serialize(transaction)
    statement = f"""UPDATE collections SET scanned = epoch()
        WHERE scanned <= epoch() - {_SCAN_INTERVAL} OR scanned > epoch() + {_AHEAD}"""
    return transaction.execute(statement).rowcount == 1


def _objects(rows: Sequence[Sequence[str]]) -> list[Condemned]:
    return [Condemned(area.partition("/")[2], oid) for area, oid in rows]


def _all(list_page: Callable[[str, int], Sequence[str]]) -> Iterator[str]:
    page = list_page("", _MAX_VALUES)
    while page:
        yield from page
        page = list_page(page[-1], _MAX_VALUES)
