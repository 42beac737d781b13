"""How many objects a store on disk has, and how large they are together.

A folder whose time of change is what it was has what it had: of a store that rests, the folders alone are looked at.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from filestoraged.store import layout
from filestoraged.store.disk.directories import is_past

# Folders whose contents are remembered, in 8 MiB at most; others are counted each time.
_REMEMBERED = 16_384

# Files that are looked at between two calls of `pause`: half a millisecond's.
_STEP = 100


class UsageTotals(NamedTuple):
    objects: int = 0
    size: int = 0

    def plus(self, other: UsageTotals) -> UsageTotals:
        return UsageTotals(self.objects + other.objects, self.size + other.size)


# By a shard's path below the store: when it had changed last, and what was in it then.
_Known = dict[str, tuple[int, int, int]]


class DiskUsage:
    """Counts what is in the store at `root`. One thread at a time calls it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._known: _Known = {}

    def count(self, pause: Callable[[], None]) -> dict[str, UsageTotals]:
        """Return what files, repositories and drops have. `pause` is called often, and may end it by an exception."""
        repositories = os.path.join(self._root, layout.REPOSITORIES)
        # What is not there any more is forgotten.
        before, self._known = self._known, {}
        return {
            "files": self._sum([self._root], before, pause),
            "repositories": self._sum((entry.path for entry in _folders(repositories)), before, pause),
            "drops": self._sum([os.path.join(self._root, layout.DROPS)], before, pause),
        }

    def _sum(self, namespaces: Iterable[str], before: _Known, pause: Callable[[], None]) -> UsageTotals:
        totals = UsageTotals()
        for namespace in namespaces:
            for entry in _folders(namespace):
                if layout.is_shard(entry.name):
                    totals = totals.plus(self._shard(entry.path, before, pause))
                    pause()
        return totals

    def _shard(self, path: str, before: _Known, pause: Callable[[], None]) -> UsageTotals:
        try:
            changed = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            return UsageTotals()
        key = path[len(self._root) :]
        known = before.get(key)
        if known is None or known[0] != changed:
            # Before it is counted: what changes meanwhile may not show.
            lasts = is_past(changed)
            known = (changed, *_contents(path, pause))
            if not lasts:
                return UsageTotals(*known[1:])
        if len(self._known) < _REMEMBERED:
            self._known[key] = known
        return UsageTotals(*known[1:])


def _contents(path: str, pause: Callable[[], None]) -> UsageTotals:
    objects = size = 0
    for number, entry in enumerate(_entries(path)):
        if not number % _STEP:
            pause()
        # There may be millions: a with-block each, or a sum of named tuples, takes as long as the look itself.
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            # It was removed since it was listed.
            continue
        if stat.S_ISREG(status.st_mode):
            objects += 1
            size += status.st_size
    return UsageTotals(objects, size)


def _folders(path: str) -> Iterator[os.DirEntry[str]]:
    return (entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False))


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        yield from entries
