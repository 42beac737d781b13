"""What is stored in each area, and how much: functions that run within a transaction and keep the sums right.

An object of a space of names counts while a name leads to it. All other objects count from before their bytes are
visible until after they were removed, so that what is stored never exceeds what is counted:

| step | of an upload | of a removal |
|---|---|---|
| 1 | `reserve`: the row, with `since`, unless that exceeds the quota | `begin_removal`: `since` |
| 2 | the object becomes visible | the object is removed |
| 3 | nothing | `end_removal`: deletes the row, unless another step 1 came between |

A crash, or an upload that fails, leaves a row with `since`. The janitor looks for the object of each such row, after a
time, and confirms the row or deletes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from filestoraged.errors import QuotaExceeded, StoreUnavailable
from filestoraged.store.contract import ObjectStatus
from filestoraged.store.transactions import Transaction, Transactions

# All transactions that change sums wait for each other, also those of names: with a lock for each area, two
# transactions that several jobs share could wait for each other.
_LOCK = "names"


def serialize(transaction: Transaction) -> None:
    """Wait for other transactions that change sums. Call it before what is read to decide about a change."""
    transaction.serialize(_LOCK)


def find_room(
    transactions: Transactions,
    area: str,
    quota: int,
    size: int,
    *,
    keys: Sequence[str],
    is_whole: bool = True,
    is_empty: Callable[[], bool] = lambda: True,
) -> int:
    """Judge an upload of `size` bytes before its body. Returns how many it may have.

    One of the `keys` is that of the object, if any is known: what is stored takes no room, and has no more bytes then.
    Without `is_whole`, these are the bytes that came of an upload of unknown length: while they are not more than all
    that is stored, they may be those of an object that is there.
    Raises QuotaExceeded, and StoreUnavailable where the area was not counted yet, unless it `is_empty`. The
    transaction of the change judges again.
    """
    stored = _read_sum(transactions, area)
    if stored is None:
        # The first upload to an area enters it before its object can be seen.
        stored = 0 if is_empty() else _read_sum(transactions, area)
    if stored is not None and stored + size <= quota:
        return quota - stored
    statement = "SELECT size FROM stored WHERE area = ? AND key = ? AND names > 0"
    sizes = [int(known) for key in keys for (known,) in transactions.read(statement, area, key)]
    if sizes and size <= max(sizes):
        return max(sizes)
    if stored is None:
        # The janitor then counts it.
        transactions.write(lambda transaction: enter(transaction, area))
        raise not_counted(area)
    if not is_whole and size <= stored:
        return stored
    raise QuotaExceeded(area, quota, stored=stored, added=size)


def _read_sum(transactions: Transactions, area: str) -> int | None:
    """The bytes of an area; None where it was not counted yet."""
    rows = transactions.read("SELECT bytes FROM areas WHERE area = ? AND complete > 0", area)
    return int(rows[0][0]) if rows else None


# Names. The caller has called `serialize`.


class CountedObject(NamedTuple):
    """An object of a space, and the number of names that lead to it: below 1 for none."""

    key: str
    size: int
    names: int


def require_room(
    transaction: Transaction, area: str, quota: int, new: CountedObject, former: CountedObject | None
) -> None:
    """Raise QuotaExceeded if it is too much that a name leads to an object in place of another one."""
    added, _ = _growth(new, former)
    _judge(area, quota, stored=_sum(transaction, area), added=added)


def lead(transaction: Transaction, area: str, new: CountedObject, former: CountedObject | None) -> None:
    """Count that a name leads to an object which was uploaded, in place of another one, None for a new name.

    The caller has read the number of names: each statement costs a change of threads.
    """
    if former is None or former.key != new.key:
        _add_name(transaction, area, new)
        if former is not None:
            _take_name(transaction, area, former)
    transaction.execute(
        """INSERT INTO areas (area, bytes, objects, last_upload, complete) VALUES (?, ?, ?, epoch_second(), 1)
            ON CONFLICT (area) DO UPDATE SET bytes = areas.bytes + excluded.bytes,
            objects = areas.objects + excluded.objects, last_upload = excluded.last_upload""",
        (area, *_growth(new, former)),
    )


def remove_name(transaction: Transaction, area: str, key: str) -> None:
    """Count one name less. Without any, the object leaves the sums of its area, and is collected later."""
    row = transaction.execute("SELECT size, names FROM stored WHERE area = ? AND key = ?", (area, key)).fetchone()
    if row is not None:
        _take_name(transaction, area, CountedObject(key, *row))
        if row[1] == 1:
            _add(transaction, area, -row[0], -1)


# Objects without names.


def enter(transaction: Transaction, area: str, complete: int = 0) -> None:
    """Have an area counted by the janitor, unless it is known; with `complete`, the time at which it was empty."""
    statement = "INSERT INTO areas (area, bytes, objects, last_upload, complete) VALUES (?, 0, 0, 0, ?)"
    transaction.execute(f"{statement} ON CONFLICT (area) DO NOTHING", (area, complete))


def reserve(transaction: Transaction, area: str, key: str, size: int, quota: int | None) -> int:
    """Count an object that is about to be stored. Returns the version of its row. Without `quota`, there is none.

    Raises QuotaExceeded, and StoreUnavailable where the size of the area is not known yet.
    """
    serialize(transaction)
    row = transaction.execute("SELECT size, version FROM stored WHERE area = ? AND key = ?", (area, key)).fetchone()
    # The sizes differ if the stored object is damaged, or if its name is not a digest: then this upload may be refused.
    # The larger size counts until the janitor has looked at the object.
    added = size if row is None else max(0, size - row[0])
    if quota is not None and added > 0:
        _judge(area, quota, stored=_complete_sum(transaction, area), added=added)
    transaction.execute(
        """INSERT INTO stored (area, key, size, at, names, since) VALUES (?, ?, ?, epoch(), 1, epoch())
            ON CONFLICT (area, key) DO UPDATE SET size = stored.size + ?, at = excluded.at, since = excluded.since,
            version = stored.version + 1""",
        (area, key, size, added),
    )
    enter(transaction, area)
    _add(transaction, area, added, 1 if row is None else 0)
    transaction.execute("UPDATE areas SET last_upload = epoch_second() WHERE area = ?", (area,))
    return 0 if row is None else int(row[1]) + 1


def reserve_first(transaction: Transaction, area: str, key: str, size: int, quota: int | None) -> int:
    """Like `reserve`, for an area that has had no objects; others may have stored some since."""
    serialize(transaction)
    ((now,),) = transaction.execute("SELECT epoch_second()").fetchall()
    if quota is not None and not transaction.execute("SELECT 1 FROM areas WHERE area = ?", (area,)).fetchone():
        # An error must not follow a change.
        _judge(area, quota, stored=0, added=size)
    enter(transaction, area, now)
    return reserve(transaction, area, key, size, quota)


def begin_removal(transaction: Transaction, area: str, key: str) -> int | None:
    """Called before an object is removed. Returns the version of its row, None without a row."""
    serialize(transaction)
    statement = "UPDATE stored SET since = epoch(), version = version + 1 WHERE area = ? AND key = ?"
    transaction.execute(statement, (area, key))
    row = transaction.execute("SELECT version FROM stored WHERE area = ? AND key = ?", (area, key)).fetchone()
    return None if row is None else int(row[0])


def end_removal(transaction: Transaction, area: str, key: str, version: int) -> bool:
    """Delete the row of an object that is not there. Returns False where an upload or a removal has begun since."""
    serialize(transaction)
    row = transaction.execute("SELECT size, version FROM stored WHERE area = ? AND key = ?", (area, key)).fetchone()
    if row is None or row[1] != version:
        return False
    transaction.execute("DELETE FROM stored WHERE area = ? AND key = ?", (area, key))
    _add(transaction, area, -row[0], -1)
    return True


def confirm(transaction: Transaction, area: str, key: str, version: int, size: int | None) -> None:
    """The object of a row is there, with that size if it is known, as of a time at which the row had that version."""
    serialize(transaction)
    row = transaction.execute("SELECT size, version FROM stored WHERE area = ? AND key = ?", (area, key)).fetchone()
    if row is None or row[1] != version:
        return
    size = row[0] if size is None else size
    transaction.execute("UPDATE stored SET since = NULL, size = ? WHERE area = ? AND key = ?", (size, area, key))
    if size != row[0]:
        _add(transaction, area, size - row[0], 0)


def count(
    transaction: Transaction,
    area: str,
    found: Sequence[ObjectStatus],
    *,
    after: str,
    last: str,
    complete: int = 0,
) -> None:
    """Make the rows of an area those of its objects, as far as their keys are above `after` and at most `last`.

    With `complete`, that is the last part of them: all objects that the area had at that time have rows. Objects may
    have been stored or removed since they were found. A row without an object is left to the janitor, as that of an
    upload that failed.
    """
    serialize(transaction)
    rows = transaction.execute(
        "SELECT key, since FROM stored WHERE area = ? AND key > ? AND key <= ?", (area, after, last)
    ).fetchall()
    known = {key for key, _ in rows}
    new = [each for each in found if each.name not in known]
    transaction.executemany(
        "INSERT INTO stored (area, key, size, at, names) VALUES (?, ?, ?, ?, 1)",
        [(area, each.name, each.size, each.modified) for each in new],
    )
    names = {each.name for each in found}
    transaction.executemany(
        "UPDATE stored SET since = epoch(), version = version + 1 WHERE area = ? AND key = ?",
        [(area, key) for key, since in rows if since is None and key not in names],
    )
    enter(transaction, area)
    _add(transaction, area, sum(each.size for each in new), len(new))
    latest = max((each.modified for each in new), default=0)
    transaction.execute("UPDATE areas SET last_upload = ? WHERE area = ? AND last_upload < ?", (latest, area, latest))
    if complete:
        transaction.execute("UPDATE areas SET complete = ? WHERE area = ?", (complete, area))


def forget(transaction: Transaction, area: str, limit: int) -> int:
    """Delete some rows of an area that has no limits any more. Returns how many."""
    serialize(transaction)
    transaction.execute("UPDATE areas SET complete = 0 WHERE area = ?", (area,))
    rows = transaction.execute("SELECT key, size FROM stored WHERE area = ? LIMIT ?", (area, limit)).fetchall()
    transaction.executemany("DELETE FROM stored WHERE area = ? AND key = ?", [(area, key) for key, _ in rows])
    _add(transaction, area, -sum(size for _, size in rows), -len(rows))
    if len(rows) < limit:
        transaction.execute("DELETE FROM areas WHERE area = ?", (area,))
    return len(rows)


def distrust(transactions: Transactions) -> None:
    """Mark the counts of all areas as outdated, because objects are stored from now on without being counted.

    A quota is judged again after the next count. Does not wait for the change, nor for another machine.
    """
    counted = "complete > 0 AND area NOT LIKE 'names/%'"
    if transactions.is_remote or transactions.read(f"SELECT 1 FROM areas WHERE {counted} LIMIT 1"):
        transactions.write_rows(f"UPDATE areas SET complete = ? WHERE {counted}", [(0,)])


def count_removals(transaction: Transaction, area: str, reason: str, number: int) -> None:
    if number:
        transaction.execute(
            """INSERT INTO removals (area, reason, number) VALUES (?, ?, ?)
                ON CONFLICT (area, reason) DO UPDATE SET number = removals.number + excluded.number""",
            (area, reason, number),
        )


def _growth(new: CountedObject, former: CountedObject | None) -> tuple[int, int]:
    """The bytes and objects that a space has more when a name leads to `new` in place of `former`."""
    if former is not None and former.key == new.key:
        return 0, 0
    is_added, is_left = new.names < 1, former is not None and former.names == 1
    freed = former.size if former is not None and is_left else 0
    return (new.size if is_added else 0) - freed, is_added - is_left


def _add_name(transaction: Transaction, area: str, each: CountedObject) -> None:
    if each.names > 0:
        transaction.execute("UPDATE stored SET names = names + 1 WHERE area = ? AND key = ?", (area, each.key))
        return
    transaction.execute(
        """INSERT INTO stored (area, key, size, at, names) VALUES (?, ?, ?, epoch(), 1)
            ON CONFLICT (area, key) DO UPDATE SET size = excluded.size, at = excluded.at, names = 1, since = NULL""",
        (area, each.key, each.size),
    )


def _take_name(transaction: Transaction, area: str, each: CountedObject) -> None:
    statement = """UPDATE stored SET names = names - 1, since = CASE WHEN names = 1 THEN epoch() END
        WHERE area = ? AND key = ? AND names > 0"""
    transaction.execute(statement, (area, each.key))


def _sum(transaction: Transaction, area: str) -> int:
    row = transaction.execute("SELECT bytes FROM areas WHERE area = ?", (area,)).fetchone()
    return 0 if row is None else int(row[0])


def _complete_sum(transaction: Transaction, area: str) -> int:
    row: Any = transaction.execute("SELECT bytes, complete FROM areas WHERE area = ?", (area,)).fetchone()
    if row is None or not row[1]:
        raise not_counted(area)
    return int(row[0])


def not_counted(area: str) -> StoreUnavailable:
    return StoreUnavailable(f"What {area} has stored is still being counted; retry later.")


def _judge(area: str, quota: int, *, stored: int, added: int) -> None:
    if added > 0 and stored + added > quota:
        raise QuotaExceeded(area, quota, stored=stored, added=added)


def _add(transaction: Transaction, area: str, size: int, objects: int) -> None:
    statement = "UPDATE areas SET bytes = bytes + ?, objects = objects + ? WHERE area = ?"
    transaction.execute(statement, (size, objects, area))
