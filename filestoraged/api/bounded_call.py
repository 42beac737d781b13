"""A function call with a time limit, for functions that may wait for a disk or for another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.future import Future, set_results

_Result = TypeVar("_Result")


class BoundedCall(Generic[_Result]):
    """Calls `function` on a thread of its own, once at a time: callers during a call get its result.

    Any thread may ask. A function that hangs takes one thread, however many ask.
    """

    def __init__(self, function: Callable[[], _Result], *, timeout: float, clock: Clock = SYSTEM_CLOCK) -> None:
        self._function = function
        self._clock = clock
        self._timeout = timeout
        # The call that runs, if any; the lock guards it.
        self._running: _Call | None = None
        self._lock = threading.Lock()

    def start(self) -> _Call:
        """Begin a call, unless one runs. Raises RuntimeError where there can be no more threads."""
        with self._lock:
            if self._running is None:
                call = _Call(Future(), self._clock.now() + self._timeout)
                threading.Thread(target=self._run, args=(call.future,), name="bounded call", daemon=True).start()
                self._running = call
            return self._running

    def result(self) -> _Result:
        """Call the function, or wait for the call that runs. Raises what the function raises.

        Raises TimeoutError `timeout` seconds after the call began, however late it was asked for.
        """
        future, late_at = self.start()
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        if not self._clock.wait(ended, max(0.0, late_at - self._clock.now())):
            raise TimeoutError(f"no result after {self._timeout:g} s")
        result: _Result = future.result()
        return result

    def _run(self, future: Future[Any]) -> None:
        outcome: object
        try:
            outcome = self._function()
        except Exception as error:
            outcome = error
        with self._lock:
            self._running = None
        set_results([(future, outcome)])


class _Call(NamedTuple):
    """`late_at` is when its time limit ends, on the clock."""

    future: Future[Any]
    late_at: float
