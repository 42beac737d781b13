"""Disk space that a database has in hand: a file beside it, which is given up where the disk is full.

Each change needs space first, a removal too: the log grows by it, and the database by what the log has. With the space
of the reserve rows can be removed, and what they stand for, which makes room for all else. Nothing else gets it.
"""

from __future__ import annotations

import contextlib
import os

from filestoraged.store import layout
from filestoraged.store.permissions import PRIVATE

# In bytes: some fifty removals of names, or so many new pages of a database.
_SIZE = 1024 * 1024


class Reserve:
    """All processes share the file. The writer's thread calls it."""

    def __init__(self, database: str) -> None:
        self._path = layout.reserve(database)
        self._is_kept = False

    def keep(self) -> None:
        """Make the file if there is room for it."""
        if self._is_kept:
            return
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._path, flags, PRIVATE.file)
            try:
                os.posix_fallocate(descriptor, 0, _SIZE)
                self._is_kept = True
            except BaseException:
                os.unlink(self._path)
                raise
            finally:
                os.close(descriptor)

    def give_up(self) -> bool:
        """Returns whether there was one."""
        self._is_kept = False
        try:
            os.unlink(self._path)
        except OSError:
            return False
        return True
