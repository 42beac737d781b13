"""Where a disk store's stagings lie, and who may sweep them.

A process has its stagings in a directory of its own that it holds a lock on. The lock dies with the process, however
it dies, so a directory whose lock can be taken is a dead one's, and that of a daemon that is alive is never touched.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import threading
from typing import Iterator, List, NamedTuple, Optional, Tuple


class _Area(NamedTuple):
    """One process's stagings: the lock is held as long as `lock`, a descriptor, is open."""

    path: str
    lock: int
    pid: int
    numbers: Iterator[int]


class Stagings:
    """The stagings of one store, shared by its threads. The lock guards the making of an area."""

    def __init__(self, root: str) -> None:
        self._directory = os.path.join(root, "staging")
        self._area: Optional[_Area] = None
        self._making = threading.Lock()

    def create(self) -> Tuple[str, int]:
        """Make an empty file, and return its path and a descriptor to write it by."""
        area = self._area
        if area is None or area.pid != os.getpid():
            area = self._renew(area)
        try:
            return _create_in(area)
        except FileNotFoundError:
            # Somebody tidied up while we ran.
            return _create_in(self._renew(area))

    def sweep(self) -> int:
        """Remove what processes that are gone have left. Returns how many stagings that was."""
        os.makedirs(self._directory, exist_ok=True)
        return sum(sweep_area(os.path.join(self._directory, name)) for name in os.listdir(self._directory))

    def _renew(self, old: Optional[_Area]) -> _Area:
        with self._making:
            if self._area is old or self._area is None:
                self._area = self._make_area()
            return self._area

    def _make_area(self) -> _Area:
        while True:
            path = os.path.join(self._directory, secrets.token_hex(8))
            os.makedirs(path)
            try:
                lock = _open(path)
            except FileNotFoundError:
                # A daemon that starts has swept it already.
                continue
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Or it has before it was locked.
            if os.fstat(lock).st_nlink:
                return _Area(path, lock, os.getpid(), itertools.count())
            os.close(lock)


def abandoned(path: str) -> List[str]:
    """The stagings in an area, if it is a dead one's. Raises OSError."""
    try:
        lock = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        # Shared: others may look at the same time. Whoever lives has it for himself.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.listdir(lock)
    except BlockingIOError:
        return []
    finally:
        os.close(lock)


def _open(path: str) -> int:
    # A link would lead to files that are not ours.
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _create_in(area: _Area) -> Tuple[str, int]:
    path = f"{area.path}/{next(area.numbers)}"
    # rw for all that the umask allows: nginx may be the one to read it.
    return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def sweep_area(path: str) -> int:
    """Remove one area, if it is a dead one's, under its lock. Returns how many stagings that was."""
    try:
        lock = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        # Swept by another since it was listed; or not ours.
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = os.listdir(lock)
        for name in names:
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
        return len(names)
    except (BlockingIOError, FileNotFoundError):
        return 0
    finally:
        os.close(lock)
