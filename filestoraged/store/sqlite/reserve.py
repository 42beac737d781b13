"""Disk space that a database has in hand: a file beside it, which is given up where the disk is full.

Each change needs space first, a removal too: the log grows by it, and the database by what the log has. With the space
of the reserve rows can be removed, and what they stand for, which makes room for all else. Nothing else gets it.
"""

from __future__ import annotations

import contextlib
import os

from filestoraged.store import layout
from filestoraged.store.permissions import PRIVATE

# In bytes: what a checkpoint may add to a database whose rows are names of 1,000 characters.
_SIZE = 4 * 1024 * 1024


class Reserve:
    """The file is shared by all processes. Each method is called with the write lock of the database held."""

    def __init__(self, database: str) -> None:
        self._path = layout.reserve(database)

    def keep(self) -> None:
        """Make the file if it is missing and there is room for it."""
        with contextlib.suppress(OSError):
            if self._exists():
                return
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, PRIVATE.file)
            try:
                os.posix_fallocate(descriptor, 0, _SIZE)
            except BaseException:
                os.unlink(self._path)
                raise
            finally:
                os.close(descriptor)

    def give_up(self) -> bool:
        """Returns whether there was one."""
        try:
            os.unlink(self._path)
        except OSError:
            return False
        return True

    def _exists(self) -> bool:
        """Whether the whole file is there. Removes a part, which a process has left that died while it made it."""
        try:
            if os.lstat(self._path).st_size >= _SIZE:
                return True
        except FileNotFoundError:
            return False
        os.unlink(self._path)
        return False
