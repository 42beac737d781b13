"""A guard against a wrong wall clock, for judging data by age: whether it is removed, and whether a request finds it.

A clock that is ahead makes all data old at once. So the database keeps the time last seen, and after a jump ahead
nothing expires for a grace period of one hour, in which an operator can correct the clock. A daemon that was not
running also sees a jump, and waits as well. The janitor ends the grace period by recording the time; requests of all
processes follow the record.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from filestoraged.clock import Clock
from filestoraged.store.transactions import Transaction, Transactions

log = logging.getLogger(__name__)


def clock_tables(seen: str) -> tuple[str, ...]:
    """The statements that make the tables. `seen` is the expression of the time last seen in an older database."""
    return (
        "CREATE TABLE IF NOT EXISTS clock (seen REAL)",
        f"INSERT INTO clock (seen) SELECT {seen} WHERE NOT EXISTS (SELECT * FROM clock)",
        # How much of the grace period has passed, in seconds, over all runs of the daemon.
        "CREATE TABLE IF NOT EXISTS grace (passed REAL NOT NULL)",
        "INSERT INTO grace (passed) SELECT 0 WHERE NOT EXISTS (SELECT * FROM grace)",
    )


# Seconds ahead of the time last seen. Less is a restart, or the correction of a clock that was set by hand.
_MIN_JUMP = 3600.0

# In statements, the time by which ages are judged: that of the clock, and in the grace period the time last seen. What
# is new gets the time of the clock, `epoch()`: the clock may be right, and what is new would be old after the period.
JUDGED_TIME = f"coalesce((SELECT seen FROM clock WHERE epoch() - seen > {_MIN_JUMP}), epoch())"

# Seconds on the monotonic clock during which nothing is removed.
_GRACE_AFTER_JUMP = 3600.0

# Seconds between two records of the time seen, since each is a write.
_RECORD_INTERVAL = 600.0


class _Jump(NamedTuple):
    """A jump that this process has seen."""

    # When the passed part of the grace period was last recorded, on the monotonic clock.
    recorded: float
    # The wall clock minus the monotonic clock.
    offset: float


class WallClock:
    """One thread of a process calls it. Processes that share the database see the same jump independently."""

    def __init__(self, transactions: Transactions, clock: Clock) -> None:
        self._transactions = transactions
        self._clock = clock
        self._jump: _Jump | None = None

    def settled(self) -> float | None:
        """The time by the database's clock, in seconds since 1970; None in the grace period after a jump."""
        now: float
        ((now, seen, passed),) = self._transactions.read("SELECT epoch(), seen, passed FROM clock, grace")
        if seen is not None and now - seen > _MIN_JUMP and self._is_in_grace(now, now - seen, passed):
            return None
        self._jump = None
        # Also if it was set back: the next jump is relative to this time, whether the clock was ahead or is behind.
        if seen is None or abs(now - seen) > _RECORD_INTERVAL or passed:
            self._transactions.write(lambda transaction: _record(transaction, now)).result()
        return now

    def _is_in_grace(self, now: float, ahead: float, passed: float) -> bool:
        monotonic = self._clock.now()
        offset = now - monotonic
        if self._jump is None:
            self._jump = _Jump(monotonic, offset)
            log.warning("the clock is %.1f h ahead of the time last seen; nothing expires for 1 h", ahead / 3600)
        elif offset - self._jump.offset > _MIN_JUMP:
            # A second jump within the grace period starts it anew.
            self._jump, passed = _Jump(monotonic, offset), 0.0
            self._transactions.write(lambda transaction: _record_grace(transaction, 0.0)).result()
        passed += monotonic - self._jump.recorded
        if monotonic - self._jump.recorded >= _RECORD_INTERVAL:
            # In the database: otherwise a daemon that never runs for an hour would never remove anything.
            self._transactions.write(lambda transaction: _record_grace(transaction, passed)).result()
            self._jump = self._jump._replace(recorded=monotonic)
        return passed < _GRACE_AFTER_JUMP


def _record(transaction: Transaction, now: float) -> None:
    transaction.execute("UPDATE clock SET seen = ?", (now,))
    _record_grace(transaction, 0.0)


def _record_grace(transaction: Transaction, passed: float) -> None:
    transaction.execute("UPDATE grace SET passed = ?", (passed,))
