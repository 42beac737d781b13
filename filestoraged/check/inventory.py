"""What lies in the directory of a disk store, by where it lies: objects, drops, databases, and what is not ours.

It looks at names and at nothing within files, follows no symbolic link, and has one directory's entry in memory at a
time. What comes and goes meanwhile is seen or not.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from filestoraged.store import layout

_OBJECT = re.compile(r"[0-9a-f]{32,128}")
# A repository's objects are named by their SHA-256, drops by a random number.
_OID = re.compile(r"[0-9a-f]{64}")
_DROP = re.compile(r"[0-9a-f]{32}")

_LINK = "it is a symbolic link"
_NO_FILE = "it is no file"
_NO_DIRECTORY = "it is no directory"
_NO_NAME = "nothing of ours has such a name"
_ELSEWHERE = "it would lie in another folder"


class Kind(enum.Enum):
    OBJECT = "of the files, by any algorithm"
    OID = "of a repository"
    DROP = "the bytes of a drop"
    DATABASE = "an SQLite file"
    AREA = "a process's stagings"
    FOREIGN = "what is not ours"
    UNREADABLE = "a directory that cannot be listed"


class Item(NamedTuple):
    """`path` is below the store. `reason` is what is wrong with a FOREIGN or an UNREADABLE one."""

    kind: Kind
    path: str
    reason: str = ""


class Inventory:
    def __init__(self, root: str) -> None:
        self._root = root
        self._directories: dict[str, Callable[[str], Iterator[Item]]] = {
            layout.REPOSITORIES: self._repositories,
            layout.DROPS: lambda path: self._shards(path, Kind.DROP, _DROP),
            layout.STAGING: self._areas,
            # Whatever lies there is known already, or somebody else's business.
            layout.DROP_OWNERS: _nothing,
            layout.QUARANTINE: _nothing,
            layout.LOST_AND_FOUND: _nothing,
        }

    def items(self) -> Iterator[Item]:
        """All there is. Raises OSError where the store itself cannot be listed."""
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.name in self._directories:
                    yield from self._within(entry, self._directories[entry.name], "")
                elif layout.is_shard(entry.name):
                    yield from self._within(entry, lambda path: self._shard(path, Kind.OBJECT, _OBJECT), "")
                elif entry.name in layout.DATABASES:
                    yield _file(entry, Kind.DATABASE, entry.name)
                elif not layout.is_beside_database(entry.name):
                    yield Item(Kind.FOREIGN, entry.name, _NO_NAME)

    def measure(self) -> Iterator[tuple[int, int]]:
        """How many objects there are, and how many bytes they have, of one after the other."""
        for item in self.items():
            if item.kind in (Kind.OBJECT, Kind.OID):
                with suppress(OSError):
                    yield 1, os.stat(f"{self._root}/{item.path}", follow_symlinks=False).st_size

    def _repositories(self, path: str) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            else:
                yield from self._within(entry, lambda path: self._shards(path, Kind.OID, _OID), f"{path}/")

    def _shards(self, path: str, kind: Kind, name: re.Pattern[str]) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif layout.is_shard(entry.name):
                yield from self._within(entry, lambda path: self._shard(path, kind, name), f"{path}/")
            else:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _NO_NAME)

    def _shard(self, path: str, kind: Kind, name: re.Pattern[str]) -> Iterator[Item]:
        shard = os.path.basename(path)
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            elif not name.fullmatch(entry.name):
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _NO_NAME)
            elif layout.shard(entry.name) != shard:
                yield Item(Kind.FOREIGN, f"{path}/{entry.name}", _ELSEWHERE)
            else:
                yield _file(entry, kind, f"{path}/{entry.name}")

    def _areas(self, path: str) -> Iterator[Item]:
        for entry in self._entries(path):
            if isinstance(entry, Item):
                yield entry
            else:
                yield from self._within(entry, lambda path: iter((Item(Kind.AREA, path),)), f"{path}/")

    def _within(self, entry: os.DirEntry[str], walk: Callable[[str], Iterator[Item]], above: str) -> Iterator[Item]:
        path = above + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(path)
        else:
            yield Item(Kind.FOREIGN, path, _LINK if entry.is_symlink() else _NO_DIRECTORY)

    def _entries(self, path: str) -> Iterator[os.DirEntry[str] | Item]:
        try:
            with os.scandir(f"{self._root}/{path}") as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError):
            # Somebody has tidied up since it was listed.
            pass
        except OSError as error:
            yield Item(Kind.UNREADABLE, path, f"it cannot be listed: {error.strerror}")


def _file(entry: os.DirEntry[str], kind: Kind, path: str) -> Item:
    if entry.is_file(follow_symlinks=False):
        return Item(kind, path)
    return Item(Kind.FOREIGN, path, _LINK if entry.is_symlink() else _NO_FILE)


def _nothing(path: str) -> Iterator[Item]:
    return iter(())
