"""The choice between one sync of the whole file system and a sync of each file: the way that was faster lately.

One sync serves all changes of a round, but waits for what other programs write to the file system, and for however long
that takes. The ways are compared by the time that they took for each change.
"""

from __future__ import annotations

from filestoraged.store.system import LINUX, System

# Seconds between two rounds that try the way which was slower.
_RETRY_INTERVAL = 1.0

# Weight of the last round in the mean.
_WEIGHT = 0.3


class SyncChoice:
    """One thread calls it."""

    def __init__(self, *, system: System = LINUX) -> None:
        self._system = system
        # Mean seconds for each change; 0 before the first round.
        self._together = self._apart = 0.0
        self._retry_at = self._system.monotonic() + _RETRY_INTERVAL

    def is_together(self, count: int) -> bool:
        """Whether to sync so many changes together."""
        if count == 1:
            # One sync either way.
            return False
        is_faster = not self._apart or self._together <= self._apart
        now = self._system.monotonic()
        if now < self._retry_at:
            return is_faster
        self._retry_at = now + _RETRY_INTERVAL
        return not is_faster

    def record_together(self, count: int, seconds: float) -> None:
        self._together = _mean(self._together, seconds / count)

    def record_apart(self, count: int, seconds: float) -> None:
        if count > 1:
            self._apart = _mean(self._apart, seconds / count)


def _mean(before: float, last: float) -> float:
    return before + _WEIGHT * (last - before) if before else last
