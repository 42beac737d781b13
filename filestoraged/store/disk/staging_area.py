"""The staging areas of a disk store, one for each process, their files, and their sweep after a crash.

A process stages files in a directory that it holds an owner lock on. An area whose lock can be taken belongs to a dead
process, so a sweep never touches the area of a running daemon. A file gets a name among the objects when its bytes are
durable: its caller has made them so, by `sync` or by a record of the journal.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
from collections.abc import Callable, Sequence

from filestoraged.digest import Bytes
from filestoraged.file_lock import SHARED, try_lock
from filestoraged.store import layout
from filestoraged.store.disk.directories import Directories
from filestoraged.store.owner_locks import LockOwner, OwnerLocks, closed_after
from filestoraged.store.permissions import (
    PRIVATE,
    Permissions,
    create_file,
    make_directory,
    open_own_directory,
)
from filestoraged.store.system import LINUX, Files, System, exists, listed

log = logging.getLogger(__name__)


class StagingArea(OwnerLocks):
    """The stagings of one store in this process. Any thread calls it.

    A staging becomes an object by a new name, so it is created with the mode of objects.
    """

    def __init__(self, directories: Directories, permissions: Permissions = PRIVATE) -> None:
        super().__init__(f"{directories.root}/{layout.STAGING}", system=directories.system)
        self._directories = directories
        self._mode = permissions.file
        self._numbers = itertools.count()

    def create(self) -> tuple[str, int]:
        """Create an empty file. Returns its path, and a descriptor to write to it. Raises OSError and StoreDetached."""
        self._directories.identity.check()
        area = self.own()
        try:
            return self._create_in(area.path)
        except FileNotFoundError:
            # Another process or an operator removed the area.
            return self._create_in(self.renew(area).path)

    def stage(self) -> StagedFile:
        """A new file, as by `create`."""
        path, descriptor = self.create()
        return StagedFile(path, descriptor, system=self._system)

    def stage_link(self, source: str) -> StagedFile:
        """Another name of an existing file, whose bytes are complete and synced.

        Raises StoreDetached and OSError; EXDEV, EPERM and the like where a file cannot have a name here.
        """
        self._directories.identity.check()
        path = f"{self.own().path}/{next(self._numbers)}"
        self._system.link(source, path, follow_symlinks=False)
        try:
            descriptor = self._system.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            self._system.unlink(path)
            raise
        return StagedFile(path, descriptor, system=self._system, is_link=True)

    @property
    def directory(self) -> str:
        """That of the areas of all processes."""
        return self._directory

    def existing(self) -> LockOwner:
        """This process's entry, made anew if an operator has removed it. Raises OSError."""
        own = self.own()
        return own if exists(self._system, own.path) else self.renew(own)

    def living(self) -> set[str]:
        """The tokens of processes that are alive, this one's among them. Raises OSError."""
        living = {token for token in self.tokens() if self._is_alive(token)}
        # Whether an operator has removed its area or not.
        return living if self._own is None else living | {self._own.token}

    def sweep(self, make_superfluous: Callable[[], object] | None = None) -> int:
        """Remove the stagings of dead processes. Returns their number. Raises OSError and StoreDetached.

        `make_superfluous` is called if some of them have journals, which are removed as well: it syncs what they say,
        or raises an exception. Without it, journals are left alone.
        """
        self._directories.identity.check()
        # Those that are dead by now: what others record until they die is not covered.
        dead = [token for token in self.tokens() if not self._is_alive(token)]
        if make_superfluous is None:
            return sum(_sweep_or_warn(self.path(token), self._system, layout.is_segment) for token in dead)
        if any(map(layout.is_segment, itertools.chain(*map(self._listed, dead)))):
            make_superfluous()
        return sum(_sweep_or_warn(self.path(token), self._system, _is_nothing) for token in dead)

    def _is_alive(self, token: str) -> bool:
        if self._own is not None and token == self._own.token:
            return True
        try:
            descriptor = open_own_directory(self.path(token), system=self._system)
        except (FileNotFoundError, NotADirectoryError):
            return False
        with closed_after(descriptor, system=self._system):
            return not try_lock(descriptor, SHARED, flock=self._system.flock)

    def _listed(self, token: str) -> Sequence[str]:
        return listed(self._system, self.path(token))

    def _create_in(self, area: str) -> tuple[str, int]:
        path = f"{area}/{next(self._numbers)}"
        return path, create_file(path, self._mode, system=self._system)

    def _make(self, path: str) -> int:
        self._directories.make(self._directory, PRIVATE.directory)
        self._directories.refuse_link(path)
        # Not by `make`: one that was swept meanwhile must not be made again. Another sweep may still have it, and
        # remove what has its name.
        make_directory(path, PRIVATE.directory, system=self._system)
        return open_own_directory(path, system=self._system)

    def _remove(self, path: str) -> None:
        self._system.rmdir(path)


