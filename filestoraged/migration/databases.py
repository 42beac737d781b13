"""Copies the rows of databases, each in one transaction, and compares them.

The target's rows are replaced by those of the source at one moment. So that nothing is lost which a daemon has stored
at the target since, that is refused where its rows are others than the last migration left: it left their digest beside
them.

A drop becomes available at the target only if its bytes are there.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

from filestoraged.check.findings import MISSING, Finding
from filestoraged.check.throttle import Throttle
from filestoraged.errors import CheckError, NotFound
from filestoraged.migration.contents import (
    DATABASES,
    DROPS,
    LOCK_IDS,
    LOCKS,
    PAIRS,
    Contents,
    DropRow,
    Reader,
    Row,
    Writer,
    fingerprint_of,
    is_empty,
)
from filestoraged.migration.findings import DIFFERENT, EXTRA, MigrationTotals
from filestoraged.migration.listing import can_list, names
from filestoraged.store.contract import Store
from filestoraged.store.drop_tables import ARRIVING, AVAILABLE, CLAIMED, GONE

# Rows of drops that are read at once, and bytes without a drop that are looked up at once.
_PAGE = 1000

_COUNTED = {"keys": PAIRS, "drops": DROPS, "locks": LOCKS}


class Side(NamedTuple):
    contents: Contents
    # The bytes of drops.
    drops: Store


class DatabaseCopy:
    """Copies all databases from one side to another. One thread uses it."""

    def __init__(self, source: Side, target: Side, throttle: Throttle, totals: MigrationTotals) -> None:
        self._source = source
        self._target = target
        self._throttle = throttle
        self._totals = totals

    def require_unserved(self) -> None:
        """Raise CheckError if a daemon has changed a database of the target since the last migration."""
        for database in DATABASES:
            self._target.contents.write(database, functools.partial(_require_unserved, database))

    def run(self) -> None:
        """Copy all rows. Raises CheckError and CheckStopped."""
        for database in DATABASES:
            self._throttle.raise_if_stopped()
            self._source.contents.read(database, functools.partial(self._replace, database))

    def remove_orphans(self) -> None:
        """Remove bytes of drops at the target that are no longer available there."""
        store = self._target.drops
        if not can_list(store):
            return
        page: list[str] = []
        for id_ in names(store.list):
            page.append(id_)
            if len(page) == _PAGE:
                self._remove_without_row(page)
                page = []
        self._remove_without_row(page)

    def _replace(self, database: str, reader: Reader) -> None:
        def replace(writer: Writer) -> int:
            _require_unserved(database, writer)
            writer.clear()
            if database == "drops":
                writer.insert(DROPS, self._drops_to_copy(reader))
            else:
                for table in DATABASES[database]:
                    writer.insert(table, self._attended(reader.rows(table)))
            writer.record(fingerprint_of(writer, database))
            return count_rows(writer, database)

        setattr(self._totals, database, self._target.contents.write(database, replace))

    def _attended(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self._throttle.raise_if_stopped()
            yield row

    def _drops_to_copy(self, reader: Reader) -> Iterator[Row]:
        """The rows of drops that are gone, and of those that are available and whose bytes the target has."""
        self._totals.skipped_drops = 0
        rows = (DropRow(*row) for row in self._attended(reader.rows(DROPS)))
        found = _BytesByID(self._target.drops)
        for row in rows:
            is_in_use = row.owner is not None and self._source.contents.is_alive(row.owner)
            if row.state == GONE and not is_in_use:
                yield row._replace(owner=None)
            elif row.state in (AVAILABLE, CLAIMED) and not is_in_use and found.has(row.id):
                yield row._replace(state=AVAILABLE, owner=None)
            elif row.state != ARRIVING or is_in_use:
                self._totals.skipped_drops += 1

    def _remove_without_row(self, ids: list[str]) -> None:
        """The ids were listed before their rows are read: a daemon makes the row first."""
        if not ids:
            return
        self._throttle.raise_if_stopped()
        with_bytes = self._target.contents.read("drops", lambda reader: _ids_with_bytes(reader, ids[0], ids[-1]))
        for id_ in ids:
            if id_ not in with_bytes:
                try:
                    self._target.drops.remove(id_)
                except NotFound:
                    continue


class DatabaseComparison:
    """Compares all databases of two sides. One thread uses it."""

    def __init__(self, source: Side, target: Side, throttle: Throttle, totals: MigrationTotals) -> None:
        self._source = source
        self._target = target
        self._throttle = throttle
        self._totals = totals

    def findings(self) -> Iterator[Finding]:
        """One finding for each table and kind of difference, with the number of rows. Raises CheckError."""
        for database in DATABASES:
            # An id that was used and given up is no difference.
            for table in (each for each in DATABASES[database] if each != LOCK_IDS):
                counts = self._compare(database, table)
                if table == _COUNTED[database]:
                    setattr(self._totals, database, counts.same)
                for kind, number, what in (
                    (MISSING, counts.missing, "only the source has them"),
                    (DIFFERENT, counts.different, "they differ"),
                    (EXTRA, counts.extra, "only the target has them"),
                ):
                    if number:
                        yield Finding(kind, f"{database}/{table}", f"{number} rows: {what}")

    def _compare(self, database: str, table: str) -> _RowCounts:
        def with_source(source: Reader) -> _RowCounts:
            return self._target.contents.read(
                database,
                lambda target: _RowCounts.of(
                    self._rows(source, table, self._source), self._rows(target, table, self._target)
                ),
            )

        return self._source.contents.read(database, with_source)

    def _rows(self, reader: Reader, table: str, side: Side) -> Iterator[Row]:
        for row in reader.rows(table):
            self._throttle.raise_if_stopped()
            if table != DROPS:
                yield row
                continue
            drop = DropRow(*row)
            # Those that are gone have nothing left to compare; a janitor deletes them after some time.
            if is_available(drop, side.contents):
                yield drop.id, drop.created, drop.name, drop.password


class _RowCounts(NamedTuple):
    same: int
    missing: int
    different: int
    extra: int

    @staticmethod
    def of(source: Iterator[Row], target: Iterator[Row]) -> _RowCounts:
        """Count by the first value of each row, in whose order both yield."""
        same = missing = different = extra = 0
        ours, theirs = next(source, None), next(target, None)
        while ours is not None or theirs is not None:
            if theirs is None or (ours is not None and ours[0] < theirs[0]):
                missing += 1
                ours = next(source, None)
            elif ours is None or theirs[0] < ours[0]:
                extra += 1
                theirs = next(target, None)
            else:
                same, different = (same + 1, different) if ours == theirs else (same, different + 1)
                ours, theirs = next(source, None), next(target, None)
        return _RowCounts(same, missing, different, extra)


def is_available(row: DropRow, contents: Contents) -> bool:
    """Whether a drop can be fetched: also one that a process had claimed which is dead."""
    if row.state == CLAIMED:
        return not contents.is_alive(row.owner)
    return row.state == AVAILABLE


def available_drops(contents: Contents) -> Iterator[str]:
    """The ids of drops that can be fetched, in ascending order."""
    after = ""
    while True:
        page = contents.read("drops", functools.partial(_drops_after, after))
        if not page:
            return
        after = page[-1].id
        yield from (row.id for row in page if is_available(row, contents))


def _drops_after(id_: str, reader: Reader) -> list[DropRow]:
    return reader.drops_after(id_, _PAGE)


def count_rows(reader: Reader, database: str) -> int:
    """The number of keys, of drops that are available, or of locks."""
    rows = reader.rows(_COUNTED[database])
    return sum(1 for row in rows if database != "drops" or DropRow(*row).state == AVAILABLE)


class _BytesByID:
    """Whether the target has the bytes of drops, which are asked for in ascending order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._names = names(store.list) if can_list(store) else None
        self._next: str | None = ""

    def has(self, id_: str) -> bool:
        if self._names is None:
            try:
                self._store.stat(id_)
            except NotFound:
                return False
            return True
        while self._next is not None and self._next < id_:
            self._next = next(self._names, None)
        return self._next == id_


def _require_unserved(database: str, writer: Writer) -> None:
    recorded = writer.fingerprint()
    if recorded is None and is_empty(writer, database):
        return
    if recorded != fingerprint_of(writer, database):
        raise CheckError(
            f"the target has {database} that no migration has copied there: a daemon has served from it."
            " Nothing is overwritten; to begin anew, give it empty databases"
        )


def _ids_with_bytes(reader: Reader, first: str, last: str) -> set[str]:
    """The ids of drops between two, inclusive, whose bytes must stay."""
    found: set[str] = set()
    page = reader.drops_after(first[:-1], _PAGE)
    while page:
        found.update(row.id for row in page if row.state != GONE)
        if page[-1].id >= last:
            break
        page = reader.drops_after(page[-1].id, _PAGE)
    return found
