"""Time as a parameter: what waits or expires is given a clock, and tests give it one that they advance.

`now` is monotonic. Where a kernel or a database tells the time, this clock is not asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

_Result = TypeVar("_Result")


class Clock(Protocol):
    """Any thread calls it. What polls descriptors asks `now` alone, and is woken by a descriptor of its own."""

    def now(self) -> float:
        """Seconds since a moment that is the same for all processes."""

    def date(self) -> float:
        """Seconds since 1970. An operator may set this clock, and it may be wrong."""

    def thread_time(self) -> float:
        """Seconds of processor time that the calling thread has used."""

    def sleep(self, seconds: float, /) -> None: ...

    def wait(self, event: threading.Event, timeout: float | None = None, /) -> bool:
        """Wait until the event is set, for `timeout` seconds at most. Returns whether it is."""

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], _Result], timeout: float | None = None, /
    ) -> _Result:
        """Wait until the predicate holds, for `timeout` seconds at most. Returns what it returned last.

        The caller holds the condition, and whatever changes the predicate notifies it.
        """


class _SystemClock:
    """The functions themselves: a call costs no more than without a clock."""

    now = staticmethod(time.monotonic)
    date = staticmethod(time.time)
    thread_time = staticmethod(time.thread_time)
    sleep = staticmethod(time.sleep)
    wait = staticmethod(threading.Event.wait)
    wait_for = staticmethod(threading.Condition.wait_for)


SYSTEM_CLOCK: Clock = _SystemClock()
