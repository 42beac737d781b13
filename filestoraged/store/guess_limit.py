"""Guesses at the passwords of drops: at most ten wrong ones a minute for each drop, in all processes together.

A guess is recorded before its password is hashed, in the transaction that counts those before it. So however many come
at once, no more are compared. `judging` has those whose outcome is open, `guesses` the wrong ones; a right one is
deleted. What a process was judging when it died counts until its minute is over.
"""

from __future__ import annotations

import math
import sqlite3
import time
from typing import NamedTuple

from filestoraged.errors import TooManyGuesses
from filestoraged.store.sqlite.group_commit import TransactionQueue

TABLES = (
    # `time` is when it was found wrong, in seconds since 1970.
    "CREATE TABLE IF NOT EXISTS guesses (id TEXT NOT NULL, time REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS guesses_by_id ON guesses (id, time)",
    # `time` is when it was recorded.
    "CREATE TABLE IF NOT EXISTS judging (id TEXT NOT NULL, time REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS judging_by_id ON judging (id, time)",
)

# So many wrong passwords within so many seconds, and the drop accepts no other.
_LIMIT = 10
_PERIOD = 60.0

# Seconds. Later than that from now, a guess was recorded by a clock that was wrong, and does not count. Another process
# may have recorded one after this one has looked at the clock, or while the clock was set back by a little.
_SKEW = 1.0

_RECORD = f"""INSERT INTO judging (id, time) SELECT ?1, ?2 WHERE
    (SELECT count(*) FROM guesses WHERE id = ?1 AND time > ?3 AND time <= ?4)
    + (SELECT count(*) FROM judging WHERE id = ?1 AND time > ?3 AND time <= ?4) < {_LIMIT}"""


class Guess(NamedTuple):
    """One whose outcome is open."""

    row: int
    id: str
    time: float


def record(connection: sqlite3.Connection, id_: str) -> Guess | None:
    """Record a guess, within a transaction. Returns None where there are too many, wrong or being judged."""
    # Within the transaction, so that no guess counted is later than this one.
    now = time.time()
    cursor = connection.execute(_RECORD, (id_, now, *_span(now)))
    return Guess(cursor.lastrowid or 0, id_, now) if cursor.rowcount else None


def settle_right(connection: sqlite3.Connection, guess: Guess) -> None:
    """Take back a guess that was right, within a transaction."""
    # Its number alone does not identify it: after a minute it may have been deleted, and another have its number.
    connection.execute("DELETE FROM judging WHERE rowid = ? AND id = ? AND time = ?", guess)


def settle_wrong(connection: sqlite3.Connection, guess: Guess) -> None:
    """Count a guess as wrong from now on, within a transaction."""
    settle_right(connection, guess)
    connection.execute("INSERT INTO guesses (id, time) VALUES (?, ?)", (guess.id, time.time()))


def require_few(ledger: TransactionQueue, id_: str) -> None:
    """Raises TooManyGuesses after too many wrong ones."""
    now = time.time()
    question = "SELECT time FROM guesses WHERE id = ? AND time > ? AND time <= ? ORDER BY time DESC LIMIT ?"
    times = [time_ for (time_,) in ledger.read(question, id_, *_span(now), _LIMIT)]
    if len(times) >= _LIMIT:
        raise TooManyGuesses(max(1, min(int(_PERIOD), math.ceil(times[-1] + _PERIOD - now))))


def delete_old(ledger: TransactionQueue, limit: int) -> int:
    """Delete at most `limit` of either kind that no longer count, or never did. Returns how many."""
    since, until = _span(time.time())
    deleted = 0
    for table in ("guesses", "judging"):
        old = ledger.read(f"SELECT rowid, time FROM {table} WHERE time <= ? OR time > ? LIMIT ?", since, until, limit)
        if old:
            ledger.write_rows(f"DELETE FROM {table} WHERE rowid = ? AND time = ?", old).result()
        deleted += len(old)
    return deleted


def _span(now: float) -> tuple[float, float]:
    """Rows count whose time is after the first, and not after the second."""
    return now - _PERIOD, now + _SKEW
