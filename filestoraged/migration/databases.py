"""Copies the rows of databases, each in one transaction, and compares them.

The target's rows are replaced by those of the source at one moment. So that nothing is lost which a daemon has stored
at the target since, that is refused where its rows are others than the last migration left: it left their digest beside
them.

A drop becomes available at the target only if its bytes are there.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from filestoraged.check.findings import MISSING, Finding
from filestoraged.check.throttle import Throttle
from filestoraged.command_errors import CheckError
from filestoraged.errors import NotFound
from filestoraged.migration.findings import DIFFERENT, EXTRA, MigrationTotals
from filestoraged.migration.namespace_pairs import Service, names
from filestoraged.store.contract import Store
from filestoraged.store.drop_tables import DROP_ROWS, DROP_TABLE, DropRow
from filestoraged.store.kv import KEY_ROWS
from filestoraged.store.locks import LOCK_ROWS
from filestoraged.store.name_tables import NAME_ROWS
from filestoraged.store.rows import Row, RowGroup, RowReader, RowStore, RowWriter, Table

GROUPS = (KEY_ROWS, DROP_ROWS, LOCK_ROWS, NAME_ROWS)

# Rows of drops that are read at once, and bytes without a drop that are looked up at once.
_PAGE = 1000


class DatabaseCopy:
    """Copies all databases from one side to another. One thread uses it."""

    def __init__(self, source: Service, target: Service, throttle: Throttle, totals: MigrationTotals) -> None:
        self._source = source
        self._target = target
        self._throttle = throttle
        self._totals = totals

    def require_unserved(self) -> None:
        """Raise CheckError if a daemon has changed a database of the target since the last migration."""
        for group in GROUPS:
            self._target.rows.write(group, functools.partial(_require_unserved, group))

    def run(self) -> None:
        """Copy all rows. Raises CheckError and CheckStopped."""
        for group in GROUPS:
            self._throttle.raise_if_stopped()
            self._source.rows.read(group, functools.partial(self._replace, group))

    def remove_orphans(self) -> None:
        """Remove bytes of drops at the target that are no longer available there."""
        page: list[str] = []
        for id_ in names(self._target.drops.list):
            page.append(id_)
            if len(page) == _PAGE:
                self._remove_without_row(page)
                page = []
        self._remove_without_row(page)

    def _replace(self, group: RowGroup, reader: RowReader) -> None:
        def replace(writer: RowWriter) -> int:
            _require_unserved(group, writer)
            writer.clear()
            for table in group.tables:
                rows = self._attended(reader.rows(table))
                writer.insert(table, self._drops_to_copy(rows) if table is DROP_TABLE else rows)
            writer.derive()
            writer.record(fingerprint_of(writer, group))
            return count_rows(writer, group)

        setattr(self._totals, group.name, self._target.rows.write(group, replace))

    def _attended(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self._throttle.raise_if_stopped()
            yield row

    def _drops_to_copy(self, rows: Iterator[Row]) -> Iterator[Row]:
        self._totals.skipped_drops = 0
        found = _BytesByID(self._target.drops)
        for row in rows:
            drop = DropRow(*row)
            is_in_use = drop.owner is not None and self._source.rows.is_alive(drop.owner)
            copied = drop.copied(is_in_use, found.has)
            if copied is not None:
                yield copied
            elif not drop.is_given_up(is_in_use):
                self._totals.skipped_drops += 1

    def _remove_without_row(self, ids: list[str]) -> None:
        """The ids were listed before their rows are read: a daemon makes the row first."""
        if not ids:
            return
        self._throttle.raise_if_stopped()
        with_bytes = self._target.rows.read(DROP_ROWS, lambda reader: _ids_with_bytes(reader, ids[0], ids[-1]))
        for id_ in ids:
            if id_ not in with_bytes:
                try:
                    self._target.drops.remove(id_)
                except NotFound:
                    continue


class DatabaseComparison:
    """Compares all databases of two sides. One thread uses it."""

    def __init__(self, source: Service, target: Service, throttle: Throttle, totals: MigrationTotals) -> None:
        self._source = source
        self._target = target
        self._throttle = throttle
        self._totals = totals

    def findings(self) -> Iterator[Finding]:
        """One finding for each table and kind of difference, with the number of rows. Raises CheckError."""
        for group in GROUPS:
            # An id that was used and given up is no difference.
            for table in group.stored:
                counts = self._compare(group, table)
                if table is group.tables[0]:
                    setattr(self._totals, group.name, counts.same)
                for kind, number, what in (
                    (MISSING, counts.missing, "only the source has them"),
                    (DIFFERENT, counts.different, "they differ"),
                    (EXTRA, counts.extra, "only the target has them"),
                ):
                    if number:
                        yield Finding(kind, f"{group.name}/{table.name}", f"{number} rows: {what}")

    def _compare(self, group: RowGroup, table: Table) -> _RowCounts:
        def with_source(source: RowReader) -> _RowCounts:
            return self._target.rows.read(
                group,
                lambda target: _RowCounts.of(
                    self._rows(source, table, self._source), self._rows(target, table, self._target)
                ),
            )

        return self._source.rows.read(group, with_source)

    def _rows(self, reader: RowReader, table: Table, side: Service) -> Iterator[Row]:
        for row in reader.rows(table):
            self._throttle.raise_if_stopped()
            if table is not DROP_TABLE:
                yield row
            # Those that are gone have nothing left to compare; a janitor deletes them after some time.
            elif (drop := DropRow(*row)).is_available(side.rows.is_alive):
                yield drop.contents


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


def available_drops(rows: RowStore) -> Iterator[str]:
    """The ids of drops that can be fetched, in ascending order."""
    after = ""
    while page := rows.read(DROP_ROWS, functools.partial(_drops_after, after)):
        after = page[-1].id
        yield from (drop.id for drop in page if drop.is_available(rows.is_alive))


def _drops_after(id_: str, reader: RowReader) -> list[DropRow]:
    return [DropRow(*row) for row in reader.page(DROP_TABLE, id_, _PAGE)]


def count_rows(reader: RowReader, group: RowGroup) -> int:
    """The number of keys, of drops that are available, or of locks."""
    table = group.tables[0]
    rows = reader.rows(table)
    return sum(1 for row in rows if table is not DROP_TABLE or DropRow(*row).is_available(_is_owned))


class _BytesByID:
    """Whether the target has the bytes of drops, which are asked for in ascending order."""

    def __init__(self, store: Store) -> None:
        self._names = names(store.list)
        self._next: str | None = ""

    def has(self, id_: str) -> bool:
        while self._next is not None and self._next < id_:
            self._next = next(self._names, None)
        return self._next == id_


def _is_owned(owner: str | None) -> bool:
    """No row that was copied has an owner."""
    return owner is not None


def fingerprint_of(reader: RowReader, group: RowGroup) -> str:
    """A digest of all rows of a group."""
    hash_ = hashlib.sha256()
    for table in group.tables:
        hash_.update(table.name.encode())
        for row in reader.rows(table):
            hash_.update(repr(row).encode("utf-8", "surrogatepass"))
    return hash_.hexdigest()


def _require_unserved(group: RowGroup, writer: RowWriter) -> None:
    recorded = writer.fingerprint()
    if recorded is None and not any(True for table in group.tables for _ in writer.rows(table)):
        return
    if recorded != fingerprint_of(writer, group):
        raise CheckError(
            f"the target has {group.name} that no migration has copied there: a daemon has served from it."
            " Nothing is overwritten; to begin anew, give it empty databases"
        )


def _ids_with_bytes(reader: RowReader, first: str, last: str) -> set[str]:
    """The ids of drops between two, inclusive, whose bytes must stay."""
    found: set[str] = set()
    page = _drops_after(first[:-1], reader)
    while page:
        found.update(drop.id for drop in page if drop.may_have_bytes)
        if page[-1].id >= last:
            break
        page = _drops_after(page[-1].id, reader)
    return found
