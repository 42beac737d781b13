"""The registry of drops: which there are, and that one alone gets each. It knows no HTTP and keeps no bytes.

A drop goes from `arriving` to `available`, `claimed` and `gone`. One conditional UPDATE decides a claim, for all
threads, workers and daemons that share the database. What a process was about to bring, or had claimed, when it died
is found by `reap`.
"""

from __future__ import annotations

import functools
import math
import secrets
import sqlite3
import time
from concurrent.futures import Future
from typing import Callable, Dict, List, NamedTuple, Optional

from filestoraged.errors import Gone, NotFound, TooManyGuesses, Unauthorized
from filestoraged.store import database, passwords
from filestoraged.store.database import Schema
from filestoraged.store.ledger import Ledger
from filestoraged.store.presence import Presence

_ARRIVING, _AVAILABLE, _CLAIMED, _GONE = range(4)
_NAMES = ("arriving", "available", "claimed", "gone")

# Conditions on a row. A drop that arrives may have bytes or not, and one that is gone has them until they are removed.
HAS_BYTES = f"state IN ({_AVAILABLE}, {_CLAIMED})"
MAY_HAVE_BYTES = f"(state <> {_GONE} OR removal IS NOT NULL)"

# What SQLite's header says of a file with drops: "fsdr".
APPLICATION = 0x66736472

_SCHEMA = Schema(
    application=APPLICATION,
    version=1,
    tables=(
        # Times are seconds since 1970: `changed` is when it got into its state, `removal` when its bytes may go, NULL
        # where it has none or may still be fetched. `owner` is who brings it or has claimed it, `breaks` counts
        # downloads that broke off.
        """CREATE TABLE IF NOT EXISTS drops (
            id TEXT PRIMARY KEY, state INTEGER NOT NULL, changed REAL NOT NULL, created REAL NOT NULL, owner TEXT,
            name TEXT, password BLOB, breaks INTEGER NOT NULL DEFAULT 0, removal REAL)""",
        "CREATE INDEX IF NOT EXISTS drops_by_state ON drops (state, changed)",
        "CREATE INDEX IF NOT EXISTS drops_by_removal ON drops (removal) WHERE removal IS NOT NULL",
        "CREATE TABLE IF NOT EXISTS guesses (id TEXT NOT NULL, time REAL NOT NULL)",
        "CREATE INDEX IF NOT EXISTS guesses_by_id ON guesses (id, time)",
    ),
)

# So many wrong passwords within so many seconds, and nobody may try another.
_GUESSES = 10
_GUESSES_WITHIN = 60.0

# So many downloads may break off: nobody reads all but the last byte for ever.
_BREAKS = 5

# How long a drop that is gone says so, in seconds.
_TOMBSTONE = 90 * 24 * 3600.0

# Rows that one step of tidying up takes: others who write wait no longer than for that.
_STEP = 100


class Drop(NamedTuple):
    id: str
    name: str
    # As `passwords.kept` made it; None where there is none.
    password: Optional[bytes]


def prepare_drops(path: str) -> None:
    """Make the database, or see that it can be used. Raises StartError."""
    database.prepare(path, _SCHEMA)


