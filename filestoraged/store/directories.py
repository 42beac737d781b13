"""Directories that survive a power failure: a name is durable once the directory it stands in is synced."""

from __future__ import annotations

import contextlib
import os
from typing import Set

# Paths remembered at most: some 10 MiB. Forgetting one costs a sync, not an object.
_REMEMBERED = 65_536


class Directories:
    """Makes the directories below `root`, and remembers which are known to be durable.

    Many threads call it. To do a thing twice is harmless, so it has no lock.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._durable: Set[str] = set()

    def open(self, path: str) -> int:
        """Return a descriptor of the directory `path`, made where it was missing, for `os.fsync`."""
        if path not in self._durable:
            self._ensure(path)
        try:
            return _open(path)
        except FileNotFoundError:
            # Somebody tidied up while we ran.
            self._durable.clear()
            self._ensure(path)
            return _open(path)

    def _ensure(self, path: str) -> None:
        """Make `path` and sync the directory above it, even where it exists: whoever made it may not have yet."""
        if path in self._durable:
            return
        if path == self._root:
            os.makedirs(path, exist_ok=True)
        else:
            parent = os.path.dirname(path)
            self._ensure(parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            sync(parent)
        if len(self._durable) >= _REMEMBERED:
            self._durable.clear()
        self._durable.add(path)


def sync(path: str) -> None:
    """Make the names in the directory `path` durable."""
    descriptor = _open(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
