"""Lists the directory of a disk store by what lies where: objects, drops, databases, obstacles, and foreign files.

It reads names and no contents, follows no symbolic link, and has one directory entry in memory at a time. Files that
are made or removed meanwhile may be listed or not.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from filestoraged.store import layout

_OBJECT_NAME = re.compile(r"[0-9a-f]{32,128}")
# A repository's objects are named by their SHA-256, drops by a random number.
_OID = re.compile(r"[0-9a-f]{64}")
_DROP_ID = re.compile(r"[0-9a-f]{32}")
_UPLOAD = re.compile(rf"[0-9a-f]{{32}}(?:{re.escape(layout.UPLOAD_LOCK_SUFFIX)})?")

_IS_LINK = "it is a symbolic link"
_NOT_A_FILE = "it is not a regular file"
_NOT_A_DIRECTORY = "it is not a directory"
_UNKNOWN_NAME = "the store has no such name here"
_WRONG_SHARD = "its name belongs in another directory"


class Kind(enum.Enum):
    OBJECT = "an object of files, named by any algorithm"
    OID = "an object of a repository"
    DROP = "the bytes of a drop"
    UPLOAD = "the bytes of an unfinished upload, or its lock file"
    SEGMENT = "a segment of an unfinished upload in an S3 store"
    DATABASE = "an SQLite file"
    AREA = "a process's staging area"
    OBSTACLE = "a file in place of a directory of the store"
    FOREIGN = "a name that the store does not use"
    UNREADABLE = "a directory that cannot be listed"


_OBJECTS = (Kind.OBJECT, Kind.OID)


class Item(NamedTuple):
    """`path` is within the store. `reason` explains one that is FOREIGN, UNREADABLE or an OBSTACLE."""

    kind: Kind
    path: str
    reason: str = ""


class Inventory:
    def __init__(self, root: str) -> None:
        self._root = root
        self._directories: dict[str, Callable[[str], Iterator[Item]]] = {
            layout.REPOSITORIES: self._list_repositories,
            layout.DROPS: lambda path: self._list_shards(path, Kind.DROP, _DROP_ID),
            layout.STAGING: self._list_areas,
            layout.UPLOADS: self._list_uploads,
            # Their contents are not checked.
            layout.DROP_OWNERS: _list_nothing,
            layout.UPLOAD_OWNERS: _list_nothing,
            layout.QUARANTINE: _list_nothing,
        }

    def items(self) -> Iterator[Item]:
        """All items. Raises OSError if the store itself cannot be listed."""
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.name == layout.LOST_AND_FOUND:
                    continue
                if entry.name in self._directories:
                    yield from self._enter(entry, self._directories[entry.name], "")
                elif layout.is_shard(entry.name):
                    yield from self._enter(entry, lambda path: self._list_shard(path, Kind.OBJECT, _OBJECT_NAME), "")
                elif entry.name in layout.DATABASES:
                    yield _file(entry, Kind.DATABASE, entry.name)
                elif not layout.is_beside_database(entry.name):
                    yield Item(Kind.FOREIGN, entry.name, _UNKNOWN_NAME)
                elif entry.is_symlink():
                    yield Item(Kind.FOREIGN, entry.name, _IS_LINK)

    def measure(self) -> Iterator[tuple[int, int]]:
        """Yield the number 1 and the size in bytes of each object, for sums of both."""
        for item in self.items():
            if item.kind in _OBJECTS:
                with suppress(OSError):
                    yield 1, os.stat(f"{self._root}/{item.path}", follow_symlinks=False).st_size

    def _list_repositories(self, path: str) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif layout.is_repository(entry.name) or entry.is_dir(follow_symlinks=False):
                yield from self._enter(entry, lambda path: self._list_shards(path, Kind.OID, _OID), f"{path}/")
            else:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _UNKNOWN_NAME)

    def _list_shards(self, path: str, kind: Kind, name: re.Pattern[str]) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif layout.is_shard(entry.name):
                yield from self._enter(entry, lambda path: self._list_shard(path, kind, name), f"{path}/")
            else:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _UNKNOWN_NAME)

    def _list_shard(self, path: str, kind: Kind, name: re.Pattern[str]) -> Iterator[Item]:
        shard = os.path.basename(path)
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif not name.fullmatch(entry.name):
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _UNKNOWN_NAME)
            elif layout.shard(entry.name) != shard:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _WRONG_SHARD)
            else:
                yield _file(entry, kind, f"{path}/{entry.name}")

    def _list_uploads(self, path: str) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif _UPLOAD.fullmatch(entry.name):
                yield _file(entry, Kind.UPLOAD, f"{path}/{entry.name}")
            else:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _UNKNOWN_NAME)

    def _list_areas(self, path: str) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif entry.is_dir(follow_symlinks=False):
                yield Item(Kind.AREA, f"{path}/{entry.name}")
            else:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _IS_LINK if entry.is_symlink() else _NOT_A_DIRECTORY)

    def _enter(self, entry: os.DirEntry[str], walk: Callable[[str], Iterator[Item]], above: str) -> Iterator[Item]:
        path = above + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(path)
        elif entry.is_symlink():
            # It may lead to a file system that is not mounted at present.
            yield Item(Kind.FOREIGN, path, _IS_LINK)
        else:
            yield Item(Kind.OBSTACLE, path, _NOT_A_DIRECTORY)

    def _entries(self, path: str) -> Iterator[os.DirEntry[str] | Item]:
        try:
            with os.scandir(f"{self._root}/{path}") as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            # Removed since it was listed.
            pass
        except OSError as error:
            yield Item(Kind.UNREADABLE, path, f"it cannot be listed: {error.strerror}")


def _file(entry: os.DirEntry[str], kind: Kind, path: str) -> Item:
    # A directory in place of an object is checked as one: no upload can replace it.
    if entry.is_file(follow_symlinks=False) or (kind in _OBJECTS and entry.is_dir(follow_symlinks=False)):
        return Item(kind, path)
    return Item(Kind.FOREIGN, path, _IS_LINK if entry.is_symlink() else _NOT_A_FILE)


def _list_nothing(path: str) -> Iterator[Item]:
    return iter(())
