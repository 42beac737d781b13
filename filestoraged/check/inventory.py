"""What lies in a store, by the paths of its layout; and the protocol by which a check and `prune` read a store.

A backend lists its items, opens one of them and moves it aside. It does not know what is compared, nor what is a
finding; who compares does not know where items lie. The keys of an S3 store are the paths of a directory, so one
grammar tells what each of them is.
"""

from __future__ import annotations

import enum
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from filestoraged.check.findings import Finding
from filestoraged.store import layout
from filestoraged.store.contract import Usage


class ItemKind(enum.Enum):
    OBJECT = "an object of files, named by any algorithm"
    OID = "an object of a repository, or a file of restic"
    NAMED = "an object that names lead to"
    CONFIG = "the config of a repository of restic, which no digest names"
    DROP = "the bytes of a drop"
    UPLOAD = "the bytes of an unfinished upload, or its lock file"
    SEGMENT = "a segment of an unfinished upload in an S3 store"
    DATABASE = "an SQLite file"
    STAGING = "stagings that processes may have left"
    OBSTACLE = "a file in place of a directory of the store"
    FOREIGN = "a name that the store does not use"
    UNREADABLE = "a directory that cannot be listed"


OBJECTS = (ItemKind.OBJECT, ItemKind.OID, ItemKind.NAMED)

DIRECTORY_IN_PLACE = "a directory is in place of the object"
UNKNOWN_NAME = "the store has no such name here"


class ItemStatus(NamedTuple):
    """`size` is in bytes, `modified` in seconds since 1970, and `mode` that of a file."""

    size: int
    modified: float
    mode: int = stat.S_IFREG


class Item(NamedTuple):
    """`path` is within the store. `reason` explains one that is FOREIGN, UNREADABLE or an OBSTACLE, and a directory in
    place of a CONFIG.

    `status` is there if the listing tells it.
    """

    kind: ItemKind
    path: str
    reason: str = ""
    status: ItemStatus | None = None


class OpenItem(ABC):
    """An item as it was when it was opened, whatever has its path afterwards. One thread uses it.

    Methods raise NotFound if it was removed and cannot be read any longer, an Error and OSError.
    """

    status: ItemStatus

    @abstractmethod
    def has_digest(self, digest: str, algorithms: list[str], count: Callable[[int], None]) -> bool:
        """Whether its bytes have that digest by one of the algorithms. It may put the right one first.

        `count` gets the size of each read once, however often the item is read.
        """

    @abstractmethod
    def is_in_place(self) -> bool:
        """Whether its path still leads to it."""

    @abstractmethod
    def move_aside(self, suffix: str = "") -> str | None:
        """Move it to the quarantine if it is in place. Returns its new path, else None."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources."""


class CheckedStore(ABC):
    """A store as a check reads it, beside all who use it. Paths are within the store.

    One thread at a time calls `open` and `is_small_and_whole`; all threads call the rest. Methods raise an Error or
    OSError if the store cannot be read.
    """

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """All items, one in memory at a time. Those that are made or removed meanwhile may be listed or not."""

    @abstractmethod
    def objects_of(self, repository: str) -> Iterator[Item]:
        """The objects of a repository in the order of their names."""

    @abstractmethod
    def status(self, path: str) -> ItemStatus:
        """Look up an item. Raises NotFound."""

    @abstractmethod
    def open(self, path: str) -> OpenItem:
        """Open an item for reading. Raises NotFound."""

    def locate(self, path: str) -> OpenItem:
        """Open an item that is to be moved and not read, whatever it is. Raises NotFound."""
        return self.open(path)

    @abstractmethod
    def failure(self, path: str, error: Exception) -> Finding:
        """The finding for an item that cannot be read. Raises the error if it is not the item's."""

    def is_small_and_whole(self, path: str, algorithm: str, count: Callable[[int], None]) -> bool:
        """Whether it takes no time to see that an object is whole. False means that it must be opened."""
        return False

    def examine(self, item: Item, *, repair: bool) -> Iterator[Finding]:
        """What is wrong with a STAGING or a DATABASE."""
        return iter(())

    def losses(self) -> Sequence[Finding]:
        """What is seen only before the databases are opened."""
        return ()

    def usages(self) -> Iterator[Usage]:
        """What the store holds, if that is known long before all is read."""
        return iter(())


class _Files(NamedTuple):
    """What the files of a directory are. In a shard, names begin with that of the directory."""

    directory: re.Pattern[str]
    kind: ItemKind
    name: re.Pattern[str]


_SHARD = "[0-9a-f]{2}"
_RESTIC = f"{layout.RESTIC}/[^/]+"
_RESTIC_FLAT = f"(?:{'|'.join(name for name in layout.RESTIC_DIRECTORIES if name != 'data')})"
_GRAMMAR = tuple(
    _Files(re.compile(directory), kind, re.compile(name))
    for directory, kind, name in (
        (_SHARD, ItemKind.OBJECT, "[0-9a-f]{32,128}"),
        # A repository's objects, and those of names, are named by their SHA-256, drops by a random number.
        (f"{layout.REPOSITORIES}/[^/]+/{_SHARD}", ItemKind.OID, "[0-9a-f]{64}"),
        (f"{layout.NAMES}/[^/]+/{_SHARD}", ItemKind.NAMED, "[0-9a-f]{64}"),
        (f"{_RESTIC}/data/{_SHARD}|{_RESTIC}/{_RESTIC_FLAT}", ItemKind.OID, "[0-9a-f]{64}"),
        (_RESTIC, ItemKind.CONFIG, layout.RESTIC_CONFIG),
        (f"{layout.DROPS}/{_SHARD}", ItemKind.DROP, "[0-9a-f]{32}"),
        (layout.UPLOADS, ItemKind.UPLOAD, rf"[0-9a-f]{{32}}(?:{re.escape(layout.UPLOAD_LOCK_SUFFIX)})?"),
        (f"{layout.UPLOADS}/[0-9a-f]{{32}}", ItemKind.SEGMENT, "[0-9]{1,18}"),
    )
)
_DIRECTORIES = re.compile(
    f"{_SHARD}|(?:{layout.REPOSITORIES}|{layout.NAMES})(?:/[^/]+(?:/{_SHARD})?)?|{layout.DROPS}(?:/{_SHARD})?|{layout.UPLOADS}"
    f"|{layout.RESTIC}|{_RESTIC}(?:/{_RESTIC_FLAT}|/data(?:/{_SHARD})?)?|{layout.STAGING}"
)


def files_of(directory: str) -> tuple[ItemKind, re.Pattern[str]] | None:
    """The kind and the names of the files that a directory has; None for one that has none."""
    for each in _GRAMMAR:
        if each.directory.fullmatch(directory):
            return each.kind, each.name
    return None


def is_directory(path: str) -> bool:
    """Whether the store has files or directories in a directory of that path."""
    return _DIRECTORIES.fullmatch(path) is not None


def is_in_shard(directory: str, name: str) -> bool:
    """Whether the directory is the shard of that name, if it is one.

    A repository of restic may have the name of a shard, and its config is in none.
    """
    shard = directory.rpartition("/")[2]
    return not layout.is_shard(shard) or layout.shard(name) == shard or name == layout.RESTIC_CONFIG
