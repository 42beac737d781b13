"""Moves the objects of a repository that nothing refers to any longer to the quarantine.

A daemon may use the repository meanwhile. An object that is uploaded again is as old as that upload, and the quarantine
moves the very file that was found to be old: an upload of the same bytes that comes between the two keeps its name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from filestoraged.check.throttle import Throttle
from filestoraged.errors import CheckError
from filestoraged.store import layout
from filestoraged.store.disk.quarantine import Quarantine
from filestoraged.store.disk.store import DiskStore

# The oid at the beginning of a line, as `git lfs ls-files --long` prints it.
_OID = re.compile(rb"[0-9a-fA-F]{64}")

# Names in one page of the listing.
_PAGE = 10_000

# An object that a symbolic link stands for is not ours to move.
_OPEN_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Pruned(NamedTuple):
    """An object that was moved. `path` is where it is now, within the store; None if it was not moved."""

    oid: str
    # In bytes.
    size: int
    # Seconds since 1970.
    modified: int
    path: str | None


class PruneTotals:
    """What a run has found so far: objects that are kept because they are named, or because they are recent."""

    def __init__(self) -> None:
        self.named = self.recent = self.pruned = 0
        # In bytes, of the pruned objects.
        self.size = 0


def read_keep_list(lines: Iterable[bytes]) -> frozenset[bytes]:
    """Return the oids, as bytes, that the lines begin with. Raises CheckError for a line without one.

    A wrong list must not empty a repository, so one bad line refuses all of it.
    """
    keep = set()
    for number, line in enumerate(lines, 1):
        words = line.split(maxsplit=1)
        if words:
            if not _OID.fullmatch(words[0]):
                raise CheckError(f"line {number} of the keep list begins with {_shown(words[0])}: expected an oid")
            keep.add(bytes.fromhex(words[0].decode()))
    return frozenset(keep)


class Prune:
    """One run over the repository `name` of the store in the directory `root`. One thread calls it."""

    def __init__(self, root: str, name: str, keep: frozenset[bytes], *, before: float, throttle: Throttle) -> None:
        """Objects that were stored at `before` or later, in seconds since 1970, stay."""
        self.totals = PruneTotals()
        self._root = os.path.abspath(root)
        self._path = f"{layout.REPOSITORIES}/{name}"
        self._store = DiskStore(f"{self._root}/{self._path}")
        self._keep = keep
        self._before = before
        self._throttle = throttle
        self._quarantine = Quarantine(self._root)

    def find(self) -> Iterator[Pruned]:
        """Yield what `run` would move. Raises OSError, and CheckStopped."""
        for oid, descriptor, status in self._candidates():
            os.close(descriptor)
            yield self._count(Pruned(oid, status.st_size, int(status.st_mtime), None))

    def run(self) -> Iterator[Pruned]:
        """Move the objects, and yield each of them. Raises OSError, and CheckStopped."""
        for oid, descriptor, status in self._candidates():
            try:
                moved = self._quarantine.move(f"{self._path}/{layout.object_path(oid)}", descriptor)
            finally:
                os.close(descriptor)
            # None: it was removed, or uploaded again, since it was opened.
            if moved is not None:
                yield self._count(Pruned(oid, status.st_size, int(status.st_mtime), moved))

    def _count(self, pruned: Pruned) -> Pruned:
        self.totals.pruned += 1
        self.totals.size += pruned.size
        return pruned

    def _candidates(self) -> Iterator[tuple[str, int, os.stat_result]]:
        """Yield the objects that are neither named nor recent, with a descriptor that the caller closes."""
        for oid in self._oids():
            self._throttle.raise_if_stopped()
            if bytes.fromhex(oid) in self._keep:
                self.totals.named += 1
                continue
            with suppress(FileNotFoundError, NotADirectoryError):
                descriptor = os.open(self._store.path(oid), _OPEN_FLAGS)
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode) and status.st_mtime < self._before:
                    yield oid, descriptor, status
                    continue
                os.close(descriptor)
                self.totals.recent += stat.S_ISREG(status.st_mode)

    def _oids(self) -> Iterator[str]:
        page = self._store.list(limit=_PAGE)
        while page:
            yield from (name for name in page if len(name) == 64)
            page = self._store.list(page[-1], _PAGE)


def _shown(word: bytes) -> str:
    """Return the beginning of a word as a message quotes it."""
    return repr(word[:80].decode("utf-8", "replace"))
