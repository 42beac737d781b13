"""What the threads of a process share of another machine: its idle connections, and whether it is silent.

Neither knows a protocol: HTTP and memcached have both.
"""

from __future__ import annotations

import math
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock

_Result = TypeVar("_Result")


class Closable(Protocol):
    def close(self) -> None: ...


_Idle = TypeVar("_Idle", bound=Closable)


class IdlePool(Generic[_Idle]):
    """Idle connections, each for the next request. They belong to the process that made them, so a fork is harmless."""

    def __init__(self, size: float = math.inf) -> None:
        """`size` is how many are kept."""
        self._size = size
        self._reset()

    def _reset(self) -> None:
        # Without closing them: the sockets of a parent are in use there.
        self._owner = os.getpid()
        self._idle: deque[_Idle] = deque()

    def __len__(self) -> int:
        return len(self._idle)

    def acquire(self) -> _Idle | None:
        """Return the one used last, so that those which a peak has left become old; None if there is none."""
        if self._owner != os.getpid():
            self._reset()
        # A deque's methods are atomic.
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def release(self, connection: _Idle) -> None:
        """Keep a connection. Beyond the size, the one that was idle for longest is closed."""
        if self._owner != os.getpid():
            connection.close()
            return
        self._idle.append(connection)
        while len(self._idle) > self._size:
            self._idle.popleft().close()

    def close(self) -> None:
        """Close the idle connections. The next request opens one."""
        while (connection := self.acquire()) is not None:
            connection.close()


class ServerSuspect(TimeoutError):
    """The server has not answered lately, and another thread waits for it."""


class Breaker:
    """Many threads call a server through it, each on a connection of its own.

    A server that was silent is suspect: until it answers again, one thread at a time waits for it, and calls of other
    threads fail at once. So a server that hangs delays one thread, and the first call after its return succeeds.
    """

    def __init__(self, server: str, clock: Clock = SYSTEM_CLOCK) -> None:
        """`server` names it in messages."""
        self._server = server
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        # A forked child must not wait for its parent's threads.
        self._owner = os.getpid()
        self._probing = threading.Lock()
        self.suspect = False
        # The last answer to any call, on the clock.
        self._answered = -math.inf

    def call(self, function: Callable[[], _Result], probe: Callable[[], _Result] | None = None) -> _Result:
        """Call `function`, or `probe`, if that is given, to find out whether a suspect server answers again.

        Raises ServerSuspect where another thread finds that out.
        """
        if self._owner != os.getpid():
            self._reset()
        if not self.suspect:
            return function()
        if not self._probing.acquire(blocking=False):
            raise ServerSuspect(f"{self._server} has not answered lately")
        try:
            return (probe or function)()
        finally:
            self._probing.release()

    def note_answer(self) -> None:
        self._answered = self._clock.now()
        self.suspect = False

    def note_failure(self, failure: BaseException, since: float = math.inf) -> None:
        """Note how a call has failed that began at a time on the clock. Another one may have had an answer since."""
        self.suspect = isinstance(failure, TimeoutError) and self._answered < since


def random_pause(longest: float) -> float:
    """Seconds to wait before another attempt: random, so that many clients do not come back at once."""
    return longest * random.uniform(0.5, 1.0)


def describe(failure: BaseException) -> str:
    """What is wrong with a connection, for a message."""
    return getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
