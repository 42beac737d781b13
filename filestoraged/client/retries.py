"""How often a request is tried, and how long the client waits before it tries again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from filestoraged.client.refusals import ServerUnreachable
from filestoraged.errors import Error, Unavailable, UploadLocked
from filestoraged.net.pool import random_pause

_Result = TypeVar("_Result")

# Errors that may be over soon. All others would come again.
PASSING = (ServerUnreachable, Unavailable, UploadLocked)

# Seconds. The pause before the second attempt is at most this; it doubles each time, up to the second number.
_FIRST_PAUSE = 0.5
_MAX_PAUSE = 30.0

# Seconds. A server that asks to wait for longer is not asked again: the caller decides whether to wait.
_MAX_RETRY_AFTER = 120.0


class Retries:
    """The policy of a client. Any thread calls it."""

    def __init__(
        self,
        limit: int = 5,
        *,
        notify: Callable[[Error, float], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`limit` is how often a request is tried again without progress. `notify` gets the error and the seconds."""
        self.limit = limit
        self.notify = notify
        self.sleep = sleep

    def begin(self) -> Attempts:
        return Attempts(self)

    def run(self, attempt: Callable[[], _Result]) -> _Result:
        """The result of the first attempt that succeeds. Raises the error of the last one, and those that last."""
        attempts = self.begin()
        while True:
            try:
                return attempt()
            except PASSING as error:
                attempts.wait(error)


class Attempts:
    """The attempts of one operation. One thread uses it."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self.failed = 0

    def progressed(self) -> None:
        """Count anew: the last attempt has brought the operation forward."""
        self.failed = 0

    def wait(self, error: Error) -> None:
        """Wait before the next attempt. Raises the error instead, where there is none."""
        asked = error.retry_after if isinstance(error, Unavailable) else 0.0
        if self.failed >= self._retries.limit or asked > _MAX_RETRY_AFTER:
            raise error
        if isinstance(error, ServerUnreachable) and not error.may_retry:
            raise error
        longest = min(_MAX_PAUSE, _FIRST_PAUSE * 2**self.failed)
        # Never less than the server asked for.
        pause = asked + random_pause(longest)
        self.failed += 1
        if self._retries.notify is not None:
            self._retries.notify(error, pause)
        self._retries.sleep(pause)
