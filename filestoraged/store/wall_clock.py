"""The wall clock, for removing by age what cannot be brought back. It may be wrong for a while.

A clock that is ahead makes everything old at once. So the time last seen is kept in the database, and after a jump
ahead nothing is removed for an hour: time for somebody to correct the clock. A daemon that was not running sees a jump
as well, and waits too.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from typing import NamedTuple

from filestoraged.store.sqlite.group_commit import TransactionQueue

log = logging.getLogger(__name__)

# In a database that is older than this table, the last time seen is that of the last change of a drop.
TABLES = (
    "CREATE TABLE IF NOT EXISTS clock (seen REAL)",
    "INSERT INTO clock (seen) SELECT (SELECT max(changed) FROM drops) WHERE NOT EXISTS (SELECT * FROM clock)",
    # How much of the grace has passed, in seconds, over all runs of the daemon.
    "CREATE TABLE IF NOT EXISTS grace (passed REAL NOT NULL)",
    "INSERT INTO grace (passed) SELECT 0 WHERE NOT EXISTS (SELECT * FROM grace)",
)

# Seconds ahead of the time last seen. Less is a restart, or the correction of a clock that was set by hand.
_JUMP = 3600.0

# Seconds on the monotonic clock during which nothing is removed.
_GRACE = 3600.0

# Seconds between two records of the time seen: a write that nothing else asks for.
_RECORD = 600.0


class _Jump(NamedTuple):
    """What this process knows of a grace. Both are on the monotonic clock."""

    # When what has passed of the grace was recorded.
    recorded: float
    # Of the wall clock.
    offset: float


class WallClock:
    """One thread of a process asks. Processes that share the database know the same jump, each on its own."""

    def __init__(self, ledger: TransactionQueue) -> None:
        self._ledger = ledger
        self._jump: _Jump | None = None

    def settled(self) -> float | None:
        """The time in seconds since 1970, None in the grace after a jump."""
        now = time.time()
        ((seen, passed),) = self._ledger.read("SELECT seen, passed FROM clock, grace")
        if seen is not None and now - seen > _JUMP and self._is_in_grace(now, now - seen, passed):
            return None
        self._jump = None
        # Also where it was set back: whether it was ahead before or is behind now, the next jump is known by this.
        if seen is None or abs(now - seen) > _RECORD or passed:
            self._ledger.write(lambda connection: _record(connection, now)).result()
        return now

    def _is_in_grace(self, now: float, ahead: float, passed: float) -> bool:
        monotonic = time.monotonic()
        offset = now - monotonic
        if self._jump is None:
            self._jump = _Jump(monotonic, offset)
            log.warning("the clock is %.1f h ahead of when it was last seen: no drop expires for 1 h", ahead / 3600)
        elif offset - self._jump.offset > _JUMP:
            # A second jump within the grace begins it anew.
            self._jump, passed = _Jump(monotonic, offset), 0.0
            self._ledger.write(lambda connection: _record_grace(connection, 0.0)).result()
        passed += monotonic - self._jump.recorded
        if monotonic - self._jump.recorded >= _RECORD:
            # In the database: a daemon that never runs for an hour would never remove anything.
            self._ledger.write(lambda connection: _record_grace(connection, passed)).result()
            self._jump = self._jump._replace(recorded=monotonic)
        return passed < _GRACE


def _record(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("UPDATE clock SET seen = ?", (now,))
    _record_grace(connection, 0.0)


def _record_grace(connection: sqlite3.Connection, passed: float) -> None:
    connection.execute("UPDATE grace SET passed = ?", (passed,))
