"""The identity of the store's directory and of each database: whether a path still leads to what was opened there.

A file system that is unmounted, and a directory or file that is moved, removed or replaced, leave a process with
descriptors that work as before, while changes go where no later process finds them, or below the mount point. So the
device and the inode of what the master opened are compared before changes, and where a lookup finds nothing.

A path that cannot be looked up counts as lost as well: on a disk that failed, XFS fails each `stat`. That is where a
dead disk (503) is told from the error of one file (500).
"""

from __future__ import annotations

import contextlib
import logging
import os
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from filestoraged.errors import StoreDetached
from filestoraged.shared_table import SharedTable
from filestoraged.store.system import LINUX, Files

log = logging.getLogger(__name__)

# What a lookup of a path fails with where nothing is.
_MISSING = (FileNotFoundError, NotADirectoryError)


class PathIdentity:
    """What was opened at a path. Make it before the fork: all workers compare with what the master has opened.

    Any thread calls it. Before `fix`, every check passes.
    """

    def __init__(self, path: str, subject: str, *, system: Files = LINUX) -> None:
        """`subject` names it in messages for clients, which have no paths."""
        self.path = path
        self._subject = subject
        self._system = system
        # Device and inode.
        self._opened: tuple[int, int] | None = None
        # What is kept open until the process ends: closing it would change what is at the path.
        self.kept: list[Any] = []
        # Whether the loss was logged: one cell that all workers write, so that one of them logs it.
        self._lost = SharedTable(1, 1).row(0)

    @property
    def is_fixed(self) -> bool:
        return self._opened is not None

    @property
    def is_lost(self) -> bool:
        """Whether the last check of any process failed. Costs no system call."""
        return self._lost[0] != 0

    def fix(self, *, is_held: bool = False) -> None:
        """Identify what is at the path now, which the caller keeps open if it `is_held`. Raises OSError.

        A second call does nothing.
        """
        if self._opened is None and is_held:
            status = self._system.stat(self.path)
            self._opened = status.st_dev, status.st_ino
        elif self._opened is None:
            # Held open, so that a file made later cannot get the number of an inode that was removed. With O_PATH,
            # closing it does not drop the locks that SQLite has on the file.
            descriptor = self._system.open(self.path, os.O_PATH | os.O_CLOEXEC)
            weakref.finalize(self, self._system.close, descriptor)
            status = self._system.fstat(descriptor)
            self._opened = status.st_dev, status.st_ino

    def check(self) -> None:
        """Raise StoreDetached unless the path leads to what was opened. One `stat`, about 1 us."""
        if self._opened is None:
            return
        try:
            status = self._system.stat(self.path)
        except _MISSING:
            fault = "is missing"
        except OSError as error:
            fault = f"cannot be reached: {error.strerror or error}"
        else:
            if (status.st_dev, status.st_ino) == self._opened:
                self._note_return()
                return
            fault = "is not what was opened there"
        self._note_loss(fault)
        raise StoreDetached(self._subject) from OSError(f"{self.path!r} {fault}")

    @contextlib.contextmanager
    def required(self) -> Iterator[None]:
        """A block that looks something up. If what was opened is lost, it raises StoreDetached, whatever it found."""
        try:
            yield
        finally:
            self.check()

    def _note_loss(self, fault: str) -> None:
        if not self._lost[0]:
            self._lost[0] = 1
            log.warning("%r %s; refusing what needs it until that is back, or until a restart", self.path, fault)

    def _note_return(self) -> None:
        if self._lost[0]:
            self._lost[0] = 0
            log.info("%r is back", self.path)


class PathIdentities:
    """Identities by path. A reload takes over those of the former configuration: only a restart opens others."""

    def __init__(self, former: PathIdentities | None = None) -> None:
        self._former: Mapping[str, PathIdentity] = {} if former is None else former._own
        self._own: dict[str, PathIdentity] = {}

    def of_root(self, path: str) -> PathIdentity:
        return self._own.setdefault(path, self._former.get(path) or root_identity(path))

    def of_database(self, path: str) -> PathIdentity:
        return self._own.setdefault(path, self._former.get(path) or database_identity(path))


def root_identity(path: str, *, system: Files = LINUX) -> PathIdentity:
    return PathIdentity(path, "The store's directory", system=system)


def database_identity(path: str) -> PathIdentity:
    return PathIdentity(path, "The database")
