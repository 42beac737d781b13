"""A cache that is bounded in entries and in bytes, for `store`, `web` and `api`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class BoundedCache(Generic[_Key, _Value]):
    """Values by key. When another would exceed a bound, all are forgotten: those in demand are soon back.

    Least-recently-used eviction would need a lock for each read. Any thread calls it; the lock guards the sum of sizes.
    No value is None, and the size of a value does not change.
    """

    def __init__(
        self, *, entries: int, size: int | None = None, size_of: Callable[[_Key, _Value], int] | None = None
    ) -> None:
        """At most `entries` values, and `size` bytes of them by `size_of`; None for any size."""
        self._max_entries = entries
        self._max_size = math.inf if size is None else size
        self._size_of = size_of or _no_size
        self._values: dict[_Key, _Value] = {}
        self._lock = threading.Lock()
        self.size = 0
        # The dictionary's own method: a read costs no more than that.
        self.get: Callable[[_Key], _Value | None] = self._values.get

    def put(self, key: _Key, value: _Value) -> None:
        """Keep a value, in place of the key's earlier one."""
        size = self._size_of(key, value)
        with self._lock:
            self._forget(key)
            if len(self._values) >= self._max_entries or self.size + size > self._max_size:
                self._values.clear()
                self.size = 0
            self._values[key] = value
            self.size += size

    def discard(self, key: _Key) -> None:
        """Forget a key's value, if it has one."""
        with self._lock:
            self._forget(key)

    def __len__(self) -> int:
        return len(self._values)

    def _forget(self, key: _Key) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self.size -= self._size_of(key, value)


def _no_size(*_: object) -> int:
    return 0
