"""Moves the objects of a repository that nothing refers to any longer to the quarantine.

A daemon may use the repository meanwhile. An object that is uploaded again is as old as that upload, and the quarantine
moves the very file that was found to be old: an upload of the same bytes that comes between the two keeps its name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from filestoraged.check.inventory import CheckedStore, ItemStatus
from filestoraged.check.throttle import Throttle
from filestoraged.command_errors import CheckError
from filestoraged.errors import NotFound

# The oid at the beginning of a line, as `git lfs ls-files --long` prints it.
_OID = re.compile(rb"[0-9a-fA-F]{64}")


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
    """One run over the repository `name` of a store. One thread calls it."""

    def __init__(
        self, store: CheckedStore, name: str, keep: frozenset[bytes], *, before: float, throttle: Throttle
    ) -> None:
        """Objects that were stored at `before` or later, in seconds since 1970, stay."""
        self.totals = PruneTotals()
        self._store = store
        self._name = name
        self._keep = keep
        self._before = before
        self._throttle = throttle

    def find(self) -> Iterator[Pruned]:
        """Yield what `run` would move. Raises an Error, OSError, and CheckStopped."""
        for path, status in self._candidates():
            yield self._count(path, status, None)

    def run(self) -> Iterator[Pruned]:
        """Move the objects, and yield each of them. Raises an Error, OSError, and CheckStopped."""
        for path, status in self._candidates():
            moved = self._move(path)
            # None: it was removed, or uploaded again, since it was listed.
            if moved is not None:
                yield self._count(path, status, moved)

    def _move(self, path: str) -> str | None:
        try:
            with closing(self._store.locate(path)) as found:
                return found.move_aside() if self._is_old(found.status) else None
        except NotFound:
            return None

    def _is_old(self, status: ItemStatus) -> bool:
        # An object that a symbolic link stands for is not ours to move.
        return stat.S_ISREG(status.mode) and status.modified < self._before

    def _count(self, path: str, status: ItemStatus, moved: str | None) -> Pruned:
        self.totals.pruned += 1
        self.totals.size += status.size
        return Pruned(os.path.basename(path), status.size, int(status.modified), moved)

    def _candidates(self) -> Iterator[tuple[str, ItemStatus]]:
        """Yield the objects that are neither named nor recent."""
        for item in self._store.objects_of(self._name):
            self._throttle.raise_if_stopped()
            if bytes.fromhex(os.path.basename(item.path)) in self._keep:
                self.totals.named += 1
                continue
            with suppress(NotFound):
                status = item.status or self._store.status(item.path)
                if self._is_old(status):
                    yield item.path, status
                else:
                    self.totals.recent += stat.S_ISREG(status.mode)


def _shown(word: bytes) -> str:
    """Return the beginning of a word as a message quotes it."""
    return repr(word[:80].decode("utf-8", "replace"))
