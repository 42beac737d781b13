"""The quarantine: `ROOT/quarantine` keeps damaged files under the paths that they had.

A directory that was in place of an object is kept in the same way, a file that was in place of a directory with a
suffix: objects of that directory may be moved, too.

The invariant: the file that is moved is the one that was checked. An upload of the same name waits meanwhile.
"""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress

from filestoraged.store import layout
from filestoraged.store.disk.directories import sync
from filestoraged.store.disk.volume import Volume
from filestoraged.store.permissions import PRIVATE, create_file, make_directory


class Quarantine:
    """The quarantine of the store in `root`. Any thread calls it, and other processes may use it at the same time."""

    def __init__(self, volume: Volume) -> None:
        self._root = volume.root
        self._volume = volume
        self._directories = volume.directories

    def move(self, path: str, descriptor: int, suffix: str = "") -> str | None:
        """Move the file that is open as `descriptor`, if `path` still leads to it. Returns its new path, else None.

        Both paths are within the store; the new one gets the suffix. The open descriptor keeps its inode from being
        reused. Raises OSError, and StoreUnavailable.
        """
        with self._volume.changing(path):
            return self.move_unrecorded(path, descriptor, suffix)

    def move_unrecorded(self, path: str, descriptor: int, suffix: str = "") -> str | None:
        """Like `move`, for a file that no journal has records of."""
        checked = os.fstat(descriptor)
        into = os.path.dirname(f"{self._root}/{layout.quarantine_path(path)}")
        directory = self._directories.open(into)
        try:
            target = self._reserve(layout.quarantine_path(path) + suffix, checked)
            if not self._rename(path, target, checked):
                return None
            # The new name first: a crash may leave the file under both names, but not under neither.
            self._directories.sync(into, directory)
        finally:
            os.close(directory)
        sync(os.path.dirname(f"{self._root}/{path}"))
        return target

    def _rename(self, path: str, target: str, checked: os.stat_result) -> bool:
        source, destination = f"{self._root}/{path}", f"{self._root}/{target}"
        try:
            if not os.path.samestat(os.stat(source, follow_symlinks=False), checked):
                raise FileNotFoundError
            os.rename(source, destination)
        except OSError as error:
            remove = os.rmdir if stat.S_ISDIR(checked.st_mode) else os.unlink
            remove(destination)
            # A file that replaced a directory cannot be renamed over one, nor the other way round.
            if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
                return False
            raise
        return True

    def _reserve(self, wanted: str, checked: os.stat_result) -> str:
        """Make an empty file or directory to rename over, since a rename replaces an existing one."""
        for number in itertools.count():
            target = f"{wanted}.{number}" if number else wanted
            with suppress(FileExistsError):
                if stat.S_ISDIR(checked.st_mode):
                    make_directory(f"{self._root}/{target}", PRIVATE.directory)
                else:
                    os.close(create_file(f"{self._root}/{target}", PRIVATE.file))
                return target
        raise AssertionError("itertools.count() ended")
