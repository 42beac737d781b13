"""The drain of a server: requests in flight are finished, and nothing new begins."""

from __future__ import annotations

import math
from collections.abc import Callable

from filestoraged.web.connection import Connection
from filestoraged.web.loop_context import LoopContext

# How long lingering closes may last when all else is drained, in seconds.
_FAREWELL = 1.0


class Drain:
    """Any thread begins it; the loop, which no longer accepts, asks at intervals whether it is over."""

    def __init__(self, context: LoopContext[Connection]) -> None:
        self._context = context
        self._end = self._idle_end = math.inf
        self._on_not_accepting: Callable[[], None] = lambda: None
        # Whether all requests were finished in time.
        self.is_complete = False

    def begin(self, timeout: float, on_not_accepting: Callable[[], None]) -> None:
        """It lasts `timeout` seconds at most. The loop calls `on_not_accepting` once."""
        self._on_not_accepting = on_not_accepting
        now = self._context.now()
        self._end = now + timeout
        self._idle_end = now + self._context.limits.last_call
        self._context.is_draining = True

    def is_over(self, now: float) -> bool:
        """Close idle connections. Returns whether no other is left, or the time is."""
        context = self._context
        on_not_accepting, self._on_not_accepting = self._on_not_accepting, lambda: None
        on_not_accepting()
        for connection in context.poller.all():
            if connection.is_idle and now >= self._idle_end:
                connection.evict()
        left = context.poller.all()
        busy = context.pool.busy or context.remote_pool.busy or context.completions.expected
        if busy or not all(connection.is_lingering for connection in left):
            return now >= self._end
        self.is_complete = True
        self._end = min(self._end, now + _FAREWELL)
        return not left or now >= self._end
