"""Where a disk store's stagings lie, and who may sweep them.

A staging is a file that its process holds a lock on. The lock dies with the process, however it dies, so a
staging whose lock can be taken is a dead one's, and one of a daemon that is alive is never touched.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from typing import Tuple


class Stagings:
    """The stagings of one store. It holds nothing itself, so threads and forks may share it."""

    def __init__(self, root: str) -> None:
        self._directory = os.path.join(root, "staging")

    def create(self) -> Tuple[str, int]:
        """Make an empty file, and return its path and a descriptor to write it by, whose lock is held."""
        while True:
            path = os.path.join(self._directory, secrets.token_hex(8))
            descriptor = self._open_new(path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A daemon that starts may have swept it before it was locked.
            if os.fstat(descriptor).st_nlink:
                return path, descriptor
            os.close(descriptor)

    def sweep(self) -> int:
        """Remove what processes that are gone have left. Returns how many stagings that was."""
        os.makedirs(self._directory, exist_ok=True)
        return sum(_sweep(os.path.join(self._directory, name)) for name in os.listdir(self._directory))

    def _open_new(self, path: str) -> int:
        # rw for all that the umask allows: nginx may be the one to read it.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            os.makedirs(self._directory, exist_ok=True)
            return os.open(path, flags, 0o666)


def _sweep(path: str) -> bool:
    """Remove one staging, if it is a dead one's, under its lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, IsADirectoryError):
        # Committed or discarded since it was listed; or not ours.
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except (BlockingIOError, FileNotFoundError):
        return False
    finally:
        os.close(descriptor)
