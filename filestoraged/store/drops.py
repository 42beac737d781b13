"""The registry of drops: which there are, and that one alone gets each. It knows no HTTP and keeps no bytes.

A drop goes from `arriving` to `available`, `claimed` and `gone`. One conditional UPDATE decides a claim, for all
threads, workers and daemons that share the database. What a process was about to bring, or had claimed, when it died
is found by `reap`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from filestoraged.errors import Gone, NotFound, StoreUnavailable, TooManyGuesses, Unauthorized
from filestoraged.store import guess_limit, layout, passwords, wall_clock
from filestoraged.store.deferred_writes import DeferredWrites
from filestoraged.store.guess_limit import Guess
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.database import Schema
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.wall_clock import WallClock

_ARRIVING, _AVAILABLE, _CLAIMED, _GONE = range(4)
_NAMES = ("arriving", "available", "claimed", "gone")

# Conditions on a row. A drop that arrives may have bytes or not, and one that is gone has them until they are removed.
HAS_BYTES = f"state IN ({_AVAILABLE}, {_CLAIMED})"
MAY_HAVE_BYTES = f"(state <> {_GONE} OR removal IS NOT NULL)"

# The row of a `Claim` that has not ended.
_BY_CLAIM = f" WHERE id = ? AND owner = ? AND breaks = ? AND state = {_CLAIMED}"

# What SQLite's header says of a file with drops: "fsdr".
APPLICATION = 0x66736472

_SCHEMA = Schema(
    application=APPLICATION,
    version=2,
    tables=(
        # Times are seconds since 1970: `changed` is when it got into its state, `removal` when its bytes may go, NULL
        # where it has none or may still be fetched. `owner` is who brings it or has claimed it, `breaks` counts
        # downloads that broke off.
        """CREATE TABLE IF NOT EXISTS drops (
            id TEXT PRIMARY KEY, state INTEGER NOT NULL, changed REAL NOT NULL, created REAL NOT NULL, owner TEXT,
            name TEXT, password BLOB, breaks INTEGER NOT NULL DEFAULT 0, removal REAL)""",
        "CREATE INDEX IF NOT EXISTS drops_by_state ON drops (state, changed)",
        f"CREATE INDEX IF NOT EXISTS drops_by_creation ON drops (created) WHERE state = {_AVAILABLE}",
        "CREATE INDEX IF NOT EXISTS drops_by_removal ON drops (removal) WHERE removal IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS drops_with_removal ON drops (id) WHERE removal IS NOT NULL",
        # How many there are in each state: counting a million of them takes a tenth of a second. Triggers, so that each
        # transaction keeps them right, of whichever version of this program.
        "CREATE TABLE IF NOT EXISTS counts (state INTEGER PRIMARY KEY, number INTEGER NOT NULL)",
        """INSERT INTO counts (state, number)
            SELECT state, count(id) FROM (SELECT 0 AS state UNION SELECT 1 UNION SELECT 2 UNION SELECT 3)
            LEFT JOIN drops USING (state) WHERE NOT EXISTS (SELECT * FROM counts) GROUP BY state""",
        """CREATE TRIGGER IF NOT EXISTS count_inserted AFTER INSERT ON drops BEGIN
            UPDATE counts SET number = number + 1 WHERE state = new.state; END""",
        """CREATE TRIGGER IF NOT EXISTS count_deleted AFTER DELETE ON drops BEGIN
            UPDATE counts SET number = number - 1 WHERE state = old.state; END""",
        """CREATE TRIGGER IF NOT EXISTS count_changed AFTER UPDATE OF state ON drops WHEN old.state <> new.state BEGIN
            UPDATE counts SET number = number - 1 WHERE state = old.state;
            UPDATE counts SET number = number + 1 WHERE state = new.state; END""",
        *guess_limit.TABLES,
        *wall_clock.TABLES,
    ),
)

# So many downloads may break off: nobody reads all but the last byte for ever.
_BREAKS = 5

# How long a drop that is gone says so, in seconds.
_TOMBSTONE = 90 * 24 * 3600.0

# Seconds. No bytes are kept that long after a download: a row that says so was written while the clock was ahead.
_LONGEST_KEEP = 3600.0

# How long a guess waits for the outcome of others, in seconds, where these and the wrong ones are ten; and how often it
# looks. Hashing takes 50 ms, or some times that where many processes share few processors.
_OUTCOME = 2.0
_LOOK = 0.02

# Rows that one step of tidying up takes: others who write wait no longer than for that, some 10 ms. With fewer, most of
# its time goes into syncs.
_STEP = 400

# Bytes are removed of neighbours by id, most of which lie in one directory: that takes one sync. Those of so many that
# went last do not wait for thousands of others.
_LAST = 10
# Seconds after which a step removes no more: where they are scattered, each takes a sync.
_REMOVING = 0.2
_REMOVABLE = "removal IS NOT NULL AND (removal <= ? OR removal > ?)"
_LAST_REMOVABLE = f"SELECT id FROM drops WHERE {_REMOVABLE} ORDER BY removal DESC LIMIT {_LAST}"
_REMOVABLE_BY_ID = f"""SELECT id FROM drops INDEXED BY drops_with_removal WHERE {_REMOVABLE} AND id > ?
    ORDER BY id LIMIT {_STEP}"""


# Removes the bytes of drops by their ids. Returns the errors of those that could not be removed.
RemoveAll = Callable[[Iterable[str]], Mapping[str, OSError]]


class Drop(NamedTuple):
    id: str
    name: str
    # As `passwords.kept` made it; None where there is none.
    password: bytes | None


class Claim(NamedTuple):
    """Tells a claim of one process from all others: each that ends without a download counts as one more break."""

    id: str
    owner: str
    breaks: int


def prepare_drops(path: str) -> None:
    """Make the database, or see that it can be used. Raises StartError."""
    database.prepare(path, _SCHEMA)


class Drops:
    """The database at `path`, which is there. Make it after the fork; many threads use it.

    `ttl` is how long a drop may be fetched, in seconds.
    """

    def __init__(self, path: str, owners: OwnerFiles, *, ttl: float) -> None:
        self._ledger = TransactionQueue(path, _SCHEMA)
        self._owners = owners
        self._ttl = ttl
        self._clock = WallClock(self._ledger)
        # The last drop whose bytes were tried to be removed, in this pass through all of them.
        self._after = ""
        # What `finish`, `release` and `retract` write.
        self._notes = DeferredWrites(self._ledger.write)

    def announce(self) -> Future[str]:
        """Begin a drop, before its bytes are stored under its id, which is returned."""
        self._notes.require_few()
        id_, owner, now = secrets.token_hex(16), self._owners.token, time.time()

        def insert(connection: sqlite3.Connection) -> str:
            values = (id_, _ARRIVING, now, now, owner)
            connection.execute("INSERT INTO drops (id, state, changed, created, owner) VALUES (?, ?, ?, ?, ?)", values)
            return id_

        return self._ledger.write(insert)

    def publish(self, drop: Drop) -> Future[None]:
        """Make it available: its bytes are stored. Raises StoreUnavailable where it was given up meanwhile."""
        question = (
            "UPDATE drops SET state = ?, changed = ?, owner = NULL, name = ?, password = ? WHERE id = ? AND state = ?"
        )
        values = (_AVAILABLE, time.time(), drop.name, drop.password, drop.id, _ARRIVING)

        def update(connection: sqlite3.Connection) -> None:
            if not connection.execute(question, values).rowcount:
                # Another process took this one for dead, because its lock file was removed.
                raise StoreUnavailable("The drop was given up while it was stored; upload it again.")

        return self._ledger.write(update)

    def retract(self, id_: str) -> Future[None]:
        """Give up one that was announced. It is removed as if whoever brings it had died."""
        return self._note("UPDATE drops SET owner = NULL WHERE id = ? AND state = ?", id_, _ARRIVING)

    def find(self, id_: str) -> Drop:
        """Raises NotFound, Gone where somebody has it, or had it, and TooManyGuesses."""
        question = "SELECT state, created, name, password FROM drops WHERE id = ?"
        for state, created, name, password in self._ledger.read(question, id_):
            if state == _ARRIVING:
                break
            if state != _AVAILABLE or created + self._ttl <= time.time():
                raise _gone()
            if password is not None:
                guess_limit.require_few(self._ledger, id_)
            return Drop(id_, name, password)
        raise NotFound("There is no drop by that id.")

    def check(self, drop: Drop, password: str) -> None:
        """Compare a password, which takes a while. Raises Unauthorized, TooManyGuesses, and Gone."""
        guess = self._record_guess(drop.id)
        if drop.password is None or passwords.matches(password, drop.password):
            # Nobody waits: it counts for a minute where this fails.
            self._ledger.write(functools.partial(guess_limit.settle_right, guess=guess))
        else:
            self._ledger.write(functools.partial(guess_limit.settle_wrong, guess=guess)).result()
            raise Unauthorized("The password is wrong.")

    def claim(self, id_: str) -> Future[Claim]:
        """Take it, alone of all who ask. Raises Gone to the others."""
        self._notes.require_few()
        owner, now = self._owners.token, time.time()

        def update(connection: sqlite3.Connection) -> Claim:
            question = "UPDATE drops SET state = ?, changed = ?, owner = ? WHERE id = ? AND state = ?"
            if not connection.execute(question, (_CLAIMED, now, owner, id_, _AVAILABLE)).rowcount:
                raise _gone()
            ((breaks,),) = connection.execute("SELECT breaks FROM drops WHERE id = ?", (id_,))
            return Claim(id_, owner, breaks)

        return self._ledger.write(update)

    def hand_over(self, claim: Claim, *, keep: float) -> Future[None]:
        """Let it go before its bytes are sent, by somebody else. They are removed `keep` seconds later at the earliest.

        Where that fails, it is still claimed.
        """
        now = time.time()
        question = "UPDATE drops SET state = ?, changed = ?, owner = NULL, removal = ?"
        return self._ledger.write(functools.partial(_execute, question + _BY_CLAIM, (_GONE, now, now + keep, *claim)))

    def finish(self, claim: Claim) -> Future[None]:
        """Its bytes have been received. This is written, and until then nobody else gets it."""
        now = time.time()
        question = "UPDATE drops SET state = ?, changed = ?, owner = NULL, removal = ?"
        write = functools.partial(_execute, question + _BY_CLAIM, (_GONE, now, now, *claim))
        return self._notes.submit(write, claim.id)

    def release(self, claim: Claim) -> Future[None]:
        """Its download broke off: it is available again, unless that was so too often. This is written as well."""
        now = time.time()
        return self._note(
            "UPDATE drops SET state = CASE WHEN breaks + 1 > ? THEN ? ELSE ? END,"
            " removal = CASE WHEN breaks + 1 > ? THEN ? END,"
            " changed = ?, owner = NULL, breaks = breaks + 1" + _BY_CLAIM,
            *(_BREAKS, _GONE, _AVAILABLE, _BREAKS, now, now, *claim),
        )

    def count(self) -> dict[str, int]:
        """How many there are in each state."""
        numbers = dict(self._ledger.read("SELECT state, number FROM counts"))
        return {name: numbers.get(state, 0) for state, name in enumerate(_NAMES)}

    def probe(self) -> None:
        """See whether it can be written. Raises an Error or OSError."""
        self._ledger.probe()

    def flush(self) -> None:
        """Wait until all that was finished, released or retracted is written."""
        self._notes.flush()

    def close(self) -> None:
        self._ledger.close()

    # Tidying up, in small steps. Each returns how much it found to do, and whoever calls goes on until that is 0.

    def retry(self, remove: Callable[[str], None]) -> None:
        """Write what could not be written before.

        First `remove` removes the bytes of drops that are finished: should this process die before that is written,
        the drop is available again, and without its bytes it is not given twice.
        """
        for id_ in self._notes.unwritten:
            with contextlib.suppress(OSError):
                remove(id_)
        self._notes.retry()

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
        self._owners.sweep()
        return len(dead)

    def expire(self) -> int:
        """Let those go whose time is over."""
        now = self._clock.settled()
        if now is None:
            return 0
        # Searched without the write lock. Of two indexes SQLite prefers the one that would read all that is available.
        question = f"""SELECT id FROM drops INDEXED BY drops_by_creation WHERE state = {_AVAILABLE} AND created <= ?
            LIMIT ?"""
        changes = [(_GONE, now, now, id_, _AVAILABLE) for (id_,) in self._ledger.read(question, now - self._ttl, _STEP)]
        return self._in_step("UPDATE drops SET state = ?, changed = ?, removal = ? WHERE id = ? AND state = ?", changes)

    def remove_last(self, remove_all: RemoveAll) -> int:
        """Have `remove_all` remove the bytes of those that went last: no drop that is fetched waits for thousands."""
        return self._remove(self._removable(_LAST_REMOVABLE), remove_all)

    def remove(self, remove_all: RemoveAll) -> int:
        """Have `remove_all` remove the bytes of those that are gone."""
        ids = self._removable(_REMOVABLE_BY_ID, self._after)
        if not ids and self._after:
            ids = self._removable(_REMOVABLE_BY_ID, "")
        # Behind those that cannot be removed, so that others do not wait for them.
        self._after = ids[-1] if len(ids) == _STEP else ""
        return self._remove(ids, remove_all)

    def forget(self) -> int:
        """Forget those that are gone for long, and old guesses."""
        forgotten = guess_limit.delete_old(self._ledger, _STEP)
        now = self._clock.settled()
        if now is None:
            return forgotten
        question = "SELECT id FROM drops WHERE state = ? AND changed <= ? AND removal IS NULL LIMIT ?"
        ids = self._ledger.read(question, _GONE, now - _TOMBSTONE, _STEP)
        return forgotten + self._in_step("DELETE FROM drops WHERE id = ?", ids)

    def _removable(self, question: str, *values: object) -> list[str]:
        now = time.time()
        return sorted(id_ for (id_,) in self._ledger.read(question, now, now + _LONGEST_KEEP, *values))

    def _remove(self, ids: Sequence[str], remove_all: RemoveAll) -> int:
        deadline = time.monotonic() + _REMOVING
        removed: list[str] = []
        failed: dict[str, OSError] = {}
        for _, group in itertools.groupby(ids, layout.shard):
            tried = list(group)
            failed.update(remove_all(tried))
            removed += [id_ for id_ in tried if id_ not in failed]
            if time.monotonic() > deadline:
                break
        self._in_step("UPDATE drops SET removal = NULL WHERE id = ?", [(id_,) for id_ in removed])
        # Where some were removed, others may be in the next step.
        if failed and not removed:
            raise next(iter(failed.values()))
        return len(removed)

    def _record_guess(self, id_: str) -> Guess:
        """Raises TooManyGuesses, and Gone where somebody has had the drop meanwhile."""
        deadline = time.monotonic() + _OUTCOME

        def record(connection: sqlite3.Connection) -> Guess | None:
            if not connection.execute("SELECT 1 FROM drops WHERE id = ? AND state = ?", (id_, _AVAILABLE)).fetchone():
                raise _gone()
            return guess_limit.record(connection, id_)

        while True:
            guess = self._ledger.write(record).result()
            if guess is not None:
                return guess
            guess_limit.require_few(self._ledger, id_)
            # Some are being judged by other processes, and may be right.
            if time.monotonic() >= deadline:
                raise TooManyGuesses(1)
            time.sleep(_LOOK)

    def _is_alive(self, owner: str | None) -> bool:
        return owner is not None and self._owners.is_alive(owner)

    def _change(self, question: str, *values: object) -> Future[None]:
        return self._ledger.write(functools.partial(_execute, question, values))

    def _note(self, question: str, *values: object) -> Future[None]:
        return self._notes.submit(functools.partial(_execute, question, values))

    def _in_step(self, question: str, rows: Sequence[Sequence[object]]) -> int:
        if rows:
            self._ledger.write_rows(question, rows).result()
        return len(rows)


def _gone() -> Gone:
    return Gone("Somebody has fetched it, or its time is over.")


def _execute(question: str, values: Sequence[object], connection: sqlite3.Connection) -> None:
    connection.execute(question, values)
