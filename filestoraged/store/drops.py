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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, Gone, NotFound, StoreUnavailable, TooManyGuesses, Unauthorized
from filestoraged.future import Future
from filestoraged.store import guess_limit, layout
from filestoraged.store.deferred_writes import DeferredWrites
from filestoraged.store.drop_tables import ARRIVING, AVAILABLE, CLAIMED, GONE, STATE_NAMES
from filestoraged.store.guess_limit import Guess
from filestoraged.store.passwords import PASSWORDS, Passwords
from filestoraged.store.transactions import Owners, ServiceTables, Transaction, Transactions
from filestoraged.store.wall_clock import JUDGED_TIME, WallClock

# Selects the row of a `Claim` that has not ended, which may be sealed.
_BY_CLAIM = f" WHERE id = ? AND owner = ? AND breaks = ? AND state IN ({CLAIMED}, {GONE})"

# The maximum number of downloads that may break off, so that a client cannot read all but the last byte repeatedly.
_MAX_BREAKS = 5

# `breaks` has the number of downloads that broke off in its last bits, and above them that of claims that were given
# back: each end of a claim changes it, so that the same end, written twice, cannot end the next claim.
_BREAKS_MASK = 7
_GIVEN_BACK = _BREAKS_MASK + 1
# The column has 32 bits in PostgreSQL. The number of claims starts again at 0 after 134 million.
_ALL_BITS = 2**30 - 1

# Seconds for which the row of a drop that is gone is kept, to answer 410.
_TOMBSTONE_TTL = 90 * 24 * 3600.0

# Seconds. Bytes are never kept that long after a download: a later `removal` was written while the clock was ahead.
_MAX_KEEP = 3600.0

# Seconds for which the bytes of a sealed drop are kept for a process that may still send them.
_MAX_SENDING = 600.0

# Seconds: how long a guess waits for the outcome of others if ten are wrong or being judged, and how often it checks.
# Hashing takes 50 ms, and several times that if many processes share few processors.
_OUTCOME_TIMEOUT = 5.0
_OUTCOME_POLL = 0.02

# Rows in one step of the janitor: other writers wait for it, about 10 ms. With fewer rows, most of its time would be
# spent in syncs.
_ROWS_PER_STEP = 400

# Bytes are removed in the order of ids, since drops of one directory take one sync together. This many of the latest
# ones are removed first, so that they do not wait for thousands of others.
_LATEST = 10
# Seconds after which a step ends: drops in different directories take a sync each.
_REMOVAL_TIME = 0.2
# A drop that has an owner is sealed or handed over, and its bytes may still be sent: a jump of the clock must not end
# that. Without one, its bytes are removable since it ended.
_REMOVABLE = f"""removal IS NOT NULL AND (
    removal <= CASE WHEN owner IS NULL THEN epoch() ELSE {JUDGED_TIME} END OR removal > epoch() + {_MAX_KEEP})"""
_LATEST_REMOVABLE = f"SELECT id FROM drops WHERE {_REMOVABLE} ORDER BY removal DESC LIMIT {_LATEST}"
_REMOVABLE_BY_ID = f"""SELECT id FROM drops INDEXED BY drops_with_removal WHERE {_REMOVABLE} AND id > ?
    ORDER BY id LIMIT {_ROWS_PER_STEP}"""


# Removes the bytes of drops by their ids. Returns the errors of those that remain.
RemoveAll = Callable[[Iterable[str]], Mapping[str, Exception]]


class Drop(NamedTuple):
    id: str
    name: str
    # In the form of `Passwords.kept`; None without a password.
    password: bytes | None


class Claim(NamedTuple):
    """Identifies one claim: each claim that ends without a download changes `breaks`."""

    id: str
    owner: str
    breaks: int


