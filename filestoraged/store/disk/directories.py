"""Directories that survive a power failure: a name is durable once the directory it stands in is synced."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

from filestoraged.store.disk.permissions import PRIVATE, Permissions, make_directory

# Directories whose entries are known to be durable, at most: one for each repository, in some 8 MiB where names are
# as long as they may be. Forgetting one costs a sync.
_REMEMBERED = 16_384

# Seconds in which a directory is made again before it is an error. Each time, another process has removed the last
# file in it; one that is about to remove the directory may have lost its processor, so others wait between attempts.
_PATIENCE = 5.0
_PAUSE = 0.001

# File systems tell the time of a change by a clock that ticks every few milliseconds, in nanoseconds here. What has
# changed so shortly before it was looked at may have changed again in the same tick.
_TICK = 100_000_000
# Some have clocks of whole seconds.
_SECOND = 1_000_000_000
_COARSE_TICK = 2 * _SECOND

# A directory as it was at one moment: device, inode and time of change.
_State = tuple[int, int, int]


class Directories:
    """Makes the directories of the store in `root`, and makes their names durable.

    Other workers and daemons make and remove shard directories at the same time. So a name is not remembered as
    durable, but the state of the directory that it stands in: as long as that did not change since it was synced, all
    of its entries are durable, whoever made them.

    Many threads call it. To do a thing twice is harmless, so it has no lock.
    """

    def __init__(self, root: str, modes: Permissions = PRIVATE) -> None:
        self.root = root
        self._modes = modes
        self._durable: dict[str, _State] = {}

    def make_root(self) -> None:
        """Make the store's own directory and those above it that are missing, each of them durable. Raises OSError."""
        _make_durable(self.root, self._modes.directory)

    def make(self, path: str, mode: int) -> None:
        """Make the directory `path` and those above it that are missing. Raises OSError."""
        if path == self.root:
            self.make_root()
            return
        with contextlib.suppress(FileExistsError):
            try:
                make_directory(path, mode)
            except FileNotFoundError:
                self.make(os.path.dirname(path), self._modes.directory)
                make_directory(path, mode)

    def open(self, path: str) -> int:
        """Return a descriptor of the directory `path`, made where it was missing.

        Raises FileNotFoundError where another process removes it at the same time, and other OSErrors.
        """
        try:
            return open_directory(path)
        except FileNotFoundError:
            self.make(path, self._modes.directory)
            return open_directory(path)

    def enter(self, path: str, name: str, move: Callable[[str, int], None]) -> int:
        """Call `move` with `name` and a descriptor of the directory `path`, to put that name there.

        Returns the descriptor, to sync and close it. The directory is made again where a removal has emptied it and
        removed it meanwhile. By a path instead of the descriptor, the name could get into another directory than the
        one that is synced. Raises OSError, and what `move` does.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            descriptor = -1
            try:
                # Opened before the move, so that running out of descriptors leaves nothing visible.
                descriptor = self.open(path)
                move(name, descriptor)
                return descriptor
            except BaseException as error:
                if descriptor >= 0:
                    os.close(descriptor)
                if not isinstance(error, FileNotFoundError) or time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE)

    def sync(self, path: str, descriptor: int) -> None:
        """Make the names in the directory `path` durable, which is open as `descriptor`, and its own name."""
        os.fsync(descriptor)
        self._sync_name(path)

    def _sync_name(self, path: str) -> None:
        """Sync the directory above `path`, unless it is as it was when it was synced last."""
        if path == self.root:
            # That is done where it is made.
            return
        parent = path[: path.rindex("/")]
        status = os.stat(parent)
        state = status.st_dev, status.st_ino, status.st_ctime_ns
        if self._durable.get(parent) == state:
            return
        self._sync_name(parent)
        sync(parent)
        # Not where the sync failed, nor where another change would not show.
        if is_past(status.st_ctime_ns):
            if len(self._durable) >= _REMEMBERED:
                self._durable.clear()
            self._durable[parent] = state


def is_past(changed: int) -> bool:
    """Whether something that changed at that time, in nanoseconds since 1970, would show another time by now."""
    return time.time_ns() - changed > (_TICK if changed % _SECOND else _COARSE_TICK)


def sync(path: str) -> None:
    """Make the names in the directory `path` durable."""
    descriptor = open_directory(path)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _make_durable(path: str, mode: int) -> None:
    parent = os.path.dirname(path)
    if os.path.isdir(path):
        # Whoever made it may not have synced it. Often only somebody else may: systemd, or an installer.
        with contextlib.suppress(OSError):
            sync(parent)
        return
    if not os.path.isdir(parent):
        _make_durable(parent, mode)
    with contextlib.suppress(FileExistsError):
        make_directory(path, mode)
    try:
        sync(parent)
    except PermissionError:
        # It may be written and not read.
        pass
    except OSError:
        # Made anew, it is in the journal again; found there, it would be taken for durable.
        with contextlib.suppress(OSError):
            os.rmdir(path)
        raise
