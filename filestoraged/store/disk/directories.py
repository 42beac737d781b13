"""Directories whose entries survive a power failure: a name is durable once its directory is synced."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable

from filestoraged.bounded_cache import BoundedCache
from filestoraged.store import layout
from filestoraged.store.path_identity import PathIdentity, root_identity
from filestoraged.store.permissions import PRIVATE, Permissions, make_directory, require_directory
from filestoraged.store.system import LINUX, Files, System, is_directory

# Directories whose entries are known to be durable, one for each repository: at most 8 MiB with the longest names.
# Forgetting one costs a sync.
_MAX_DURABLE = 16_384

# Times that `place` makes a directory again: without pauses, since others wait for its caller.
_PLACE_ATTEMPTS = 100

# In nanoseconds. File systems take the time of a change from a clock that ticks every few milliseconds, so another
# change may follow in the same tick and show the same time.
_TICK = 100_000_000
# Some file systems have clocks of whole seconds.
_SECOND = 1_000_000_000
_COARSE_TICK = 2 * _SECOND

# A directory that may not be read or synced by this user, because systemd or an installer made it.
_NOT_SYNCABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EINVAL)

# The state of a directory: device, inode and time of change.
_State = tuple[int, int, int]


class Directories:
    """Makes the directories of the store in `root`, and makes their names durable.

    Other workers and daemons make and remove shard directories at the same time. So it does not remember which name is
    durable, but the state of the directory that contains the name: while that state has not changed since the last
    sync, all entries of the directory are durable, whichever process made them.

    Any thread calls it. Making or syncing a directory twice is harmless, so it needs no lock.
    """

    def __init__(
        self,
        root: str,
        permissions: Permissions = PRIVATE,
        *,
        identity: PathIdentity | None = None,
        system: System = LINUX,
    ) -> None:
        self.root = root
        self.system = system
        # Nothing is made in the place of a root that is lost.
        self.identity = identity or root_identity(root, system=system)
        self._permissions = permissions
        self._durable: BoundedCache[str, _State] = BoundedCache(entries=_MAX_DURABLE)
        # The device and the inode of the root directory whose own entry is durable.
        self._durable_root: tuple[int, int] | None = None

    def make_root(self) -> None:
        """Make the root directory and those above it that are missing, each of them durable. Raises OSError.

        One that was identified is not made again: raises StoreDetached.
        """
        self.identity.check()
        # Not made again if it is lost just now.
        if self.identity.is_fixed or is_directory(self.system, self.root):
            self._sync_root()
        else:
            _make_durable(self.system, self.root, self._permissions.directory)
            self._durable_root = self._root_identity()

    def make(self, path: str, mode: int) -> None:
        """Make the directory `path` and those above it that are missing. Raises OSError and StoreDetached."""
        if path == self.root:
            self.make_root()
            return
        self.identity.check()
        self.refuse_link(path)
        try:
            try:
                make_directory(path, mode, system=self.system)
            except FileNotFoundError:
                self.make(os.path.dirname(path), self._permissions.directory)
                make_directory(path, mode, system=self.system)
        except (FileExistsError, NotADirectoryError):
            self._refuse_file(path)

    def open(self, path: str) -> int:
        """Return a descriptor of the directory `path`, and make it if it is missing.

        Raises FileNotFoundError if another process removes it at the same time, other OSErrors, and StoreDetached.
        """
        self.refuse_link(path)
        try:
            return open_directory(path, system=self.system)
        except FileNotFoundError:
            self.make(path, self._permissions.directory)
            return open_directory(path, system=self.system)
        except NotADirectoryError:
            self._refuse_file(path)
            raise

    def place(self, path: str, rename: Callable[[str], None], name: str) -> None:
        """Let `rename` put `name` into the directory `path`, for a caller that syncs it next.

        If the directory is missing, or a removal removes it meanwhile, `place` makes it. Raises what `rename` raises.
        """
        for _ in range(_PLACE_ATTEMPTS):
            try:
                rename(name)
                return
            except FileNotFoundError:
                # Where it is removed again at once, `rename` tells.
                with contextlib.suppress(FileNotFoundError):
                    self.make(path, self._permissions.directory)
            except NotADirectoryError:
                self._refuse_file(path)
                raise
        rename(name)

    def refuse_link(self, path: str) -> None:
        """Raise OSError if `path` leads through a symbolic link in place of a directory of the daemon's own."""
        name, _, _ = path[len(self.root) + 1 :].partition("/")
        if name in layout.OWN_DIRECTORIES:
            require_directory(f"{self.root}/{name}", system=self.system)

    def _refuse_file(self, path: str) -> None:
        """Raise NotADirectoryError, which names it, if a file is in place of the directory `path` or of one above."""
        while True:
            try:
                # One look: another process may remove a directory between two.
                mode = self.system.lstat(path).st_mode
                break
            except (FileNotFoundError, NotADirectoryError):
                path = os.path.dirname(path)
        if not stat.S_ISDIR(mode) and not is_directory(self.system, path):
            raise NotADirectoryError(errno.ENOTDIR, f"{path!r} is not a directory")

    def sync(self, path: str, descriptor: int) -> None:
        """Make the names in the directory `path` durable, which is open as `descriptor`, and its own name."""
        self.system.fsync(descriptor)
        self._sync_name(path)

    def _sync_name(self, path: str) -> None:
        """Sync the directory above `path`, unless it has not changed since it was last synced."""
        if path == self.root:
            self._sync_root()
            return
        parent = path[: path.rindex("/")]
        status = self.system.stat(parent)
        state = status.st_dev, status.st_ino, status.st_ctime_ns
        if self._durable.get(parent) == state:
            return
        # Before the sync: a change during it must show another time.
        is_stable = is_past(status.st_ctime_ns, system=self.system)
        self._sync_name(parent)
        sync(parent, system=self.system)
        # Remember it only after a successful sync.
        if is_stable:
            self._durable.put(parent, state)

    def _sync_root(self) -> None:
        """Sync the directory above the root, once for each root directory that is made there. Raises OSError."""
        identity = self._root_identity()
        if self._durable_root == identity:
            return
        try:
            sync(os.path.dirname(self.root), system=self.system)
        except OSError as error:
            if error.errno not in _NOT_SYNCABLE:
                raise
        self._durable_root = identity

    def _root_identity(self) -> tuple[int, int]:
        status = self.system.stat(self.root)
        return status.st_dev, status.st_ino


def is_past(changed: int, *, system: System = LINUX) -> bool:
    """Whether a change at present would show another time than `changed`, in nanoseconds since 1970."""
    return system.time_ns() - changed > (_TICK if changed % _SECOND else _COARSE_TICK)


def sync(path: str, *, system: Files = LINUX) -> None:
    """Make the names in the directory `path` durable."""
    descriptor = open_directory(path, system=system)
    try:
        system.fsync(descriptor)
    finally:
        system.close(descriptor)


def open_directory(path: str, *, system: Files = LINUX) -> int:
    return system.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _make_durable(system: Files, path: str, mode: int) -> None:
    parent = os.path.dirname(path)
    if is_directory(system, path):
        # The process that made it may not have synced it. This user may lack the permission to.
        with contextlib.suppress(OSError):
            sync(parent, system=system)
        return
    if not is_directory(system, parent):
        _make_durable(system, parent, mode)
    with contextlib.suppress(FileExistsError):
        make_directory(path, mode, system=system)
    try:
        sync(parent, system=system)
    except PermissionError:
        # The parent may be writable and not readable.
        pass
    except OSError:
        # Made again later, it is in the journal again. Found there, it would be taken for durable.
        with contextlib.suppress(OSError):
            system.rmdir(path)
        raise