class StagedFile:
    """A file in the staging area, until it has a name among the objects. One thread at a time calls it."""

    __slots__ = ("_descriptor", "_is_link", "_is_staged", "_path", "_system")

    def __init__(self, path: str, descriptor: int, *, system: System, is_link: bool = False) -> None:
        """`is_link` says that it has another name elsewhere, perhaps the one that it is to get."""
        self._path = path
        self._descriptor = descriptor
        self._system = system
        self._is_link = is_link
        # Whether the file still has that path.
        self._is_staged = True

    def write(self, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            # A signal or a full disk may cut a write short. The next write raises the error, if there is one.
            view = view[self._system.write(self._descriptor, view) :]

    def sync(self) -> None:
        """Make the bytes durable. If that fails, they are discarded."""
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "The staging was discarded")
        try:
            self._system.fsync(self._descriptor)
        except OSError:
            # Discard: the kernel reports the error once, marks the pages as clean, and the next sync would succeed.
            self.discard()
            raise

    def rename(self, path: str) -> None:
        """Give the file a name, whether it is taken or not."""
        try:
            self._system.rename(self._path, path)
        except IsADirectoryError:
            raise IsADirectoryError(errno.EISDIR, f"{path!r} is a directory") from None
        self._is_staged = False
        if self._is_link:
            # Where both names are those of one file already, a rename changes nothing (POSIX, "rename").
            self._unlink()

    def discard(self) -> None:
        """Close the file, and remove it unless it has become an object. A second call does nothing."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            self._system.close(descriptor)
        finally:
            if self._is_staged:
                self._unlink()

    def _unlink(self) -> None:
        self._is_staged = False
        # An operator may have removed it. An earlier error is the one to report.
        with contextlib.suppress(FileNotFoundError):
            self._system.unlink(self._path)


def list_abandoned(path: str) -> Sequence[str]:
    """The stagings in the area at `path` if its owner is dead, else none. Raises OSError."""
    try:
        descriptor = open_own_directory(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    with closed_after(descriptor):
        # A shared lock: other checks may list it at the same time, and the owner's lock is exclusive.
        names = os.listdir(descriptor) if try_lock(descriptor, SHARED) else []
        return [name for name in names if not layout.is_segment(name)]


def sweep_area(path: str, spares: Callable[[str], bool] = layout.is_segment, *, system: Files = LINUX) -> int:
    """Remove the area at `path` if its owner is dead, but for files that it `spares`. Returns how many stagings it had.

    Raises OSError if one of them cannot be removed; all others are removed by then.
    """
    try:
        descriptor = open_own_directory(path, system=system)
    except (FileNotFoundError, NotADirectoryError):
        # Another process swept it since it was listed, or it is a foreign file.
        return 0
    with closed_after(descriptor, system=system):
        return _remove_all(path, descriptor, spares, system) if try_lock(descriptor, flock=system.flock) else 0


def _remove_all(path: str, descriptor: int, spares: Callable[[str], bool], system: Files) -> int:
    try:
        names = system.listdir(descriptor)
        failures = [_removal_failure(name, descriptor, system) for name in names if not spares(name)]
        for failure in failures:
            if failure is not None:
                raise failure
        if len(failures) == len(names):
            system.rmdir(path)
    except FileNotFoundError:
        # Another process swept it before it was locked here.
        return 0
    return sum(not layout.is_segment(name) for name in names)


def _sweep_or_warn(path: str, system: Files, spares: Callable[[str], bool]) -> int:
    """Sweep an area. A failure is logged: it must not keep a daemon from starting."""
    try:
        return sweep_area(path, spares, system=system)
    except OSError as error:
        log.warning("cannot remove stagings of a crashed process in %s: %s", path, error)
        return 0


def _is_nothing(_: str) -> bool:
    return False


def _removal_failure(name: str, directory: int, system: Files) -> OSError | None:
    try:
        system.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        return error
    return None
