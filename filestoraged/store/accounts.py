"""The accounts of limited areas, as the stores that are limited and the janitor use them. It holds no bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from filestoraged.clock import Clock
from filestoraged.future import Future
from filestoraged.store import areas
from filestoraged.store.area_stores import AreaStores, Part
from filestoraged.store.contract import Store
from filestoraged.store.limits import KINDS, NAMES, AreaLimits, Rules
from filestoraged.store.transactions import ServiceTables, Transaction, Transactions

_Result = TypeVar("_Result")

# Seconds after which the janitor looks for an object whose upload or removal has begun.
GRACE = 300.0


class Accounts(ServiceTables):
    """Make it after the fork. Any thread calls it."""

    def __init__(
        self, transactions: Transactions, limits: AreaLimits, objects: Store, drops: Store, clock: Clock
    ) -> None:
        """The database has the tables of areas. `objects` and `drops` are the stores without limits."""
        super().__init__(transactions)
        self.limits = limits
        self.clock = clock
        self.stores = AreaStores(objects, drops)

    def account(self, area: str, part: Part) -> Account | None:
        """None for an area without limits."""
        rules = self.limits.find(area)
        return None if rules is None else Account(self, area, rules, part)

    def areas(self) -> Iterator[str]:
        """The areas with limits that may have objects, but for those of names. May list many."""
        kinds = [kind for kind in KINDS if kind in self.limits.kinds and kind != NAMES]
        return (area for kind in kinds for area in self.stores.areas(kind) if self.limits.find(area))

    def write(self, function: Callable[..., _Result], *values: object, **named: object) -> Future[_Result]:
        """Call a function with a transaction and the values."""
        return self.transactions.write(_calling(function, *values, **named))

    def free(self, function: Callable[..., _Result], *values: object) -> Future[_Result]:
        """As `write`, for what makes room."""
        return self.transactions.free(_calling(function, *values))


class Account:
    """What one part of a limited area has. Any thread calls it."""

    def __init__(self, accounts: Accounts, area: str, rules: Rules, part: Part) -> None:
        self._accounts = accounts
        self._area = area
        self._quota = rules.quota
        self._part = part

    @property
    def is_remote(self) -> bool:
        """Whether a lookup waits for another machine."""
        return self._accounts.is_remote

    def require_room(self, size: int, names: Sequence[str] = (), *, is_whole: bool = True) -> int | None:
        """Return how many bytes an object may have of which `size` are known, None if there is no quota.

        One of the names is that of the object, if any is known: what is there takes no room. Raises QuotaExceeded. The
        binding judgement is that of `reserve`.
        """
        if self._quota is None:
            return None
        if size <= self._part.free:
            return self._part.free
        keys = [self._key(name) for name in names]
        return areas.find_room(
            self._accounts.transactions,
            self._area,
            self._quota,
            size,
            keys=keys,
            is_whole=is_whole,
            is_empty=self._is_empty,
        )

    def reserve(self, name: str, size: int) -> Future[int] | None:
        """Count an object that is about to be stored. The future has the version of its row. None if it is free."""
        if size <= self._part.free:
            return None
        is_known = self._accounts.transactions.read("SELECT 1 FROM areas WHERE area = ?", self._area)
        function = areas.reserve if is_known or not self._is_empty() else areas.reserve_first
        return self._accounts.write(function, self._area, self._key(name), size, self._quota)

    def begin_removals(self, names: Sequence[str]) -> Future[Mapping[str, int]]:
        """The future has the versions of the rows that there are, by the names."""

        def begin(transaction: Transaction) -> Mapping[str, int]:
            versions = {name: areas.begin_removal(transaction, self._area, self._key(name)) for name in names}
            return {name: version for name, version in versions.items() if version is not None}

        return self._accounts.free(begin)

    def end_removals(self, removed: Sequence[tuple[str, int]]) -> Future[None]:
        def end(transaction: Transaction) -> None:
            for name, version in removed:
                areas.end_removal(transaction, self._area, self._key(name), version)

        return self._accounts.free(end)

    def now(self) -> float:
        return self._accounts.clock.now()

    def _key(self, name: str) -> str:
        return f"{self._part.prefix}{name}"

    def _is_empty(self) -> bool:
        return not any(part.store.list(limit=1) for part in self._accounts.stores.parts(self._area))


def _calling(function: Callable[..., _Result], *values: object, **named: object) -> Callable[[Transaction], _Result]:
    return lambda transaction: function(transaction, *values, **named)
