"""The registry of drops: their states, and who claims each, exactly once. It knows no HTTP and holds no bytes.

A drop goes from `arriving` to `available`, `claimed` and `gone`. One conditional UPDATE decides a claim, for all
threads, workers and daemons that share the database. `reap` finds drops that a process was uploading, or had claimed,
when it died.
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
_STATE_NAMES = ("arriving", "available", "claimed", "gone")

# Conditions on a row. An arriving drop may have bytes, and one that is gone has them until they are removed.
HAS_BYTES = f"state IN ({_AVAILABLE}, {_CLAIMED})"
MAY_HAVE_BYTES = f"(state <> {_GONE} OR removal IS NOT NULL)"

# Selects the row of a `Claim` that has not ended.
_BY_CLAIM = f" WHERE id = ? AND owner = ? AND breaks = ? AND state = {_CLAIMED}"

# The application id in the header of the SQLite file: "fsdr".
APPLICATION = 0x66736472

_DROPS_SCHEMA = Schema(
    application=APPLICATION,
    version=2,
    tables=(
        # Times are seconds since 1970: `changed` is when the state was set, `removal` when the bytes may be removed,
        # NULL if there are none or the drop is available. `owner` is the process that uploads or has claimed it,
        # `breaks` counts downloads that broke off.
        """CREATE TABLE IF NOT EXISTS drops (
            id TEXT PRIMARY KEY, state INTEGER NOT NULL, changed REAL NOT NULL, created REAL NOT NULL, owner TEXT,
            name TEXT, password BLOB, breaks INTEGER NOT NULL DEFAULT 0, removal REAL)""",
        "CREATE INDEX IF NOT EXISTS drops_by_state ON drops (state, changed)",
        f"CREATE INDEX IF NOT EXISTS drops_by_creation ON drops (created) WHERE state = {_AVAILABLE}",
        "CREATE INDEX IF NOT EXISTS drops_by_removal ON drops (removal) WHERE removal IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS drops_with_removal ON drops (id) WHERE removal IS NOT NULL",
        # The number of drops in each state: counting a million rows takes a tenth of a second. Triggers update it in
        # each transaction, whichever version of this program writes.
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
        *guess_limit.GUESS_TABLES,
        *wall_clock.CLOCK_TABLES,
    ),
)

# The maximum number of downloads that may break off, so that a client cannot read all but the last byte repeatedly.
_MAX_BREAKS = 5

# Seconds for which the row of a drop that is gone is kept, to answer 410.
_TOMBSTONE_TTL = 90 * 24 * 3600.0

# Seconds. Bytes are never kept that long after a download: a later `removal` was written while the clock was ahead.
_MAX_KEEP = 3600.0

# Seconds: how long a guess waits for the outcome of others if ten are wrong or being judged, and how often it checks.
# Hashing takes 50 ms, and several times that if many processes share few processors.
_OUTCOME_TIMEOUT = 2.0
_OUTCOME_POLL = 0.02

# Rows in one step of the janitor: other writers wait for it, about 10 ms. With fewer rows, most of its time would be
# spent in syncs.
_ROWS_PER_STEP = 400

# Bytes are removed in the order of ids, since drops of one directory take one sync together. This many of the latest
# ones are removed first, so that they do not wait for thousands of others.
_LATEST = 10
# Seconds after which a step ends: drops in different directories take a sync each.
_REMOVAL_TIME = 0.2
_REMOVABLE = "removal IS NOT NULL AND (removal <= ? OR removal > ?)"
_LATEST_REMOVABLE = f"SELECT id FROM drops WHERE {_REMOVABLE} ORDER BY removal DESC LIMIT {_LATEST}"
_REMOVABLE_BY_ID = f"""SELECT id FROM drops INDEXED BY drops_with_removal WHERE {_REMOVABLE} AND id > ?
    ORDER BY id LIMIT {_ROWS_PER_STEP}"""


# Removes the bytes of drops by their ids. Returns the errors of those that remain.
RemoveAll = Callable[[Iterable[str]], Mapping[str, OSError]]


class Drop(NamedTuple):
    id: str
    name: str
    # In the form of `passwords.kept`; None without a password.
    password: bytes | None


class Claim(NamedTuple):
    """Identifies one claim: each claim that ends without a download increments `breaks`."""

    id: str
    owner: str
    breaks: int


def prepare_drops(path: str) -> None:
    """Make the database, or check that it can be used. Raises StartError and StorageFull."""
    database.prepare(path, _DROPS_SCHEMA)


class Drops:
    """The database at `path`, which exists. Make it after the fork. Any thread calls it.

    Methods that return a future raise Unavailable if the job cannot be queued.
    """

    def __init__(self, path: str, owners: OwnerFiles, *, ttl: float) -> None:
        """Drops expire `ttl` seconds after their upload."""
        self._transactions = TransactionQueue(path, _DROPS_SCHEMA)
        self._owners = owners
        self._ttl = ttl
        self._clock = WallClock(self._transactions)
        # The id at which the next step of `remove` continues.
        self._after = ""
        # The changes of `finish`, `release` and `retract`.
        self._deferred = DeferredWrites(self._transactions.write)

    def announce(self) -> Future[str]:
        """Insert an arriving drop. Returns the id under which the caller stores its bytes."""
        self._deferred.raise_if_behind()
        id_, owner, now = secrets.token_hex(16), self._owners.token, time.time()

        def insert(connection: sqlite3.Connection) -> str:
            values = (id_, _ARRIVING, now, now, owner)
            connection.execute("INSERT INTO drops (id, state, changed, created, owner) VALUES (?, ?, ?, ?, ?)", values)
            return id_

        return self._transactions.write(insert)

    def publish(self, drop: Drop) -> Future[None]:
        """Make the drop available after its bytes were stored. Raises StoreUnavailable if it was reaped meanwhile."""
        statement = (
            "UPDATE drops SET state = ?, changed = ?, owner = NULL, name = ?, password = ? WHERE id = ? AND state = ?"
        )
        values = (_AVAILABLE, time.time(), drop.name, drop.password, drop.id, _ARRIVING)

        def update(connection: sqlite3.Connection) -> None:
            if not connection.execute(statement, values).rowcount:
                # Another process took this one for dead, because its lock file was removed.
                raise StoreUnavailable("The drop was removed while it was stored; upload it again.")

        return self._transactions.write(update)

    def retract(self, id_: str) -> Future[None]:
        """Give up an arriving drop. `reap` removes it like that of a dead process."""
        return self._defer("UPDATE drops SET owner = NULL WHERE id = ? AND state = ?", id_, _ARRIVING)

    def get(self, id_: str) -> Drop:
        """Look up an available drop. Raises NotFound, Gone if it was claimed or has expired, and TooManyGuesses."""
        statement = "SELECT state, created, name, password FROM drops WHERE id = ?"
        for state, created, name, password in self._transactions.read(statement, id_):
            if state == _ARRIVING:
                break
            if state != _AVAILABLE or created + self._ttl <= time.time():
                raise _gone()
            if password is not None:
                guess_limit.raise_if_too_many(self._transactions, id_)
            return Drop(id_, name, password)
        raise NotFound("There is no drop with this id.")

    def check(self, drop: Drop, password: str) -> None:
        """Compare a password, which takes 50 ms. Raises Unauthorized, TooManyGuesses and Gone."""
        guess = self._record_guess(drop.id)
        if drop.password is None or passwords.matches(password, drop.password):
            # Not waited for: if this fails, the guess counts for a minute.
            self._transactions.write(functools.partial(guess_limit.settle_right, guess=guess))
        else:
            self._transactions.write(functools.partial(guess_limit.settle_wrong, guess=guess)).result()
            raise Unauthorized("The password is wrong.")

    def claim(self, id_: str) -> Future[Claim]:
        """Claim the drop. Of all claims one succeeds, the others raise Gone."""
        self._deferred.raise_if_behind()
        owner, now = self._owners.token, time.time()

        def update(connection: sqlite3.Connection) -> Claim:
            statement = "UPDATE drops SET state = ?, changed = ?, owner = ? WHERE id = ? AND state = ?"
            if not connection.execute(statement, (_CLAIMED, now, owner, id_, _AVAILABLE)).rowcount:
                raise _gone()
            ((breaks,),) = connection.execute("SELECT breaks FROM drops WHERE id = ?", (id_,))
            return Claim(id_, owner, breaks)

        return self._transactions.write(update)

    def hand_over(self, claim: Claim, *, keep: float) -> Future[None]:
        """End a claim before another process sends the bytes, which are removed `keep` seconds later at the earliest.

        If this fails, the drop is still claimed.
        """
        now = time.time()
        statement = "UPDATE drops SET state = ?, changed = ?, owner = NULL, removal = ?"
        return self._transactions.write(
            functools.partial(_execute, statement + _BY_CLAIM, (_GONE, now, now + keep, *claim))
        )

    def finish(self, claim: Claim) -> Future[None]:
        """End a claim whose bytes were received. Retried until it is written; until then the drop stays claimed."""
        now = time.time()
        statement = "UPDATE drops SET state = ?, changed = ?, owner = NULL, removal = ?"
        write = functools.partial(_execute, statement + _BY_CLAIM, (_GONE, now, now, *claim))
        return self._deferred.submit(write, claim.id)

    def release(self, claim: Claim) -> Future[None]:
        """End a claim whose download broke off: the drop is available again, up to _MAX_BREAKS times. Retried, too."""
        now = time.time()
        return self._defer(
            "UPDATE drops SET state = CASE WHEN breaks + 1 > ? THEN ? ELSE ? END,"
            " removal = CASE WHEN breaks + 1 > ? THEN ? END,"
            " changed = ?, owner = NULL, breaks = breaks + 1" + _BY_CLAIM,
            *(_MAX_BREAKS, _GONE, _AVAILABLE, _MAX_BREAKS, now, now, *claim),
        )

    def count(self) -> dict[str, int]:
        """The number of drops in each state."""
        numbers = dict(self._transactions.read("SELECT state, number FROM counts"))
        return {name: numbers.get(state, 0) for state, name in enumerate(_STATE_NAMES)}

    def probe(self) -> None:
        """Check that the database can be written. Raises an Error or OSError."""
        self._transactions.probe()

    def flush(self) -> None:
        """Wait until all deferred changes are written."""
        self._deferred.flush()

    def close(self) -> None:
        self._transactions.close()

    # Steps of the janitor. Each returns how many drops it processed; the janitor repeats them until that is 0.

    def retry(self, remove: Callable[[str], None]) -> None:
        """Write the deferred changes that failed.

        First call `remove` for the bytes of drops that are finished: if this process dies before that is written, the
        drop is available again, and without its bytes it cannot be sent twice.
        """
        for id_ in self._deferred.unwritten:
            with contextlib.suppress(OSError):
                remove(id_)
        self._deferred.retry()

    def reap(self, remove: Callable[[str], None]) -> int:
        """Make drops available that dead processes had claimed, and remove those that they were uploading."""
        statement = "SELECT DISTINCT owner FROM drops WHERE state IN (?, ?)"
        dead = [
            owner for (owner,) in self._transactions.read(statement, _ARRIVING, _CLAIMED) if not self._is_alive(owner)
        ]
        for owner in dead:
            self._change(
                "UPDATE drops SET state = ?, changed = ?, owner = NULL WHERE state = ? AND owner IS ?",
                *(_AVAILABLE, time.time(), _CLAIMED, owner),
            ).result()
            statement = "SELECT id FROM drops WHERE state = ? AND owner IS ?"
            for (id_,) in self._transactions.read(statement, _ARRIVING, owner):
                remove(id_)
                self._change("DELETE FROM drops WHERE id = ? AND state = ?", id_, _ARRIVING).result()
        self._owners.sweep()
        return len(dead)

    def expire(self) -> int:
        """End drops whose ttl has passed."""
        now = self._clock.settled()
        if now is None:
            return 0
        # Selected without the write lock. Of two indexes SQLite would choose the one that reads all available drops.
        statement = f"""SELECT id FROM drops INDEXED BY drops_by_creation WHERE state = {_AVAILABLE} AND created <= ?
            LIMIT ?"""
        changes = [
            (_GONE, now, now, id_, _AVAILABLE)
            for (id_,) in self._transactions.read(statement, now - self._ttl, _ROWS_PER_STEP)
        ]
        return self._write_rows(
            "UPDATE drops SET state = ?, changed = ?, removal = ? WHERE id = ? AND state = ?", changes
        )

    def remove_latest(self, remove_all: RemoveAll) -> int:
        """Remove the bytes of the drops that ended last, which do not wait for thousands of others."""
        return self._remove(self._removable(_LATEST_REMOVABLE), remove_all)

    def remove(self, remove_all: RemoveAll) -> int:
        """Remove the bytes of drops that are gone."""
        ids = self._removable(_REMOVABLE_BY_ID, self._after)
        if not ids and self._after:
            ids = self._removable(_REMOVABLE_BY_ID, "")
        # Continue after drops that cannot be removed, so that others do not wait for them.
        self._after = ids[-1] if len(ids) == _ROWS_PER_STEP else ""
        return self._remove(ids, remove_all)

    def delete_old(self) -> int:
        """Delete the rows of drops that have been gone for long, and old guesses."""
        deleted = guess_limit.delete_old(self._transactions, _ROWS_PER_STEP)
        now = self._clock.settled()
        if now is None:
            return deleted
        statement = "SELECT id FROM drops WHERE state = ? AND changed <= ? AND removal IS NULL LIMIT ?"
        ids = self._transactions.read(statement, _GONE, now - _TOMBSTONE_TTL, _ROWS_PER_STEP)
        return deleted + self._write_rows("DELETE FROM drops WHERE id = ?", ids)

    def _removable(self, statement: str, *values: object) -> list[str]:
        now = time.time()
        return sorted(id_ for (id_,) in self._transactions.read(statement, now, now + _MAX_KEEP, *values))

    def _remove(self, ids: Sequence[str], remove_all: RemoveAll) -> int:
        deadline = time.monotonic() + _REMOVAL_TIME
        removed: list[str] = []
        failed: dict[str, OSError] = {}
        for _, group in itertools.groupby(ids, layout.shard):
            tried = list(group)
            failed.update(remove_all(tried))
            removed += [id_ for id_ in tried if id_ not in failed]
            if time.monotonic() > deadline:
                break
        self._write_rows("UPDATE drops SET removal = NULL WHERE id = ?", [(id_,) for id_ in removed])
        # If some were removed, the next step may remove others.
        if failed and not removed:
            raise next(iter(failed.values()))
        return len(removed)

    def _record_guess(self, id_: str) -> Guess:
        """Record a guess. Raises TooManyGuesses, and Gone if the drop was claimed meanwhile."""
        deadline = time.monotonic() + _OUTCOME_TIMEOUT

        def record(connection: sqlite3.Connection) -> Guess | None:
            if not connection.execute("SELECT 1 FROM drops WHERE id = ? AND state = ?", (id_, _AVAILABLE)).fetchone():
                raise _gone()
            return guess_limit.record(connection, id_)

        while True:
            guess = self._transactions.write(record).result()
            if guess is not None:
                return guess
            guess_limit.raise_if_too_many(self._transactions, id_)
            # Other processes are judging guesses that may be right.
            if time.monotonic() >= deadline:
                raise TooManyGuesses(1)
            time.sleep(_OUTCOME_POLL)

    def _is_alive(self, owner: str | None) -> bool:
        return owner is not None and self._owners.is_alive(owner)

    def _change(self, statement: str, *values: object) -> Future[None]:
        return self._transactions.write(functools.partial(_execute, statement, values))

    def _defer(self, statement: str, *values: object) -> Future[None]:
        return self._deferred.submit(functools.partial(_execute, statement, values))

    def _write_rows(self, statement: str, rows: Sequence[Sequence[object]]) -> int:
        if rows:
            self._transactions.write_rows(statement, rows).result()
        return len(rows)


def _gone() -> Gone:
    return Gone("The drop has been fetched or has expired.")


def _execute(statement: str, values: Sequence[object], connection: sqlite3.Connection) -> None:
    connection.execute(statement, values)
