"""Limits wrong passwords of drops: ten per minute for each drop, in all processes together.

A guess is recorded before its password is hashed, in the transaction that counts earlier guesses. So the limit holds
for any number of simultaneous guesses. The table `judging` has guesses whose outcome is open, `guesses` the wrong ones;
a right one is deleted. A guess whose process died while it judged counts until its minute has passed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from filestoraged.errors import TooManyGuesses
from filestoraged.store.transactions import Transaction, Transactions

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

# A row counts in this span of time. One that lies further ahead does not.
_SPAN = f"time > epoch() - {_PERIOD} AND time <= epoch() + {_MAX_SKEW}"

_RECORD = f"""INSERT INTO judging (id, time) SELECT ?, ? WHERE
    (SELECT count(*) FROM guesses WHERE id = ? AND {_SPAN})
    + (SELECT count(*) FROM judging WHERE id = ? AND {_SPAN}) < {_MAX_GUESSES}"""


class Guess(NamedTuple):
    """A guess whose outcome is open."""

    row: int
    id: str
    time: float


def record(transaction: Transaction, id_: str) -> Guess | None:
    """Record a guess, within a transaction. Returns None if too many are wrong or being judged."""
    transaction.serialize(id_)
    # Read within the transaction, so that no earlier guess has a later time.
    ((now,),) = transaction.execute("SELECT epoch()")
    row = transaction.insert(_RECORD, (id_, now, id_, id_))
    return None if row is None else Guess(row, id_, now)


def settle_right(transaction: Transaction, guess: Guess) -> None:
    """Delete a guess that was right, within a transaction."""
    # The row id alone does not identify it: after a minute it may have been deleted, and its row id reused.
    transaction.execute("DELETE FROM judging WHERE rowid = ? AND id = ? AND time = ?", guess)


def settle_wrong(transaction: Transaction, guess: Guess) -> None:
    """Record that a guess was wrong, within a transaction."""
    settle_right(transaction, guess)
    transaction.execute("INSERT INTO guesses (id, time) VALUES (?, epoch())", (guess.id,))


def raise_if_too_many(transactions: Transactions, id_: str) -> None:
    """Raise TooManyGuesses after too many wrong guesses."""
    statement = f"SELECT epoch() - time FROM guesses WHERE id = ? AND {_SPAN} ORDER BY time DESC LIMIT ?"
    ages = [age for (age,) in transactions.read(statement, id_, _MAX_GUESSES)]
    if len(ages) >= _MAX_GUESSES:
        raise TooManyGuesses(max(1, min(int(_PERIOD), math.ceil(_PERIOD - ages[-1]))))


def delete_old(transactions: Transactions, limit: int) -> int:
    """Delete at most `limit` guesses of each table that do not count. Returns how many."""
    deleted = 0
    for table in ("guesses", "judging"):
        old = transactions.read(f"SELECT rowid, time FROM {table} WHERE NOT ({_SPAN}) LIMIT ?", limit)
        if old:
            transactions.write_rows(f"DELETE FROM {table} WHERE rowid = ? AND time = ?", old).result()
        deleted += len(old)
    return deleted
