"""Keeps the limits of areas that have no names, in the background: counts, and removes what is too old or too much.

| step | what it finds |
|---|---|
| count | areas that were never counted, and once after a start and once a day all others: rows for all objects |
| settle | rows of uploads and removals whose end was not seen: whether the object is there |
| evict | areas above `max-size`, and objects older than `max-age` |
| forget | areas that have no limits any more |
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import CorruptObject, ListingUnsupported, NotFound
from filestoraged.store import areas
from filestoraged.store.accounts import GRACE, Accounts
from filestoraged.store.area_stores import Part
from filestoraged.store.cleanup_lock import CleanupLock
from filestoraged.store.contract import ObjectStatus
from filestoraged.store.drops import Drops
from filestoraged.store.janitors import Janitor
from filestoraged.store.limited_store import limit_part
from filestoraged.store.limits import DROPS, EVICTED_TO, EVICTION_INTERVAL, Rules
from filestoraged.store.wall_clock import WallClock

# Seconds between two counts of an area.
_COUNT_INTERVAL = 24 * 3600.0

# Uploads to an area that was never counted wait for that: a million objects take 30 s of work.
_FIRST_PAUSE_FACTOR = 0.5

# Seconds after a start in which processes of a former configuration may still store objects that they do not count.
_DRAIN_TIME = 60.0

# Rows in one step: other writers wait for it, about 10 ms; and objects in one step of a count.
_ROWS_PER_STEP = 400
_COUNTED_PER_STEP = 2000

_OTHERS = "area NOT LIKE 'names/%'"


class AreasJanitor(Janitor):
    def __init__(
        self,
        accounts: Accounts,
        lock: CleanupLock,
        drops: Drops | None = None,
        clock: Clock = SYSTEM_CLOCK,
        *,
        page: int = _COUNTED_PER_STEP,
    ) -> None:
        """`drops` is the registry of drops, if they are served. A step of a count has `page` objects."""
        super().__init__("areas", lock, clock)
        self._accounts = accounts
        self._transactions = accounts.transactions
        self._drops = drops
        self._page = page
        self._wall_clock = WallClock(accounts.transactions, clock)
        self._started = clock.date()
        self._counts: Iterator[int] = iter(())
        self._next_count = clock.now()
        self._next_eviction = clock.now()

    def retry(self) -> None:
        """Nothing is written later: what fails is found again."""

    def _take_step(self) -> int:
        return sum(self._try(step) for step in (self._count, self._settle, self._evict))

    # Counting.

    def _count(self) -> int:
        """A step of the count of all areas for which it is time."""
        found = next(self._counts, None)
        if found is None:
            self._counts = self._count_all()
            found = next(self._counts, 0)
        return found

    def _count_all(self) -> Iterator[int]:
        now = self._clock.date()
        # Twice after a start, since processes that did not count may have stored something during the first one.
        due = max(
            self._started if now < self._started + _DRAIN_TIME else self._started + _DRAIN_TIME, now - _COUNT_INTERVAL
        )
        statement = f"SELECT area FROM areas WHERE {_OTHERS} AND complete < ? ORDER BY complete"
        known = (area for (area,) in self._transactions.read(statement, int(due)))
        for area in itertools.chain(self._unknown(), known):
            if self._accounts.limits.find(area) is None:
                while self._accounts.free(areas.forget, area, _ROWS_PER_STEP).result():
                    yield 1
            else:
                yield from self._count_area(area)

    def _unknown(self) -> Iterator[str]:
        """Once a day, the areas of which nothing is known, such as those that a new limit fits."""
        if self._clock.now() < self._next_count:
            return
        with contextlib.suppress(ListingUnsupported):
            known = {area for (area,) in self._transactions.read("SELECT area FROM areas")}
            yield from (area for area in self._accounts.areas() if area not in known)
        self._next_count = self._clock.now() + _COUNT_INTERVAL

    def _count_area(self, area: str) -> Iterator[int]:
        began = int(self._clock.date())
        rows = self._transactions.read("SELECT 1 FROM areas WHERE area = ? AND complete > 0", area)
        self.pause_factor = Janitor.pause_factor if rows else _FIRST_PAUSE_FACTOR
        *parts, last = self._accounts.stores.parts(area)
        for part in parts:
            yield from self._count_part(area, part, complete=0)
        yield from self._count_part(area, last, complete=began)
        self.pause_factor = Janitor.pause_factor

    def _count_part(self, area: str, part: Part, *, complete: int) -> Iterator[int]:
        after = ""
        while True:
            names = part.store.list(after, self._page)
            is_last = len(names) < self._page
            # No name has a character above "~".
            start, stop = part.prefix + after, part.prefix + ("~" if is_last else names[-1])
            found = list(self._look_up(area, part, names, start, stop))
            complete_now = complete if is_last else 0
            self._accounts.write(areas.count, area, found, after=start, last=stop, complete=complete_now).result()
            yield len(names) or 1
            if is_last:
                return
            after = names[-1]

    def _look_up(self, area: str, part: Part, names: Sequence[str], start: str, stop: str) -> Iterator[ObjectStatus]:
        """The objects, by their keys. Those that have rows are not read: their bytes do not change."""
        statement = "SELECT key, size, at FROM stored WHERE area = ? AND key > ? AND key <= ?"
        known = {key: (size, at) for key, size, at in self._transactions.read(statement, area, start, stop)}
        for name in names:
            key = part.prefix + name
            try:
                size, at = known[key] if key in known else part.store.stat(name)[1:]
            except (NotFound, CorruptObject):
                continue
            if size > part.free:
                yield ObjectStatus(key, size, at)

    def _settle(self) -> int:
        """Look for the objects of uploads and removals that began a while ago."""
        statement = f"""SELECT area, key, version FROM stored WHERE names > 0 AND since IS NOT NULL
            AND (since <= epoch() - {GRACE} OR since > epoch() + {GRACE}) LIMIT ?"""
        rows = self._transactions.read(statement, _ROWS_PER_STEP)
        for area, key, version in rows:
            try:
                self._accounts.write(areas.confirm, area, key, version, self._size_of(area, key))
            except NotFound:
                self._accounts.free(areas.end_removal, area, key, version)
        if rows:
            # Behind all others.
            self._accounts.write(areas.serialize).result()
        return len(rows)

    def _size_of(self, area: str, key: str) -> int | None:
        """The size of an object, None for a damaged one. Raises NotFound."""
        part, name = self._find(area, key)
        try:
            return part.store.stat(name).size
        except CorruptObject:
            return None

    def _find(self, area: str, key: str) -> tuple[Part, str]:
        part = next(each for each in self._accounts.stores.parts(area) if key.startswith(each.prefix))
        return part, key.removeprefix(part.prefix)

    # Eviction.

    def _evict(self) -> int:
        if self._clock.now() < self._next_eviction:
            return 0
        removed = 0
        now = self._wall_clock.settled()
        for area, size in self._transactions.read(f"SELECT area, bytes FROM areas WHERE {_OTHERS} AND objects > 0"):
            rules = self._accounts.limits.find(area)
            if rules is not None:
                removed += self._evict_from(area, size, rules, now)
        if not removed:
            self._next_eviction = self._clock.now() + EVICTION_INTERVAL
        return removed

    def _evict_from(self, area: str, size: int, rules: Rules, now: float | None) -> int:
        """A step for one area. Returns how many objects it has removed."""
        removed = 0
        if rules.max_age is not None and now is not None:
            statement = "SELECT key FROM stored WHERE area = ? AND at <= ? ORDER BY at LIMIT ?"
            rows = self._transactions.read(statement, area, int(now) - rules.max_age, _ROWS_PER_STEP)
            removed += self._remove(area, [key for (key,) in rows], "max-age")
        if rules.max_size is not None and size > rules.max_size:
            statement = "SELECT key, size FROM stored WHERE area = ? ORDER BY at, key LIMIT ?"
            rows = self._transactions.read(statement, area, _ROWS_PER_STEP)
            excess = size - int(rules.max_size * EVICTED_TO)
            removed += self._remove(area, _oldest(rows, excess), "max-size")
        return removed

    def _remove(self, area: str, keys: Sequence[str], reason: str) -> int:
        if area == DROPS:
            # Those that are uploaded or fetched at present stay.
            keys = [] if self._drops is None else self._drops.end(keys)
        if not keys:
            return 0
        failures = limit_part(self._accounts, area, self._accounts.stores.parts(area)[0]).remove_all(keys)
        removed = len(keys) - len(failures)
        if removed:
            self._accounts.write(areas.count_removals, area, reason, removed).result()
        elif failures:
            raise next(iter(failures.values()))
        return removed


def _oldest(rows: Iterable[tuple[str, int]], excess: int) -> list[str]:
    """The keys of the first rows that have so many bytes together."""
    chosen: list[str] = []
    for key, size in rows:
        if excess <= 0:
            break
        chosen.append(key)
        excess -= size
    return chosen
