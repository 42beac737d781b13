"""Names of objects: which object each name of a space leads to, and how many names lead to each. It holds no bytes.

A change of a name is one transaction, which judges the condition of the change as well: of simultaneous ones that
require the same former object, one succeeds. Who stores the object that a name is to lead to does it in this order:

1. `secure`: returns the number of the last collection, once the object is not being removed.
2. Store the object, durably.
3. `put`: fails if the object was condemned or removed since step 1; see `name_collection`.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, NotFound, StoreUnavailable
from filestoraged.future import Future
from filestoraged.store import areas
from filestoraged.store.areas import CountedObject
from filestoraged.store.limits import Rules
from filestoraged.store.name_limits import (
    FindRules,
    Uses,
    no_rules,
    require_unwritten,
)
from filestoraged.store.name_listing import COLUMNS, UNEXPIRED, Name, NameListing, path_of
from filestoraged.store.name_tables import CONDEMNED, REMOVED, area_of
from filestoraged.store.transactions import ServiceTables, Transaction, Transactions
from filestoraged.store.wall_clock import JUDGED_TIME

# Seconds that an upload waits for the removal of the same object by the janitor, which takes milliseconds.
_REMOVAL_TIMEOUT = 10.0

# Seconds that a transaction waits for an object that is being stored. Other names wait for it, too.
_STORE_TIMEOUT = 0.05

# What decides whether an object may have been removed; see `_require_kept`.
_STATE = "s.names, s.condemned, number, forgotten"
_FORMER = "n.oid, n.size, n.type, n.fields, n.modified, n.expires, f.size, f.names"


class Link(NamedTuple):
    """What a name is to lead to. `ttl` is in seconds, None for a name that does not expire."""

    oid: str
    size: int
    type: str = ""
    fields: str = ""
    ttl: int | None = None


class PutResult(NamedTuple):
    name: Name
    is_new: bool


class _Before(NamedTuple):
    """What a change of a name finds: the time, the names of the new object, the name, and the object it leads to."""

    now: int
    names: int
    current: Name | None
    former: CountedObject | None


# Raises an Error where a name may not be changed: it gets what the name leads to now, None for nothing.
Condition = Callable[[Name | None], None]


def unconditional(_: Name | None) -> None:
    """The condition that always holds."""


class Names(ServiceTables):
    """Make it after the fork. Any thread calls it.

    Methods that return a future raise StoreUnavailable if the job cannot be queued.
    """

    def __init__(
        self, transactions: Transactions, clock: Clock = SYSTEM_CLOCK, *, find_rules: FindRules = no_rules
    ) -> None:
        """The database has the tables of NAMES_SCHEMA. `find_rules` has the limits of areas."""
        super().__init__(transactions)
        self.find_rules = find_rules
        self._clock = clock
        self._uses = Uses(transactions, clock)
        # Uploads that wait for a removal. Appended to by any thread, and emptied by the janitor's.
        self._waiting: deque[_Waiting] = deque()

    def get(self, space: str, name: str) -> Name:
        """Look up a name. Raises NotFound, also for one that has expired."""
        statement = f"SELECT {COLUMNS} FROM names WHERE path = ? AND {UNEXPIRED}"
        for row in self.transactions.read(statement, path_of(space, name)):
            return Name(name, *row)
        raise not_found()

    def note_use(self, space: str, name: str) -> None:
        """Remember that a name was read, if its space has a limit for which that counts."""
        rules = self.find_rules(area_of(space))
        if rules is not None:
            self._uses.note(path_of(space, name), rules)

    def require_room(self, space: str, size: int, oid: str | None, *, is_whole: bool = True) -> int | None:
        """Judge an upload of `size` bytes before its body. `put` judges it again. For the rest see `find_room`."""
        area = area_of(space)
        rules = self.find_rules(area)
        if rules is None or rules.quota is None:
            return None
        keys = [] if oid is None else [oid]
        return areas.find_room(self.transactions, area, rules.quota, size, keys=keys, is_whole=is_whole)

    def listing(self, space: str, prefix: str = "", *, by_folder: bool = False) -> NameListing:
        """The names that begin with `prefix`, in the order of their bytes.

        With `by_folder`, names that have a slash behind the prefix are one entry for each text up to that slash.
        """
        return NameListing(self.transactions, space, prefix, by_folder=by_folder)

    def list_spaces(self, after: str, limit: int) -> Sequence[str]:
        """At most `limit` spaces that have names and sort after `after`, in their order."""
        first = area_of(after)
        # A zero is the character behind the slash.
        statement = "SELECT area FROM areas WHERE area > ? AND area < ? AND objects > 0 ORDER BY area LIMIT ?"
        rows = self.transactions.read(statement, first, f"{area_of('')[:-1]}0", limit)
        return [area.partition("/")[2] for (area,) in rows]

    def count(self) -> int:
        """The number of objects in all spaces that names lead to."""
        ((number,),) = self.transactions.read("SELECT coalesce(sum(objects), 0) FROM areas WHERE area LIKE 'names/%'")
        return int(number)

    def secure(self, space: str, oid: str) -> Future[int]:
        """Return the number of the last collection, once the object is not being removed, nor about to be.

        The future raises StoreUnavailable if a removal takes too long.
        """
        secured: Future[int] = Future()
        statement = """SELECT number, names FROM collections
            LEFT JOIN stored ON area = ? AND key = ?"""
        ((number, names),) = self.transactions.read(statement, area_of(space), oid)
        if names is None or names > 0 or names == REMOVED:
            secured.set_result(number)
        else:
            self._renew(_Waiting(area_of(space), oid, secured, self._clock.now() + _REMOVAL_TIMEOUT))
        return secured

    def put(
        self, space: str, name: str, link: Link, *, number: int, condition: Condition = unconditional
    ) -> Future[PutResult]:
        """Let a name lead to an object that was stored since `secure` has returned `number`.

        The future raises what the condition raises; the object is then collected unless other names lead to it. It
        raises StoreUnavailable if the object may have been removed.
        """
        rules = self.find_rules(area_of(space))
        result: Future[Any] = self.transactions.write(
            functools.partial(_put, space, name, link, number=number, condition=condition, rules=rules)
        )
        return result

    def put_when(
        self,
        space: str,
        name: str,
        link: Link,
        stored: Future[Any],
        *,
        number: int,
        condition: Condition = unconditional,
    ) -> Future[PutResult | None]:
        """The same for an object that becomes durable within milliseconds: the transaction waits for that.

        So a request waits for one sync less. The future has None where it takes longer, and nothing is changed.
        """
        rules = self.find_rules(area_of(space))
        put = functools.partial(_put, space, name, link, number=number, condition=condition, rules=rules)
        result: Future[Any] = self.transactions.write(functools.partial(_put_when, stored, put))
        return result

    def remove(self, space: str, name: str, condition: Condition = unconditional) -> Future[None]:
        """Remove a name. The future raises NotFound, and what the condition raises."""
        return self.transactions.free(functools.partial(_remove, space, name, condition))

    def retry(self) -> None:
        """Let uploads go on that wait for a removal which has ended, and write uses. The janitor calls it."""
        if self._uses.is_due:
            self._uses.write()
        for _ in range(len(self._waiting)):
            each = self._waiting.popleft()
            if self._clock.now() < each.deadline:
                self._renew(each)
            else:
                each.secured.set_exception(_unavailable())

    def flush(self) -> None:
        """Write all uses."""
        self._uses.write()

    def close(self) -> None:
        while self._waiting:
            self._waiting.popleft().secured.set_exception(_unavailable())
        super().close()

    def _renew(self, waiting: _Waiting) -> None:
        """Begin the time anew after which an object without a name is condemned."""
        try:
            renewed = self.transactions.write(functools.partial(_renew, waiting.area, waiting.oid))
        except Error as error:
            waiting.secured.set_exception(error)
            return
        renewed.add_done_callback(functools.partial(self._on_renewed, waiting))

    def _on_renewed(self, waiting: _Waiting, renewed: Future[int | None]) -> None:
        error = renewed.exception()
        if error is not None:
            waiting.secured.set_exception(error)
            return
        number = renewed.result()
        if number is None:
            self._waiting.append(waiting)
        else:
            waiting.secured.set_result(number)


class _Waiting(NamedTuple):
    """An upload that waits for the removal of the same object, until `deadline` on the monotonic clock."""

    area: str
    oid: str
    secured: Future[int]
    deadline: float


def _put_when(
    stored: Future[Any], put: Callable[[Transaction], PutResult | Error], transaction: Transaction
) -> PutResult | BaseException | None:
    """Let a name lead to an object once that is durable. An error of storing it is the result."""
    try:
        error = stored.exception(_STORE_TIMEOUT)
    except TimeoutError:
        # Uploads wait for a checkpoint, or the disk hangs.
        return None
    return error or put(transaction)


def _put(
    space: str,
    name: str,
    link: Link,
    transaction: Transaction,
    *,
    number: int,
    condition: Condition,
    rules: Rules | None,
) -> PutResult | Error:
    areas.serialize(transaction)
    path, area = path_of(space, name), area_of(space)
    before = _read_before(transaction, path, name, area, link.oid, number=number)
    new = CountedObject(link.oid, link.size, before.names)
    try:
        condition(before.current)
        if rules is not None and rules.write_once and before.current is not None:
            require_unwritten(name, before.current.oid, link.oid)
        if rules is not None and rules.quota is not None:
            areas.require_room(transaction, area, rules.quota, new, before.former)
    except Error as error:
        _keep_unnamed(transaction, area, link)
        # If it were raised, that would not be written.
        return error
    expires = None if link.ttl is None else before.now + link.ttl
    transaction.execute(
        f"""INSERT INTO names (path, space, {COLUMNS}, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?, epoch())
            ON CONFLICT (path) DO UPDATE SET oid = excluded.oid, size = excluded.size, type = excluded.type,
            fields = excluded.fields, modified = excluded.modified, expires = excluded.expires,
            used = excluded.used""",
        (path, space, link.oid, link.size, link.type, link.fields, before.now, expires),
    )
    areas.lead(transaction, area, new, before.former)
    stored = Name(name, link.oid, link.size, link.type, link.fields, before.now, expires)
    return PutResult(stored, before.current is None)


def _read_before(transaction: Transaction, path: bytes, name: str, area: str, oid: str, *, number: int) -> _Before:
    """What decides whether a name may lead to the object `oid`. Raises StoreUnavailable as `_require_kept` does."""
    # By one statement: four would take a third of the time of a change.
    statement = f"""SELECT {_STATE}, epoch_second(), {JUDGED_TIME}, {_FORMER} FROM collections
        LEFT JOIN stored AS s ON s.area = ? AND s.key = ? LEFT JOIN names AS n ON n.path = ?
        LEFT JOIN stored AS f ON f.area = ? AND f.key = n.oid"""
    row = transaction.execute(statement, (area, oid, path, area)).fetchone()
    _require_kept(row[:4], number)
    now, judged = row[4:6]
    expired = row[11] is not None and row[11] <= judged
    current = None if row[6] is None or expired else Name(name, *row[6:12])
    former = None if row[12] is None else CountedObject(row[6], *row[12:])
    return _Before(now, row[0] or 0, current, former)


def _remove(space: str, name: str, condition: Condition, transaction: Transaction) -> None:
    areas.serialize(transaction)
    path = path_of(space, name)
    current = _find(transaction, path, name, f" AND {UNEXPIRED}")
    condition(current)
    if current is None:
        raise not_found()
    transaction.execute("DELETE FROM names WHERE path = ?", (path,))
    areas.remove_name(transaction, area_of(space), current.oid)


def _renew(area: str, oid: str, transaction: Transaction) -> int | None:
    """Return the number of the last collection, None if the object is being removed."""
    areas.serialize(transaction)
    transaction.execute("UPDATE stored SET since = epoch() WHERE area = ? AND key = ? AND names = 0", (area, oid))
    statement = f"SELECT {_STATE} FROM collections LEFT JOIN stored AS s ON s.area = ? AND s.key = ?"
    names, _, number, _ = transaction.execute(statement, (area, oid)).fetchone()
    return None if names == CONDEMNED else number


def _require_kept(state: Sequence[Any], number: int) -> None:
    """Raise StoreUnavailable if an object was condemned or removed since the collection `number`."""
    names, condemned, _, forgotten = state
    # Without a row, it may have had one that was deleted since.
    is_kept = forgotten <= number if names is None else names != CONDEMNED and condemned <= number
    if not is_kept:
        raise _unavailable()


def _find(transaction: Transaction, path: bytes, name: str, condition: str = "") -> Name | None:
    row = transaction.execute(f"SELECT {COLUMNS} FROM names WHERE path = ?{condition}", (path,)).fetchone()
    return None if row is None else Name(name, *row)


def _keep_unnamed(transaction: Transaction, area: str, link: Link) -> None:
    """Have an object collected that was stored in vain."""
    transaction.execute(
        """INSERT INTO stored (area, key, size, at, names, since) VALUES (?, ?, ?, epoch(), 0, epoch())
            ON CONFLICT (area, key) DO UPDATE SET names = 0, since = excluded.since WHERE stored.names < 0""",
        (area, link.oid, link.size),
    )


def not_found() -> NotFound:
    return NotFound("There is no such name.")


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable("These bytes are being removed; upload them again.")
