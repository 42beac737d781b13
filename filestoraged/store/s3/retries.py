"""When a request is sent again, and for how long a store that does not answer is waited for."""

from __future__ import annotations

import http.client
import math
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, StoreUnavailable
from filestoraged.store.s3.traffic import Traffic

_Result = TypeVar("_Result")

# Seconds that one operation waits for answers at most, with all of its requests: its client gets a 503 within 30 s.
OPERATION_TIMEOUT = 24.0

# Seconds between attempts; half of each is random, so that many clients do not come back at once.
_PAUSES = (0.1, 0.4, 1.2)

# What a connection raises that fails, or that answers with something other than HTTP.
FAILURES = (OSError, http.client.HTTPException)


class Retryable(Exception):
    """The store has answered that an equal request may succeed soon. `error` is for a client that gets no other."""

    def __init__(self, error: Error) -> None:
        super().__init__()
        self.error = error


class Attempts:
    """Calls of a store by many threads.

    A store that was silent to all calls is suspect: until it answers again, one thread at a time waits for it, and
    calls of other threads fail at once. So a store that hangs delays few requests, and none beyond its deadline.
    """

    def __init__(self, store: str, traffic: Traffic, clock: Clock = SYSTEM_CLOCK) -> None:
        """`store` names it in the log."""
        self._store = store
        self._traffic = traffic
        self._clock = clock
        self._probing = threading.Lock()
        self.suspect = False
        # The last answer to any call, on the monotonic clock.
        self._answered = -math.inf

    def call(self, function: Callable[[], _Result], until: float, *, answered: bool = True) -> _Result:
        """Call `function`, again after failures, until a time on the monotonic clock. Raises StoreUnavailable.

        `answered` is whether its end means that the store has answered; it may have only sent something.
        """
        if not self.suspect:
            return self._call_often(function, until, answered)
        if not self._probing.acquire(blocking=False):
            raise StoreUnavailable from TimeoutError(f"the S3 store {self._store} has not answered lately")
        try:
            return self.call_once(function)
        finally:
            self._probing.release()

    def call_once(self, function: Callable[[], _Result]) -> _Result:
        """Call a function that is not to be called again. Raises StoreUnavailable."""
        return self._call_often(function, 0.0)

    def note_silence(self, since: float) -> None:
        """Note that the store took nothing of what was sent from a time on, on the monotonic clock."""
        self.suspect = self._answered < since

    def unreachable(self, failure: BaseException) -> StoreUnavailable:
        """The error for a client, with the failure of a connection as its cause."""
        error = StoreUnavailable()
        error.__cause__ = ConnectionError(f"the S3 store {self._store}: {_describe(failure)}")
        return error

    def _call_often(self, function: Callable[[], _Result], until: float, answered: bool = True) -> _Result:
        for pause in (*_PAUSES, math.inf):
            started = self._clock.now()
            is_silent = False
            error: Error
            try:
                result = function()
            except Retryable as refused:
                self._note_answer()
                error = refused.error
            except Error:
                self._note_answer()
                raise
            except FAILURES as failure:
                is_silent = isinstance(failure, TimeoutError)
                self.suspect = is_silent and self._answered < started
                error = self.unreachable(failure)
            else:
                if answered:
                    self._note_answer()
                    self._traffic.count("answered")
                return result
            wait = pause * random.uniform(0.5, 1.0)
            # Another timeout would take as long as the first.
            if is_silent or self._clock.now() + wait >= until:
                break
            self._traffic.count("repeated")
            self._clock.sleep(wait)
        self._traffic.count("failed")
        raise error

    def _note_answer(self) -> None:
        self._answered = self._clock.now()
        self.suspect = False


def _describe(failure: BaseException) -> str:
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
