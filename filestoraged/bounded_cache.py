"""Caches with bounds, for `store`, `web` and `api`: one that is cheap to fill, and one that keeps what is in demand."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

# A full ClockCache considers one new value of so many: what is requested more often comes in sooner. A prime, so that
# it is not always the same one of values that are requested in turn.
ADMITTED_ONE_OF = 7


class Requestable(Protocol):
    """A value of a ClockCache. Its reader sets `is_used`."""

    is_used: bool


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Requestable = TypeVar("_Requestable", bound=Requestable)


class _Cache(ABC, Generic[_Key, _Value]):
    """Values by key, with `max_size` bytes at most by `size_of`. Any thread calls it; the lock guards changes.

    The size of a value does not change, and no value is None.
    """

    def __init__(self, values: dict[_Key, _Value], max_size: float, size_of: Callable[[_Key, _Value], int]) -> None:
        """`values` is the empty dictionary that they are kept in."""
        self._values = values
        self._max_size = max_size
        self._size_of = size_of
        self._lock = threading.Lock()
        self.size = 0
        # The dictionary's own method: a read costs no more than that.
        self.get: Callable[[_Key], _Value | None] = self._values.get

    def put(self, key: _Key, value: _Value) -> None:
        """Keep a value, in place of the key's earlier one, if room is made for it."""
        size = self._size_of(key, value)
        with self._lock:
            self._remove(key)
            if self._make_room(size):
                self._values[key] = value
                self.size += size

    def discard(self, key: _Key) -> None:
        """Forget a key's value, if it has one."""
        with self._lock:
            self._remove(key)

    def __len__(self) -> int:
        return len(self._values)

    @abstractmethod
    def _make_room(self, size: int) -> bool:
        """Forget values if another one, of `size` bytes, exceeds a bound. Returns False if it is not to be kept."""

    def _remove(self, key: _Key) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self.size -= self._size_of(key, value)


class BoundedCache(_Cache[_Key, _Value]):
    """When another value would exceed a bound, all are forgotten: those in demand are soon back.

    Least-recently-used eviction would need a lock for each read.
    """

    def __init__(
        self, *, entries: int, size: int | None = None, size_of: Callable[[_Key, _Value], int] | None = None
    ) -> None:
        """At most `entries` values, and `size` bytes of them by `size_of`; None for any size."""
        super().__init__({}, math.inf if size is None else size, size_of or _no_size)
        self._max_entries = entries

    def _make_room(self, size: int) -> bool:
        if len(self._values) >= self._max_entries or self.size + size > self._max_size:
            self._values.clear()
            self.size = 0
        return True


class ClockCache(_Cache[_Key, _Requestable]):
    """A full cache keeps the values in demand (the CLOCK algorithm).

    One of ADMITTED_ONE_OF new values takes the place of those that were not used since they were considered last. If it
    meets one that was, the new value is not kept, and that one is considered again after all others. So requests for
    more values than there is room for, one after the other, leave most of the cache as it is.
    """

    def __init__(self, max_size: int, size_of: Callable[[_Key, _Requestable], int]) -> None:
        # In the order in which they are considered.
        self._order: OrderedDict[_Key, _Requestable] = OrderedDict()
        super().__init__(self._order, max_size, size_of)
        # New values that came when it was full.
        self._newcomers = 0

    def _make_room(self, size: int) -> bool:
        if self.size + size <= self._max_size:
            return True
        self._newcomers += 1
        if self._newcomers % ADMITTED_ONE_OF:
            return False
        while self.size + size > self._max_size:
            if not self._order:
                return False
            key, oldest = next(iter(self._order.items()))
            if oldest.is_used:
                oldest.is_used = False
                self._order.move_to_end(key)
                return False
            self._remove(key)
        return True


def _no_size(*_: object) -> int:
    return 0
