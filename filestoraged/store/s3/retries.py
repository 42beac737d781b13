"""When a request is sent again, and for how long a store that does not answer is waited for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, StoreUnavailable
from filestoraged.net.connection import FAILURES
from filestoraged.net.pool import Breaker, ServerSuspect, describe, random_pause
from filestoraged.store.s3.traffic import Traffic

_Result = TypeVar("_Result")

# Seconds that one operation waits for answers at most, with all of its requests: its client gets a 503 within 30 s.
OPERATION_TIMEOUT = 24.0

# Seconds between attempts; half of each is random, so that many clients do not come back at once.
_PAUSES = (0.1, 0.4, 1.2)


class Retryable(Exception):
    """The store has answered that an equal request may succeed soon. `error` is for a client that gets no other."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error


class StoreCalls:
    """Calls of a store by many threads. One that hangs delays few requests, and none beyond its deadline."""

    def __init__(self, store: str, traffic: Traffic, clock: Clock = SYSTEM_CLOCK) -> None:
        """`store` names it in the log."""
        self._store = store
        self._traffic = traffic
        self._clock = clock
        self.breaker = Breaker(f"the S3 store {store}", clock)

    def call(self, function: Callable[[], _Result], until: float, *, answered: bool = True) -> _Result:
        """Call `function`, again after failures, until a time on the monotonic clock. Raises StoreUnavailable.

        `answered` is whether its end means that the store has answered; it may have only sent something.
        """
        try:
            return self.breaker.call(
                lambda: self._call_often(function, until, answered), lambda: self.call_once(function)
            )
        except ServerSuspect as error:
            raise StoreUnavailable from error

    def call_once(self, function: Callable[[], _Result]) -> _Result:
        """Call a function that is not to be called again. Raises StoreUnavailable."""
        return self._call_often(function, 0.0)

    def _call_often(self, function: Callable[[], _Result], until: float, answered: bool = True) -> _Result:
        for pause in (*_PAUSES, math.inf):
            started = self._clock.now()
            is_silent = False
            error: Error
            try:
                result = function()
            except Retryable as refused:
                self.breaker.note_answer()
                error = refused.error
            except Error:
                self.breaker.note_answer()
                raise
            except FAILURES as failure:
                is_silent = isinstance(failure, TimeoutError)
                self.breaker.note_failure(failure, started)
                error = self._unreachable(failure)
            else:
                if answered:
                    self.breaker.note_answer()
                    self._traffic.count("answered")
                return result
            wait = random_pause(pause)
            # Another timeout would take as long as the first.
            if is_silent or self._clock.now() + wait >= until:
                break
            self._traffic.count("repeated")
            self._clock.sleep(wait)
        self._traffic.count("failed")
        raise error

    def _unreachable(self, failure: BaseException) -> StoreUnavailable:
        error = StoreUnavailable()
        error.__cause__ = ConnectionError(f"the S3 store {self._store}: {describe(failure)}")
        return error
