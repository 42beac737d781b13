"""Memory that many share: whoever finds too little of it left waits for a turn."""

from __future__ import annotations

import threading
from collections import deque
from typing import Deque

from filestoraged.errors import StoreUnavailable

# How long somebody waits for a turn, in seconds. Whoever has what is waited for may be a slow client's download.
_PATIENCE = 30.0


class Budget:
    """`size` bytes for all together. Used by many threads; the condition guards who waits and what is left.

    Turns come in the order of asking. One who wants more than there is gets a turn when nobody else has anything.
    """

    def __init__(self, size: int, *, patience: float = _PATIENCE) -> None:
        self._size = size
        self._left = size
        self._patience = patience
        self._waiting: Deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait for `size` bytes. Raises StoreUnavailable where the wait is too long."""
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            came = self._changed.wait_for(lambda: self._waiting[0] is turn and self._has(size), self._patience)
            self._waiting.remove(turn)
            if came:
                self._left -= size
            # Whoever is next may find enough.
            self._changed.notify_all()
        if not came:
            raise StoreUnavailable("Too many downloads are under way.")

    def give(self, size: int) -> None:
        with self._changed:
            self._left += size
            self._changed.notify_all()

    def _has(self, size: int) -> bool:
        return size <= self._left or self._left == self._size
