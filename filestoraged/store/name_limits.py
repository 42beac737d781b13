"""The limits of spaces: what an upload may change, which names were used, and which are evicted.

A use is a time in the memory of a process until a batch of them is written: a read must not wait for a write.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Conflict
from filestoraged.store import areas
from filestoraged.store.limits import EVICTED_TO, EVICTION_INTERVAL, Rules
from filestoraged.store.name_tables import area_of
from filestoraged.store.transactions import Transaction, Transactions
from filestoraged.store.wall_clock import WallClock

# Names in one step: other writers wait for it, about 10 ms.
_NAMES_PER_STEP = 200

# Seconds after which uses are written at the latest, or a tenth of the shortest `max-unused`. Where the names that were
# used least recently give way, well before the next look at what is to be evicted. And how many are kept: 3 MiB.
_USE_INTERVAL = 3600.0
_USE_INTERVAL_OF_EVICTION = EVICTION_INTERVAL / 2
_MAX_USES = 10_000


# The limits of an area; None where it has none.
FindRules = Callable[[str], Rules | None]


def no_rules(_: str) -> Rules | None:
    """Without limits."""
    return None


def require_unwritten(name: str, current_oid: str | None, oid: str) -> None:
    """Raise Conflict where a name of a space with `write-once` leads to other bytes."""
    if current_oid is not None and current_oid != oid:
        raise Conflict(f"The name {name!r} leads to other bytes, and is written once.")


class Uses:
    """The names that were read since they were written last. Any thread calls it."""

    def __init__(self, transactions: Transactions, clock: Clock = SYSTEM_CLOCK) -> None:
        self._transactions = transactions
        self._clock = clock
        self._lock = threading.Lock()
        # By their paths, the time in seconds since 1970.
        self._times: dict[bytes, float] = {}
        self._due = float("inf")

    def note(self, path: bytes, rules: Rules) -> None:
        """Note that a name was read, if its space has a limit for which that counts."""
        if rules.max_size is None and rules.max_unused is None:
            return
        interval = _USE_INTERVAL if rules.max_size is None else _USE_INTERVAL_OF_EVICTION
        if rules.max_unused is not None:
            interval = min(interval, rules.max_unused / 10)
        # Setting an item is atomic; `write` replaces the dictionary within the lock.
        with self._lock:
            self._times[path] = self._clock.date()
            self._due = min(self._due, self._clock.now() + interval)

    @property
    def is_due(self) -> bool:
        return self._clock.now() >= self._due or len(self._times) >= _MAX_USES

    def write(self) -> None:
        """Write all uses. Those that cannot be written are forgotten, which makes their names older than they are."""
        with self._lock:
            times, self._times, self._due = self._times, {}, float("inf")
        rows = [(time, path, time) for path, time in times.items()]
        statement = "UPDATE names SET used = ? WHERE path = ? AND used < ?"
        for start in range(0, len(rows), _NAMES_PER_STEP):
            self._transactions.write_rows(statement, rows[start : start + _NAMES_PER_STEP]).result()


class NameEviction:
    """A step of the janitor. One thread calls it."""

    def __init__(
        self,
        transactions: Transactions,
        find_rules: FindRules,
        clock: Clock = SYSTEM_CLOCK,
        *,
        wall_clock: WallClock | None = None,
    ) -> None:
        """`wall_clock` is that of the other steps of the janitor: two would count a grace period twice."""
        self._transactions = transactions
        self._find_rules = find_rules
        self._clock = clock
        self._wall_clock = wall_clock or WallClock(transactions, clock)
        self._next = clock.now()
        # Those that were too large at the last look.
        self._exceeding: set[str] = set()
        self._work: Iterator[int] = iter(())

    def step(self) -> int:
        """Remove some names beyond the limits of their spaces. Returns how many."""
        removed = next(self._work, 0)
        if not removed and self._clock.now() >= self._next:
            self._next = self._clock.now() + EVICTION_INTERVAL
            self._work = filter(None, self._evict_all())
            removed = next(self._work, 0)
        return removed

    def _evict_all(self) -> Iterator[int]:
        now = self._wall_clock.settled()
        rows = self._transactions.read(
            "SELECT area, bytes FROM areas WHERE area > ? AND area < ? AND objects > 0", area_of(""), "names0"
        )
        exceeding, self._exceeding = self._exceeding, set()
        for area, size in rows:
            rules = self._find_rules(area)
            if rules is None:
                continue
            space = area.partition("/")[2]
            for column, age, reason in (
                ("modified", rules.max_age, "max-age"),
                ("used", rules.max_unused, "max-unused"),
            ):
                if age is not None and now is not None:
                    yield from self._repeat(functools.partial(_remove_old, space, column, int(now) - age, reason))
            if rules.max_size is not None and size > rules.max_size:
                self._exceeding.add(area)
                # At the second look: until then, all processes have written their uses.
                if area not in exceeding:
                    continue
                yield from self._repeat(functools.partial(_shrink, space, int(rules.max_size * EVICTED_TO)))

    def _repeat(self, step: Callable[[Transaction], int]) -> Iterator[int]:
        while removed := self._transactions.free(step).result():
            yield removed


def _remove_old(space: str, column: str, last: int, reason: str, transaction: Transaction) -> int:
    """Remove names whose time in `column` is `last` or earlier."""
    areas.serialize(transaction)
    statement = f"SELECT path, oid FROM names WHERE space = ? AND {column} <= ? ORDER BY {column} LIMIT ?"
    rows = transaction.execute(statement, (space, last, _NAMES_PER_STEP)).fetchall()
    for path, oid in rows:
        _remove(transaction, space, path, oid)
    areas.count_removals(transaction, area_of(space), reason, len(rows))
    return len(rows)


def _shrink(space: str, target: int, transaction: Transaction) -> int:
    """Remove the names that were used least recently, until the space has `target` bytes."""
    areas.serialize(transaction)
    area = area_of(space)
    removed = 0
    statement = "SELECT path, oid FROM names WHERE space = ? ORDER BY used LIMIT ?"
    for path, oid in transaction.execute(statement, (space, _NAMES_PER_STEP)).fetchall():
        ((size,),) = transaction.execute("SELECT bytes FROM areas WHERE area = ?", (area,)).fetchall()
        if size <= target:
            break
        _remove(transaction, space, path, oid)
        removed += 1
    areas.count_removals(transaction, area, "max-size", removed)
    return removed


def _remove(transaction: Transaction, space: str, path: object, oid: str) -> None:
    transaction.execute("DELETE FROM names WHERE path = ?", (path,))
    areas.remove_name(transaction, area_of(space), oid)
