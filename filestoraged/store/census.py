"""How many objects a store on disk has, and how large they are together.

A folder whose time of change is what it was has what it had: of a store that rests, the folders alone are looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import time
from typing import Dict, Iterable, Iterator, NamedTuple, Tuple

_SHARD = re.compile("[0-9a-f]{2}")

# File systems tell the time of a change by a clock that ticks every few milliseconds. What has changed so shortly
# before it was counted, in nanoseconds, may have changed again in the same tick.
_TICK = 100_000_000
# Some have clocks of whole seconds.
_SECOND = 1_000_000_000
_COARSE_TICK = 2 * _SECOND

# Folders whose contents are remembered, in some 5 MiB; others are counted each time.
_REMEMBERED = 16_384

# Counting may take that part of one core.
_SHARE = 0.05


class Totals(NamedTuple):
    objects: int = 0
    size: int = 0

    def plus(self, other: "Totals") -> "Totals":
        return Totals(self.objects + other.objects, self.size + other.size)


class Census:
    """Counts what is in the store at `root`. Many threads ask; the lock has one of them count, and the others wait."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._counted: Dict[str, Totals] = {}
        self._next_time = 0.0
        # By a shard's path: when it had changed last, and what was in it then.
        self._shards: Dict[str, Tuple[int, Totals]] = {}

    def count(self) -> Dict[str, Totals]:
        """Return what files, repositories and drops have: as it is, or where counting takes long, as it was lately."""
        with self._lock:
            started = time.monotonic()
            if started >= self._next_time:
                repositories = os.path.join(self._root, "repositories")
                self._counted = {
                    "files": self._sum([self._root]),
                    "repositories": self._sum(entry.path for entry in _folders(repositories)),
                    "drops": self._sum([os.path.join(self._root, "drops")]),
                }
                ended = time.monotonic()
                self._next_time = ended + (ended - started) / _SHARE
            return self._counted

    def _sum(self, namespaces: Iterable[str]) -> Totals:
        totals = Totals()
        for namespace in namespaces:
            for entry in _folders(namespace):
                if _SHARD.fullmatch(entry.name):
                    totals = totals.plus(self._shard(entry.path))
        return totals

    def _shard(self, path: str) -> Totals:
        try:
            changed = os.stat(path).st_mtime_ns
        except FileNotFoundError:
            return Totals()
        known = self._shards.get(path)
        if known is not None and known[0] == changed:
            return known[1]
        now = time.time_ns()
        totals = _contents(path)
        tick = _TICK if changed % _SECOND else _COARSE_TICK
        if now - changed > tick and len(self._shards) < _REMEMBERED:
            self._shards[path] = changed, totals
        return totals


def _contents(path: str) -> Totals:
    totals = Totals()
    for entry in _entries(path):
        # It may have been removed since it was listed.
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                totals = totals.plus(Totals(1, status.st_size))
    return totals


def _folders(path: str) -> "Iterator[os.DirEntry[str]]":
    return (entry for entry in _entries(path) if entry.is_dir(follow_symlinks=False))


def _entries(path: str) -> "Iterator[os.DirEntry[str]]":
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        yield from entries
