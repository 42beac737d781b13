"""Compares bytes with the rows that name them: those of drops, of unfinished uploads, and of their segments.

A row is made before its bytes, and removed after them. So bytes that are seen first, then have no row, and still exist,
are orphaned; and bytes that are missing between two queries that find a row that needs them, are lost.

The row of a segment alone is made after its object. So an object without one is a leftover only when it is older than
any request.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from filestoraged.check.findings import UNREADABLE, Finding
from filestoraged.check.inventory import ItemKind
from filestoraged.store import drop_tables as drops
from filestoraged.store import layout
from filestoraged.store import name_tables as names
from filestoraged.store.uploads import registry as uploads

# Ids in one query: SQLite accepts 999 values.
IDS_PER_QUERY = 500


class RegistryUnreadable(Exception):
    """The registry cannot be read at present, which says nothing about its contents."""


class RegistryKind(NamedTuple):
    """What a registry has. The conditions are those of rows whose bytes may exist, and must exist."""

    table: str
    application: int
    may_have_bytes: str
    needs_bytes: str


DROPS = RegistryKind("drops", drops.DROPS_SCHEMA.application, drops.MAY_HAVE_BYTES, drops.HAS_BYTES)
UPLOADS = RegistryKind("uploads", uploads.UPLOADS_SCHEMA.application, "1 = 1", uploads.WITH_BYTES)
SEGMENTS = RegistryKind("upload_segments", uploads.UPLOADS_SCHEMA.application, "1 = 1", "1 = 1")


STORED = RegistryKind("stored", names.NAMES_SCHEMA.application, f"names <> {names.REMOVED}", "names > 0")


class RowRegistry(ABC):
    """The rows of a table, whichever database has it. Any thread calls it. Methods may raise RegistryUnreadable."""

    # As findings name it.
    name: str

    def __init__(self, name: str, kind: RegistryKind) -> None:
        self.name = name
        self._kind = kind

    @property
    def damage(self) -> str | None:
        """Why rows must not be queried, None for a sound database."""
        return None

    def without_row(self, ids: Sequence[str]) -> set[str]:
        """Those of at most IDS_PER_QUERY ids that have no row, or a row that says that their bytes are removed."""
        marks = ", ".join("?" * len(ids))
        statement = f"SELECT id FROM {self._kind.table} WHERE id IN ({marks}) AND {self._kind.may_have_bytes}"
        return set(ids).difference(id_ for (id_,) in self._query(statement, *ids))

    def needs_bytes(self, id_: str) -> bool:
        """Whether the row is in a state in which its bytes must exist."""
        return bool(self._query(f"SELECT id FROM {self._kind.table} WHERE id = ? AND {self._kind.needs_bytes}", id_))

    def all_with_bytes(self) -> Iterator[tuple[str, int | None]]:
        """The ids of all rows whose bytes must exist, and their size if the row tells it."""
        statement = f"SELECT id FROM {self._kind.table} WHERE id > ? AND {self._kind.needs_bytes} ORDER BY id LIMIT ?"
        return ((id_, None) for (id_,) in self._pages(statement, ""))

    def incomplete(self) -> Iterator[str]:
        """The paths of those with more bytes than all their rows name."""
        return iter(())

    def _pages(self, statement: str, *after: object) -> Iterator[Any]:
        """All rows of a statement behind the key `after`, with which each row begins. A page is in memory at a time."""
        page = self._query(statement, *after, IDS_PER_QUERY)
        while page:
            yield from page
            page = self._query(statement, *page[-1][: len(after)], IDS_PER_QUERY)

    @abstractmethod
    def _query(self, statement: str, *values: object) -> list[Any]:
        """The rows of a statement in the dialect of `store.transactions`."""


class SegmentRegistry(RowRegistry):
    """The rows of the segments of unfinished uploads. The id of one is that of its upload, and its number."""

    _NEEDED = (
        "SELECT upload_segments.id, number, size FROM upload_segments JOIN uploads ON uploads.id = upload_segments.id"
        f" WHERE {UPLOADS.needs_bytes}"
    )
    _INCOMPLETE = (
        f"SELECT id FROM uploads WHERE id > ? AND {UPLOADS.needs_bytes} AND received <>"
        " (SELECT coalesce(sum(size), 0) FROM upload_segments WHERE upload_segments.id = uploads.id)"
        " ORDER BY id LIMIT ?"
    )

    def without_row(self, ids: Sequence[str]) -> set[str]:
        of_uploads = sorted({id_.partition("/")[0] for id_ in ids})
        statement = f"SELECT id, number FROM upload_segments WHERE id IN ({', '.join('?' * len(of_uploads))})"
        return set(ids).difference(f"{id_}/{number}" for id_, number in self._query(statement, *of_uploads))

    def needs_bytes(self, id_: str) -> bool:
        upload, _, number = id_.partition("/")
        return bool(self._query(f"{self._NEEDED} AND upload_segments.id = ? AND number = ?", upload, int(number)))

    def all_with_bytes(self) -> Iterator[tuple[str, int | None]]:
        statement = f"{self._NEEDED} AND (upload_segments.id, number) > (?, ?) ORDER BY upload_segments.id, number"
        return ((f"{id_}/{number}", size) for id_, number, size in self._pages(f"{statement} LIMIT ?", "", 0))

    def incomplete(self) -> Iterator[str]:
        return (layout.upload_path(id_) for (id_,) in self._pages(self._INCOMPLETE, ""))


class StoredRegistry(RowRegistry):
    """The rows of objects that names lead to. The id of one is its space, and its oid."""

    # A zero is the character behind the slash.
    _PAGE = (
        f"SELECT area, key, size FROM stored WHERE (area, key) > (?, ?) AND area < '{layout.NAMES}0'"
        f" AND {STORED.needs_bytes} ORDER BY area, key LIMIT ?"
    )

    def without_row(self, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for space in sorted({id_.partition("/")[0] for id_ in ids}):
            oids = [id_.partition("/")[2] for id_ in ids if id_.startswith(f"{space}/")]
            marks = ", ".join("?" * len(oids))
            statement = f"SELECT key FROM stored WHERE area = ? AND key IN ({marks}) AND {STORED.may_have_bytes}"
            found.update(f"{space}/{oid}" for (oid,) in self._query(statement, names.area_of(space), *oids))
        return set(ids).difference(found)

    def needs_bytes(self, id_: str) -> bool:
        space, _, oid = id_.partition("/")
        statement = f"SELECT key FROM stored WHERE area = ? AND key = ? AND {STORED.needs_bytes}"
        return bool(self._query(statement, names.area_of(space), oid))

    def all_with_bytes(self) -> Iterator[tuple[str, int | None]]:
        rows = self._pages(self._PAGE, names.area_of(""), "")
        return ((f"{area.partition('/')[2]}/{oid}", size) for area, oid, size in rows)


class BytesKind(NamedTuple):
    """Bytes that rows name: which items they are, and how paths and findings name them."""

    kind: ItemKind
    plural: str
    path_of: Callable[[str], str]
    id_of: Callable[[str], str]
    orphaned: str
    missing: str


DROP_BYTES = BytesKind(
    ItemKind.DROP,
    "drops",
    layout.drop_path,
    os.path.basename,
    "no drop has this id",
    "its drop is available, but has no bytes",
)
UPLOAD_BYTES = BytesKind(
    ItemKind.UPLOAD,
    "uploads",
    layout.upload_path,
    # A lock file has the id and a suffix.
    lambda path: os.path.basename(path).partition(".")[0],
    "no upload has this id",
    "its upload has received bytes, but has none",
)
SEGMENT_BYTES = BytesKind(
    ItemKind.SEGMENT,
    "uploads",
    layout.upload_path,
    lambda path: path.partition("/")[2],
    "no upload has recorded it",
    "its upload has received these bytes",
)
NAMED_BYTES = BytesKind(
    ItemKind.NAMED,
    "names",
    layout.named_path,
    lambda path: f"{path.split('/')[1]}/{os.path.basename(path)}",
    "no name leads to it",
    "names lead to it, but it has no bytes, or others",
)

# Seconds. The row of an object comes behind it, and a daemon looks for those without one once a day.
NAMED_GRACE = 25 * 3600.0


class ComparedRows:
    """The rows that name the bytes of one kind. Many threads call it."""

    def __init__(
        self, bytes_kind: BytesKind, registry: RowRegistry, *, grace: float = 0.0, are_here: bool = True
    ) -> None:
        """Bytes without a row are orphaned when they are `grace` seconds old. Without `are_here`, none must exist."""
        self.bytes_kind = bytes_kind
        self.registry = registry
        self.grace = grace
        self.are_here = are_here
        # The thread that takes the element reports that the registry cannot be read.
        self._unreported = iter((True,))

    def is_sound(self) -> bool:
        """Whether bytes can be compared with the rows. If not, the check of databases reports why."""
        with suppress(RegistryUnreadable):
            return self.registry.damage is None
        return False

    def without_row(self, paths: Sequence[str]) -> list[str]:
        """Those of at most IDS_PER_QUERY paths that no row names. They were listed before their rows are queried."""
        ids = {path: self.bytes_kind.id_of(path) for path in paths}
        without_row = self.registry.without_row(list(ids.values()))
        return [path for path, id_ in ids.items() if id_ in without_row]

    def report_unreadable(self, error: RegistryUnreadable) -> Iterator[Finding]:
        """The registry was sound, and can no longer be read. Reported once."""
        for _ in self._unreported:
            reason = f"{self.bytes_kind.plural} cannot be compared with it: {error}"
            yield Finding(UNREADABLE, self.registry.name, reason)