class Drops(ServiceTables):
    """Make it after the fork. Any thread calls it. If it `is_remote`, a claim can be lost while its process lives.

    Methods that return a future raise Unavailable if the job cannot be queued.
    """

    def __init__(
        self,
        transactions: Transactions,
        owners: Owners,
        *,
        ttl: float,
        passwords: Passwords = PASSWORDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Drops expire `ttl` seconds after their upload. The database has the tables of DROPS_SCHEMA."""
        super().__init__(transactions)
        self._owners = owners
        self._ttl = ttl
        self._passwords = passwords
        self._clock = clock
        self._wall_clock = WallClock(transactions, clock)
        # The id at which the next step of `remove` continues.
        self._after = ""
        # The changes of `finish`, `release` and `retract`.
        self._deferred = DeferredWrites(transactions.free)

    def announce(self) -> Future[str]:
        """Insert an arriving drop. Returns the id under which the caller stores its bytes."""
        self._deferred.raise_if_behind()
        self._owners.prepare()
        id_ = secrets.token_hex(16)

        def insert(transaction: Transaction) -> str:
            statement = "INSERT INTO drops (id, state, changed, created, owner) VALUES (?, ?, epoch(), epoch(), ?)"
            transaction.execute(statement, (id_, ARRIVING, self._owners.token))
            return id_

        return self.transactions.write(insert)

    def publish(self, drop: Drop) -> Future[None]:
        """Make the drop available after its bytes were stored. Raises StoreUnavailable if it was reaped meanwhile."""
        # Without an owner it is being reaped.
        statement = f"""UPDATE drops SET state = ?, changed = epoch(), owner = NULL, name = ?, password = ?
            WHERE id = ? AND state = {ARRIVING} AND owner IS NOT NULL"""
        values = (AVAILABLE, self.transactions.encode(drop.name), drop.password, drop.id)

        def update(transaction: Transaction) -> None:
            if not transaction.execute(statement, values).rowcount:
                # Another process took this one for dead: its lock file was removed, or its connection lost.
                raise StoreUnavailable("The drop was removed while it was stored; upload it again.")

        return self.transactions.write(update)

    def retract(self, id_: str) -> Future[None]:
        """Give up an arriving drop. `reap` removes it like that of a dead process."""

        def update(transaction: Transaction) -> None:
            transaction.execute("UPDATE drops SET owner = NULL WHERE id = ? AND state = ?", (id_, ARRIVING))
            # One that was reaped may have got its bytes afterwards: it is reaped once more.
            statement = """INSERT INTO drops (id, state, changed, created) SELECT ?, ?, epoch(), epoch()
                WHERE NOT EXISTS (SELECT 1 FROM drops WHERE id = ?)"""
            transaction.execute(statement, (id_, ARRIVING, id_))

        return self._deferred.submit(update)

    def get(self, id_: str) -> Drop:
        """Look up an available drop. Raises NotFound, Gone if it was claimed or has expired, and TooManyGuesses."""
        statement = f"SELECT state, {JUDGED_TIME} - created, name, password FROM drops WHERE id = ?"
        for state, age, name, password in self.transactions.read(statement, id_):
            if state == ARRIVING:
                break
            if state != AVAILABLE or age >= self._ttl:
                raise _gone()
            if password is not None:
                guess_limit.raise_if_too_many(self.transactions, id_)
            return Drop(id_, self.transactions.decode(name), password)
        raise NotFound("There is no drop with this id.")

    def check(self, drop: Drop, password: str) -> None:
        """Compare a password, which takes 50 ms. Raises Unauthorized, TooManyGuesses and Gone."""
        guess = self._record_guess(drop.id)
        if drop.password is None or self._passwords.matches(password, drop.password):
            # Not waited for: if this fails, the guess counts for a minute.
            self.transactions.write(functools.partial(guess_limit.settle_right, guess=guess))
        else:
            self.transactions.write(functools.partial(guess_limit.settle_wrong, guess=guess)).result()
            raise Unauthorized("The password is wrong.")

    def claim(self, id_: str) -> Future[Claim]:
        """Claim the drop. Of all claims one succeeds, the others raise Gone."""
        self._deferred.raise_if_behind()
        self._owners.prepare()

        def update(transaction: Transaction) -> Claim:
            owner = self._owners.token
            available = f"SELECT id FROM drops WHERE id = ? AND state = ?{transaction.skip_locked}"
            statement = f"UPDATE drops SET state = ?, changed = epoch(), owner = ? WHERE id IN ({available})"
            if not transaction.execute(statement, (CLAIMED, owner, id_, AVAILABLE)).rowcount:
                raise _gone()
            ((breaks,),) = transaction.execute("SELECT breaks FROM drops WHERE id = ?", (id_,))
            return Claim(id_, owner, breaks)

        return self.transactions.free(update)

    def seal(self, claim: Claim) -> Future[None]:
        """Confirm a claim before its last byte is sent: the drop is gone for all others, even if this process dies.

        Only `finish` and `release` change it then. Raises Gone if the claim was lost, because this process lost its
        connection to the database. If the outcome is unknown, the last byte must not be sent.
        """
        return self.hand_over(claim, keep=_MAX_SENDING)

    def hand_over(self, claim: Claim, *, keep: float) -> Future[None]:
        """End a claim before another process sends the bytes, which are removed `keep` seconds later at the earliest.

        If this fails, the drop is still claimed, or its outcome is unknown: `release` undoes both. Raises Gone if the
        claim was lost.
        """
        # The owner stays, so that `release` finds it.
        statement = f"UPDATE drops SET state = {GONE}, changed = epoch(), removal = epoch() + ?{_BY_CLAIM}"

        def update(transaction: Transaction) -> None:
            if not transaction.execute(statement, (keep, *claim)).rowcount:
                raise Gone("The claim on this drop was lost.")

        return self.transactions.free(update)

    def finish(self, claim: Claim) -> Future[None]:
        """End a claim whose bytes were received. Retried until it is written; until then the drop stays claimed."""
        statement = "UPDATE drops SET state = ?, changed = epoch(), owner = NULL, removal = epoch()"
        return self._deferred.submit(functools.partial(_execute, statement + _BY_CLAIM, (GONE, *claim)), claim.id)

    def release(self, claim: Claim) -> Future[None]:
        """End a claim whose download broke off: the drop is available again, up to _MAX_BREAKS times. Retried, too."""
        is_last = f"breaks & {_BREAKS_MASK} >= {_MAX_BREAKS}"
        statement = f"""UPDATE drops SET state = CASE WHEN {is_last} THEN {GONE} ELSE {AVAILABLE} END,
            removal = CASE WHEN {is_last} THEN epoch() END,
            changed = epoch(), owner = NULL, breaks = breaks + 1"""
        return self._deferred.submit(functools.partial(_execute, statement + _BY_CLAIM, claim))

    def give_back(self, claim: Claim) -> Future[None]:
        """End a claim whose download the server could not begin or finish: the drop is available again. Retried, too.

        Unlike `release`, it may be called any number of times for a drop.
        """
        statement = f"""UPDATE drops SET state = {AVAILABLE}, removal = NULL,
            changed = epoch(), owner = NULL, breaks = (breaks + {_GIVEN_BACK}) & {_ALL_BITS}"""
        return self._deferred.submit(functools.partial(_execute, statement + _BY_CLAIM, claim))

    def end(self, ids: Sequence[str]) -> list[str]:
        """End drops that nobody fetches at present. Returns their ids; their bytes may be removed at once."""
        statement = f"""UPDATE drops SET state = {GONE}, changed = epoch(), removal = epoch()
            WHERE id = ? AND state = {AVAILABLE}"""

        def update(transaction: Transaction) -> list[str]:
            return [id_ for id_ in ids if transaction.execute(statement, (id_,)).rowcount]

        return self.transactions.free(update).result()

    def count(self) -> dict[str, int]:
        """The number of drops in each state."""
        numbers = dict(self.transactions.read("SELECT state, number FROM counts"))
        return {name: numbers.get(state, 0) for state, name in enumerate(STATE_NAMES)}

    def flush(self) -> None:
        """Wait until all deferred changes are written."""
        self._deferred.flush()

    # Steps of the janitor. Each returns how many drops it processed; the janitor repeats them until that is 0.

    def retry(self, remove: Callable[[str], None]) -> None:
        """Write the deferred changes that failed.

        First call `remove` for the bytes of drops that are finished: if this process dies before that is written, the
        drop is available again, and without its bytes it cannot be sent twice.
        """
        for id_ in self._deferred.unwritten:
            with contextlib.suppress(Error, OSError):
                remove(id_)
        self._deferred.retry()

    def reap(self, remove: Callable[[str], None]) -> int:
        """Make drops available that dead processes had claimed, and remove those that they were uploading."""
        statement = "SELECT DISTINCT owner FROM drops WHERE state IN (?, ?)"
        dead = [owner for (owner,) in self.transactions.read(statement, ARRIVING, CLAIMED) if not self._is_alive(owner)]
        for owner in dead:
            self._change(
                "UPDATE drops SET state = ?, changed = epoch(), owner = NULL WHERE state = ? AND owner IS ?",
                *(AVAILABLE, CLAIMED, owner),
            ).result()
            # First, so that a process that lives, but has lost its connection, cannot publish it without its bytes.
            self._change("UPDATE drops SET owner = NULL WHERE state = ? AND owner IS ?", ARRIVING, owner).result()
        if dead:
            statement = "SELECT id FROM drops WHERE state = ? AND owner IS NULL"
            for (id_,) in self.transactions.read(statement, ARRIVING):
                remove(id_)
                self._change("DELETE FROM drops WHERE id = ? AND state = ?", id_, ARRIVING).result()
        self._owners.sweep()
        return len(dead)

    def expire(self) -> int:
        """End drops whose ttl has passed."""
        now = self._wall_clock.settled()
        if now is None:
            return 0
        # Selected without the write lock. Of two indexes SQLite would choose the one that reads all available drops.
        statement = f"""SELECT id FROM drops INDEXED BY drops_by_creation WHERE state = {AVAILABLE} AND created <= ?
            LIMIT ?"""
        changes = [
            (GONE, id_, AVAILABLE) for (id_,) in self.transactions.read(statement, now - self._ttl, _ROWS_PER_STEP)
        ]
        return self._write_rows(
            "UPDATE drops SET state = ?, changed = epoch(), removal = epoch() WHERE id = ? AND state = ?", changes
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
        deleted = guess_limit.delete_old(self.transactions, _ROWS_PER_STEP)
        now = self._wall_clock.settled()
        if now is None:
            return deleted
        statement = "SELECT id FROM drops WHERE state = ? AND changed <= ? AND removal IS NULL LIMIT ?"
        ids = self.transactions.read(statement, GONE, now - _TOMBSTONE_TTL, _ROWS_PER_STEP)
        return deleted + self._write_rows("DELETE FROM drops WHERE id = ?", ids)

    def _removable(self, statement: str, *values: object) -> list[str]:
        return sorted(id_ for (id_,) in self.transactions.read(statement, *values))

    def _remove(self, ids: Sequence[str], remove_all: RemoveAll) -> int:
        deadline = self._clock.now() + _REMOVAL_TIME
        removed: list[str] = []
        failed: dict[str, Exception] = {}
        for _, group in itertools.groupby(ids, layout.shard):
            tried = list(group)
            failed.update(remove_all(tried))
            removed += [id_ for id_ in tried if id_ not in failed]
            if self._clock.now() > deadline:
                break
        self._write_rows("UPDATE drops SET removal = NULL WHERE id = ?", [(id_,) for id_ in removed])
        # If some were removed, the next step may remove others.
        if failed and not removed:
            raise next(iter(failed.values()))
        return len(removed)

    def _record_guess(self, id_: str) -> Guess:
        """Record a guess. Raises TooManyGuesses, and Gone if the drop was claimed meanwhile."""
        deadline = self._clock.now() + _OUTCOME_TIMEOUT

        def record(transaction: Transaction) -> Guess | None:
            if not transaction.execute("SELECT 1 FROM drops WHERE id = ? AND state = ?", (id_, AVAILABLE)).fetchone():
                raise _gone()
            return guess_limit.record(transaction, id_)

        while True:
            guess = self.transactions.write(record).result()
            if guess is not None:
                return guess
            guess_limit.raise_if_too_many(self.transactions, id_)
            # Other processes are judging guesses that may be right.
            if self._clock.now() >= deadline:
                raise TooManyGuesses(1)
            self._clock.sleep(_OUTCOME_POLL)

    def _is_alive(self, owner: str | None) -> bool:
        return owner is not None and self._owners.is_alive(owner)

    def _change(self, statement: str, *values: object) -> Future[None]:
        return self.transactions.free(functools.partial(_execute, statement, values))

    def _write_rows(self, statement: str, rows: Sequence[Sequence[object]]) -> int:
        if rows:
            self.transactions.write_rows(statement, rows).result()
        return len(rows)


def _gone() -> Gone:
    return Gone("The drop has been fetched or has expired.")


def _execute(statement: str, values: Sequence[object], transaction: Transaction) -> None:
    transaction.execute(statement, values)
