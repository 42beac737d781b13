"""A clock for tests: its time passes by `advance` alone."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock

# Real seconds after which a thread that nothing wakes fails, so that a test ends.
_PATIENCE = 60.0

# In 2027.
_EPOCH = 1_800_000_000.0

_Result = TypeVar("_Result")


class VirtualClock:
    """Threads that wait on it are woken when their time has come, or by what they wait for.

    A test that advances it for another thread calls `wait_for_waiting` first: until then, that thread may not wait yet.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        # The date when the clock shows 0.
        self._epoch = _EPOCH
        # What `work` returns, for all threads.
        self.worked = 0.0
        # Guards the list, and is notified when it grows. It has each thread that waits, by its condition and the end.
        self._changed = threading.Condition()
        self._waiting: list[tuple[threading.Condition, float]] = []

    def now(self) -> float:
        return self._now

    def date(self) -> float:
        return self._epoch + self._now

    def thread_time(self) -> float:
        return self.worked

    def set_date(self, date: float) -> None:
        """No time passes."""
        self._epoch = date - self._now

    def advance(self, seconds: float) -> None:
        with self._changed:
            self._now += seconds
            due = [each for each in self._waiting if each[1] <= self._now]
            # A thread that is woken waits no more, even if it has not run yet.
            self._waiting = [each for each in self._waiting if each[1] > self._now]
        for condition, _ in due:
            with condition:
                condition.notify_all()

    def wait_for_waiting(self, threads: int = 1) -> None:
        """Return when so many threads wait on this clock."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiting) >= threads, _PATIENCE):
                raise AssertionError(f"{len(self._waiting)} threads wait, not {threads}")

    def sleep(self, seconds: float, /) -> None:
        self.wait(threading.Event(), seconds)

    def wait(self, event: threading.Event, timeout: float | None = None, /) -> bool:
        # What `Event.set` notifies.
        condition: threading.Condition = event._cond  # type: ignore[attr-defined]
        with condition:
            return self.wait_for(condition, event.is_set, timeout)

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], _Result], timeout: float | None = None, /
    ) -> _Result:
        end = math.inf if timeout is None else self._now + timeout
        result: Any = predicate()
        if result or self._now >= end:
            return result  # type: ignore[no-any-return]
        with self._changed:
            self._waiting.append((condition, end))
            self._changed.notify_all()
        try:
            # No change is missed: whoever notifies holds the condition, and this thread lets it go by `wait` alone.
            while not result and self._now < end:
                if not condition.wait(_PATIENCE):
                    raise AssertionError("nothing has woken a thread, neither the clock nor what it waits for")
                result = predicate()
        finally:
            with self._changed, contextlib.suppress(ValueError):
                self._waiting.remove((condition, end))
        return result  # type: ignore[no-any-return]


class PassingClock(VirtualClock):
    """For one thread: time passes while it sleeps or waits. `waits` are the seconds of each."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__(now)
        self.waits: list[float] = []

    def sleep(self, seconds: float, /) -> None:
        self.waits.append(seconds)
        self.advance(seconds)

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], _Result], timeout: float | None = None, /
    ) -> _Result:
        if not predicate():
            assert timeout is not None, "the only thread waits for ever"
            self.sleep(timeout)
        return predicate()

    def wait(self, event: threading.Event, timeout: float | None = None, /) -> bool:
        if not event.is_set():
            assert timeout is not None, "the only thread waits for ever"
            self.sleep(timeout)
        return event.is_set()


class DatedClock(PassingClock):
    """Its date is that of the machine, or `off` by so many seconds: for a server that compares it with its own."""

    off = 0.0

    def date(self) -> float:
        return SYSTEM_CLOCK.date() + self.off


class StoppedClock(VirtualClock):
    """Keeps no thread waiting, and no time passes. `waits` are the seconds of each."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__(now)
        self.waits: list[float] = []

    def wait(self, event: threading.Event, timeout: float | None = None, /) -> bool:
        self.waits.append(math.inf if timeout is None else timeout)
        return event.is_set()


class HastyClock:
    """That of the machine, but pauses are short: for retries beside what has real deadlines."""

    now = staticmethod(SYSTEM_CLOCK.now)
    date = staticmethod(SYSTEM_CLOCK.date)
    thread_time = staticmethod(SYSTEM_CLOCK.thread_time)
    wait = staticmethod(SYSTEM_CLOCK.wait)
    wait_for = staticmethod(SYSTEM_CLOCK.wait_for)

    def sleep(self, seconds: float, /) -> None:
        self.wait(threading.Event(), seconds / 100)


class _PatientClock:
    """That of the machine, but its time runs slower, so that no deadline passes while a busy disk keeps others waiting.

    Pauses are as long as ever.
    """

    date = staticmethod(SYSTEM_CLOCK.date)
    thread_time = staticmethod(SYSTEM_CLOCK.thread_time)
    sleep = staticmethod(SYSTEM_CLOCK.sleep)
    wait = staticmethod(SYSTEM_CLOCK.wait)
    wait_for = staticmethod(SYSTEM_CLOCK.wait_for)

    def now(self) -> float:
        return SYSTEM_CLOCK.now() / 20


PATIENT_CLOCK: Clock = _PatientClock()
