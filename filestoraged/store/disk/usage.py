"""Counts the objects of a disk store and their bytes.

A directory whose modification time has not changed has the same entries as at the last count. So a count of a store
that is not written to reads the times of directories and lists none of them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator

from filestoraged.store import layout
from filestoraged.store.contract import Usage
from filestoraged.store.disk.directories import is_past
from filestoraged.store.system import LINUX, DirectoryEntry, System

# Shard directories whose counts are remembered, in 8 MiB at most. Others are listed at each count.
_MAX_COUNTED = 16_384

# Files between two calls of `pause`: half a millisecond of work.
_FILES_PER_PAUSE = 100

# By a shard's path below the store: its modification time at the last count, its objects and their bytes.
_Counts = dict[str, tuple[int, int, int]]


class DiskUsage:
    """Counts the objects of the store in `root`. One thread at a time calls it."""

    def __init__(self, root: str, *, system: System = LINUX) -> None:
        self._root = root
        self._system = system
        self._counts: _Counts = {}

    def count(self, pause: Callable[[], None]) -> dict[str, Usage]:
        """Count the objects of each interface. `pause` is called often; an exception of it ends the count."""
        # Counts of directories that were removed are forgotten.
        before, self._counts = self._counts, {}
        return {
            "files": self._sum([self._root], before, pause),
            "repositories": self._sum(self._namespaces(layout.REPOSITORIES), before, pause),
            "names": self._sum(self._namespaces(layout.NAMES), before, pause),
            "restic": self._restic(before, pause),
            "drops": self._sum([os.path.join(self._root, layout.DROPS)], before, pause),
        }

    def _namespaces(self, directory: str) -> Iterator[str]:
        return (entry.path for entry in _directories(self._system, os.path.join(self._root, directory)))

    def _sum(self, namespaces: Iterable[str], before: _Counts, pause: Callable[[], None]) -> Usage:
        usage = Usage()
        for namespace in namespaces:
            for entry in _directories(self._system, namespace):
                if layout.is_shard(entry.name):
                    usage = usage.plus(self._shard(entry.path, before, pause))
                    pause()
        return usage

    def _restic(self, before: _Counts, pause: Callable[[], None]) -> Usage:
        usage = Usage()
        for repository in _directories(self._system, os.path.join(self._root, layout.RESTIC)):
            usage = usage.plus(self._shard(repository.path, before, pause))
            for name in layout.RESTIC_DIRECTORIES:
                path = f"{repository.path}/{name}"
                is_flat = layout.is_flat(path[len(self._root) + 1 :])
                usage = usage.plus(self._shard(path, before, pause) if is_flat else self._sum([path], before, pause))
                pause()
        return usage

    def _shard(self, path: str, before: _Counts, pause: Callable[[], None]) -> Usage:
        try:
            changed = self._system.stat(path).st_mtime_ns
        except FileNotFoundError:
            return Usage()
        key = path[len(self._root) :]
        counted = before.get(key)
        if counted is None or counted[0] != changed:
            # Before the count: a change during it may not show in the modification time.
            is_stable = is_past(changed, system=self._system)
            counted = (changed, *_count_files(self._system, path, pause))
            if not is_stable:
                return Usage(*counted[1:])
        if len(self._counts) < _MAX_COUNTED:
            self._counts[key] = counted
        return Usage(*counted[1:])


def _count_files(system: System, path: str, pause: Callable[[], None]) -> Usage:
    objects = size = 0
    for number, entry in enumerate(_entries(system, path)):
        if not number % _FILES_PER_PAUSE:
            pause()
        # There may be millions: a with-block for each, or a sum of named tuples, takes as long as the system call.
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            # Removed since it was listed.
            continue
        if stat.S_ISREG(status.st_mode):
            objects += 1
            size += status.st_size
    return Usage(objects, size)


def _directories(system: System, path: str) -> Iterator[DirectoryEntry]:
    return (entry for entry in _entries(system, path) if entry.is_dir(follow_symlinks=False))


def _entries(system: System, path: str) -> Iterator[DirectoryEntry]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), system.scandir(path) as entries:
        yield from entries