class Drops:
    """The database at `path`, which is there. Make it after the fork; many threads use it.

    `ttl` is how long a drop may be fetched, in seconds.
    """

    def __init__(self, path: str, presence: Presence, *, ttl: float) -> None:
        self._ledger = Ledger(path)
        self._presence = presence
        self._ttl = ttl

    def announce(self) -> "Future[str]":
        """Begin a drop, before its bytes are stored under its id, which is returned."""
        id_, owner, now = secrets.token_hex(16), self._presence.token, time.time()

        def insert(connection: sqlite3.Connection) -> str:
            values = (id_, _ARRIVING, now, now, owner)
            connection.execute("INSERT INTO drops (id, state, changed, created, owner) VALUES (?, ?, ?, ?, ?)", values)
            return id_

        return self._ledger.write(insert)

    def publish(self, drop: Drop) -> "Future[None]":
        """Make it available: its bytes are stored."""
        return self._change(
            "UPDATE drops SET state = ?, changed = ?, owner = NULL, name = ?, password = ? WHERE id = ?",
            *(_AVAILABLE, time.time(), drop.name, drop.password, drop.id),
        )

    def retract(self, id_: str) -> "Future[None]":
        """Give up one that was announced. It is removed as if whoever brings it had died."""
        return self._change("UPDATE drops SET owner = NULL WHERE id = ? AND state = ?", id_, _ARRIVING)

    def find(self, id_: str) -> Drop:
        """Raises NotFound, Gone where somebody has it, or had it, and TooManyGuesses."""
        question = "SELECT state, created, name, password FROM drops WHERE id = ?"
        for state, created, name, password in self._ledger.read(question, id_):
            if state == _ARRIVING:
                break
            if state != _AVAILABLE or created + self._ttl <= time.time():
                raise Gone("Somebody has fetched it, or its time is over.")
            if password is not None:
                self._check_guesses(id_)
            return Drop(id_, name, password)
        raise NotFound("There is no drop by that id.")

    def check(self, drop: Drop, password: str) -> None:
        """Compare a password, which takes a while. Raises Unauthorized and TooManyGuesses."""
        # Again: others may have guessed while this one waited for its turn.
        self._check_guesses(drop.id)
        if drop.password is not None and not passwords.matches(password, drop.password):
            self._change("INSERT INTO guesses (id, time) VALUES (?, ?)", drop.id, time.time()).result()
            raise Unauthorized("The password is wrong.")

    def claim(self, id_: str) -> "Future[None]":
        """Take it, alone of all who ask. Raises Gone to the others."""
        owner, now = self._presence.token, time.time()

        def update(connection: sqlite3.Connection) -> None:
            question = "UPDATE drops SET state = ?, changed = ?, owner = ? WHERE id = ? AND state = ?"
            if not connection.execute(question, (_CLAIMED, now, owner, id_, _AVAILABLE)).rowcount:
                raise Gone("Somebody has fetched it, or its time is over.")

        return self._ledger.write(update)

    def finish(self, id_: str, *, keep: float = 0.0) -> "Future[None]":
        """Whoever has claimed it has it. Its bytes are removed `keep` seconds later at the earliest."""
        now = time.time()
        question = "UPDATE drops SET state = ?, changed = ?, owner = NULL, removal = ? WHERE id = ? AND state = ?"
        return self._change(question, _GONE, now, now + keep, id_, _CLAIMED)

    def release(self, id_: str) -> "Future[None]":
        """Its download broke off: it is available again, unless that was so too often."""
        now = time.time()
        return self._change(
            "UPDATE drops SET state = CASE WHEN breaks + 1 > ? THEN ? ELSE ? END,"
            " removal = CASE WHEN breaks + 1 > ? THEN ? END,"
            " changed = ?, owner = NULL, breaks = breaks + 1 WHERE id = ? AND state = ?",
            *(_BREAKS, _GONE, _AVAILABLE, _BREAKS, now, now, id_, _CLAIMED),
        )

    def count(self) -> Dict[str, int]:
        """How many there are in each state."""
        numbers = dict(self._ledger.read("SELECT state, count(*) FROM drops GROUP BY state"))
        return {name: numbers.get(state, 0) for state, name in enumerate(_NAMES)}

    def close(self) -> None:
        self._ledger.close()

    # Tidying up, in small steps. Each returns how much it found to do, and whoever calls goes on until that is 0.

    def reap(self, remove: Callable[[str], None]) -> int:
        """Make available again what the dead had claimed, and have `remove` remove the bytes of what they brought."""
        question = "SELECT DISTINCT owner FROM drops WHERE state IN (?, ?)"
        dead = [owner for (owner,) in self._ledger.read(question, _ARRIVING, _CLAIMED) if not self._is_alive(owner)]
        for owner in dead:
            self._change(
                "UPDATE drops SET state = ?, changed = ?, owner = NULL WHERE state = ? AND owner IS ?",
                *(_AVAILABLE, time.time(), _CLAIMED, owner),
            ).result()
            question = "SELECT id FROM drops WHERE state = ? AND owner IS ?"
            for (id_,) in self._ledger.read(question, _ARRIVING, owner):
                remove(id_)
                self._change("DELETE FROM drops WHERE id = ? AND state = ?", id_, _ARRIVING).result()
        self._presence.sweep()
        return len(dead)

    def expire(self) -> int:
        """Let those go whose time is over."""
        now = time.time()
        return self._in_step(
            "UPDATE drops SET state = ?, changed = ?, removal = ? WHERE id IN"
            " (SELECT id FROM drops WHERE state = ? AND created <= ? LIMIT ?)",
            *(_GONE, now, now, _AVAILABLE, now - self._ttl, _STEP),
        )

    def remove(self, remove: Callable[[str], None]) -> int:
        """Have `remove` remove the bytes of those that are gone."""
        question = "SELECT id FROM drops WHERE removal <= ? LIMIT ?"
        ids = [id_ for (id_,) in self._ledger.read(question, time.time(), _STEP)]
        for id_ in ids:
            remove(id_)
        self._ledger.write(functools.partial(_forget_removal, ids)).result()
        return len(ids)

    def forget(self) -> int:
        """Forget those that are gone for long, and old guesses."""
        now = time.time()
        guesses = self._in_step(
            "DELETE FROM guesses WHERE rowid IN (SELECT rowid FROM guesses WHERE time <= ? LIMIT ?)",
            *(now - _GUESSES_WITHIN, _STEP),
        )
        return guesses + self._in_step(
            "DELETE FROM drops WHERE id IN"
            " (SELECT id FROM drops WHERE state = ? AND changed <= ? AND removal IS NULL LIMIT ?)",
            *(_GONE, now - _TOMBSTONE, _STEP),
        )

    def _check_guesses(self, id_: str) -> None:
        question = "SELECT time FROM guesses WHERE id = ? AND time > ? ORDER BY time DESC LIMIT ?"
        now = time.time()
        times: List[float] = [time_ for (time_,) in self._ledger.read(question, id_, now - _GUESSES_WITHIN, _GUESSES)]
        if len(times) >= _GUESSES:
            raise TooManyGuesses(max(1, min(60, math.ceil(times[-1] + _GUESSES_WITHIN - now))))

    def _is_alive(self, owner: Optional[str]) -> bool:
        return owner is not None and self._presence.is_alive(owner)

    def _change(self, question: str, *values: object) -> "Future[None]":
        def change(connection: sqlite3.Connection) -> None:
            connection.execute(question, values)

        return self._ledger.write(change)

    def _in_step(self, question: str, *values: object) -> int:
        return self._ledger.write(lambda connection: connection.execute(question, values).rowcount).result()


def _forget_removal(ids: List[str], connection: sqlite3.Connection) -> None:
    connection.executemany("UPDATE drops SET removal = NULL WHERE id = ?", [(id_,) for id_ in ids])
