"""How fast bytes may be read by all threads together, and whether any more are wanted at all."""

from __future__ import annotations

import threading
import time

# Pieces of a second that a limit is kept in: none reads more at once than the limit allows in so long.
_PIECES = 8
_SMALLEST = 4096


# Seconds that one may lag behind and make up for: a wait lasts a little longer than it was to, and a read may too.
_CREDIT = 0.1


class CheckStopped(Exception):
    """Nobody waits for the answer any more."""


class Throttle:
    """Many threads keep to it. The lock guards the moment up to which everything that was read is paid for."""

    def __init__(self, limit: int | None = None) -> None:
        """`limit` is in bytes a second, None for none."""
        self._limit = limit
        self._paid_until = 0.0
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def piece(self, size: int) -> int:
        """How many bytes to read at once, of `size` that there is room for."""
        return size if self._limit is None else min(size, max(_SMALLEST, self._limit // _PIECES))

    def pay(self, size: int) -> None:
        """Wait for as long as the `size` bytes that were just read may take. Raises Stopped."""
        if self._limit is not None:
            with self._lock:
                now = time.monotonic()
                self._paid_until = max(self._paid_until, now - _CREDIT) + size / self._limit
                wait = self._paid_until - now
            if wait > 0:
                self._stopped.wait(wait)
        self.go_on()

    def pause(self, seconds: float) -> None:
        """Do nothing for so long. Raises Stopped."""
        self._stopped.wait(seconds)
        self.go_on()

    def go_on(self) -> None:
        """Raises Stopped."""
        if self._stopped.is_set():
            raise CheckStopped

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self) -> None:
        """Have all threads end soon. A signal handler may call it."""
        self._stopped.set()
