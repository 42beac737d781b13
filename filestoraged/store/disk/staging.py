"""Where a disk store's stagings lie, and who may sweep them.

A process has its stagings in a directory of its own that it holds a lock on. The lock dies with the process, however
it dies, so a directory whose lock can be taken is a dead one's, and that of a daemon that is alive is never touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from filestoraged.store import layout
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.permissions import PRIVATE, Permissions, create_file, create_file_as_allowed, is_allowed

log = logging.getLogger(__name__)


class _Area(NamedTuple):
    """One process's stagings: the lock is held as long as `lock`, a descriptor, is open."""

    path: str
    lock: int
    pid: int
    numbers: Iterator[int]
    create: Callable[[str, int], int]


class StagingArea:
    """The stagings of one store, shared by its threads. The lock guards the making of an area.

    A staging becomes an object by a new name, so it is made with the mode that objects have.
    """

    def __init__(self, directories: Directories, modes: Permissions = PRIVATE) -> None:
        self._directories = directories
        self._directory = os.path.join(directories.root, layout.STAGING)
        self._mode = modes.file
        self._area: _Area | None = None
        self._making = threading.Lock()

    def create(self) -> tuple[str, int]:
        """Make an empty file, and return its path and a descriptor to write it by."""
        area = self._area
        if area is None or area.pid != os.getpid():
            area = self._renew(area)
        try:
            return self._create_in(area)
        except FileNotFoundError:
            # Somebody tidied up while we ran.
            return self._create_in(self._renew(area))

    def sweep(self) -> int:
        """Remove what processes that are gone have left. Returns how many stagings that was. Raises OSError."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return 0
        return sum(_sweep_or_warn(os.path.join(self._directory, name)) for name in names)

    def release(self) -> None:
        """Remove this process's area, which has no stagings. The next staging makes another one."""
        with self._making:
            area, self._area = self._area, None
        if area is not None and area.pid == os.getpid():
            with contextlib.suppress(OSError):
                os.rmdir(area.path)
            os.close(area.lock)

    def _create_in(self, area: _Area) -> tuple[str, int]:
        path = f"{area.path}/{next(area.numbers)}"
        return path, area.create(path, self._mode)

    def _renew(self, old: _Area | None) -> _Area:
        with self._making:
            if self._area is old or self._area is None:
                self._area = self._make_area()
            return self._area

    def _make_area(self) -> _Area:
        while True:
            path = os.path.join(self._directory, secrets.token_hex(8))
            self._directories.make(self._directory, PRIVATE.directory)
            self._directories.make(path, PRIVATE.directory)
            try:
                lock = _open(path)
            except FileNotFoundError:
                # A daemon that starts has swept it already.
                continue
            with _closed_on_error(lock):
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Or it has before it was locked.
                if os.fstat(lock).st_nlink:
                    create = create_file_as_allowed if is_allowed(path, self._mode) else create_file
                    return _Area(path, lock, os.getpid(), itertools.count(), create)
            os.close(lock)


def abandoned(path: str) -> list[str]:
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


def sweep_area(path: str) -> int:
    """Remove one area, if it is a dead one's, under its lock. Returns how many stagings that was.

    Raises OSError where something in it stays; all else is removed by then.
    """
    try:
        lock = _open(path)
    except (FileNotFoundError, NotADirectoryError):
        # Swept by another since it was listed; or not ours.
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        names = os.listdir(lock)
        failures = [error for error in (_removal_failure(name, lock) for name in names) if error is not None]
        if failures:
            raise failures[0]
        os.rmdir(path)
        return len(names)
    except (BlockingIOError, FileNotFoundError):
        return 0
    finally:
        os.close(lock)


def _sweep_or_warn(path: str) -> int:
    """What cannot be removed there must not keep a daemon from starting."""
    try:
        return sweep_area(path)
    except OSError as error:
        log.warning("cannot remove what a crash left in %s: %s", path, error)
        return 0


def _removal_failure(name: str, directory: int) -> OSError | None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise
