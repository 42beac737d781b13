"""Limits wrong passwords of drops: ten per minute for each drop, in all processes together.

A guess is recorded before its password is hashed, in the transaction that counts earlier guesses. So the limit holds
for any number of simultaneous guesses. The table `judging` has guesses whose outcome is open, `guesses` the wrong ones;
a right one is deleted. A guess whose process died while it judged counts until its minute has passed.
"""

from __future__ import annotations

import math
import sqlite3
import time
from typing import NamedTuple

from filestoraged.errors import TooManyGuesses
from filestoraged.store.sqlite.group_commit import TransactionQueue

GUESS_TABLES = (
    # `time` is when the guess was found to be wrong, in seconds since 1970.
    "CREATE TABLE IF NOT EXISTS guesses (id TEXT NOT NULL, time REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS guesses_by_id ON guesses (id, time)",
    # `time` is when the guess was recorded.
    "CREATE TABLE IF NOT EXISTS judging (id TEXT NOT NULL, time REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS judging_by_id ON judging (id, time)",
)

# The maximum number of wrong passwords of a drop in a period, and its length in seconds.
_MAX_GUESSES = 10
_PERIOD = 60.0

# In seconds. A guess whose time lies further ahead was recorded while the clock was wrong, and does not count. Less is
# another process that read the clock a moment later, or a small correction of the clock.
_MAX_SKEW = 1.0

_RECORD = f"""INSERT INTO judging (id, time) SELECT ?1, ?2 WHERE
    (SELECT count(*) FROM guesses WHERE id = ?1 AND time > ?3 AND time <= ?4)
    + (SELECT count(*) FROM judging WHERE id = ?1 AND time > ?3 AND time <= ?4) < {_MAX_GUESSES}"""


class Guess(NamedTuple):
    """A guess whose outcome is open."""

    row: int
    id: str
    time: float


def record(connection: sqlite3.Connection, id_: str) -> Guess | None:
    """Record a guess, within a transaction. Returns None if too many are wrong or being judged."""
    # Read within the transaction, so that no earlier guess has a later time.
    now = time.time()
    cursor = connection.execute(_RECORD, (id_, now, *_span(now)))
    return Guess(cursor.lastrowid or 0, id_, now) if cursor.rowcount else None


def settle_right(connection: sqlite3.Connection, guess: Guess) -> None:
    """Delete a guess that was right, within a transaction."""
    # The row id alone does not identify it: after a minute it may have been deleted, and its row id reused.
    connection.execute("DELETE FROM judging WHERE rowid = ? AND id = ? AND time = ?", guess)


def settle_wrong(connection: sqlite3.Connection, guess: Guess) -> None:
    """Record that a guess was wrong, within a transaction."""
    settle_right(connection, guess)
    connection.execute("INSERT INTO guesses (id, time) VALUES (?, ?)", (guess.id, time.time()))


def raise_if_too_many(transactions: TransactionQueue, id_: str) -> None:
    """Raise TooManyGuesses after too many wrong guesses."""
    now = time.time()
    statement = "SELECT time FROM guesses WHERE id = ? AND time > ? AND time <= ? ORDER BY time DESC LIMIT ?"
    times = [time_ for (time_,) in transactions.read(statement, id_, *_span(now), _MAX_GUESSES)]
    if len(times) >= _MAX_GUESSES:
        raise TooManyGuesses(max(1, min(int(_PERIOD), math.ceil(times[-1] + _PERIOD - now))))


def delete_old(transactions: TransactionQueue, limit: int) -> int:
    """Delete at most `limit` guesses of each table that do not count. Returns how many."""
    since, until = _span(time.time())
    deleted = 0
    for table in ("guesses", "judging"):
        old = transactions.read(
            f"SELECT rowid, time FROM {table} WHERE time <= ? OR time > ? LIMIT ?", since, until, limit
        )
        if old:
            transactions.write_rows(f"DELETE FROM {table} WHERE rowid = ? AND time = ?", old).result()
        deleted += len(old)
    return deleted


def _span(now: float) -> tuple[float, float]:
    """Rows count whose time is after the first value, and not after the second."""
    return now - _PERIOD, now + _MAX_SKEW
