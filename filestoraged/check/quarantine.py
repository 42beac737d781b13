"""Where files go that are to be out of the way and not lost: `ROOT/quarantine`, by the path that they had.

The invariant: what is moved there is the very file that was judged. A good upload that takes its name meanwhile keeps
it.
"""

from __future__ import annotations

import functools
import itertools
import os
from contextlib import suppress

from filestoraged.store import layout
from filestoraged.store.disk.directories import Directories, sync, try_link
from filestoraged.store.permissions import PRIVATE, create_file


class Quarantine:
    """The quarantine of the store in `root`. Many threads use it; so may other processes at the same time."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._directories = Directories(root)

    def move(self, path: str, descriptor: int) -> str | None:
        """Move the file that is open as `descriptor`, if `path` still leads to it. Returns where it is now, else None.

        Both paths are below the store. The descriptor keeps its inode from becoming another file's. Raises OSError.
        """
        judged = os.fstat(descriptor)
        into = os.path.dirname(f"{self._root}/{layout.quarantine_path(path)}")
        directory = self._directories.open(into)
        try:
            target = self._reserve(layout.quarantine_path(path))
            if not self._take(path, target, judged):
                return None
            # Where it is now comes first: a crash may leave it under both names, but not under none.
            self._directories.sync(into, directory)
        finally:
            os.close(directory)
        sync(os.path.dirname(f"{self._root}/{path}"))
        return target

    def _take(self, path: str, target: str, judged: os.stat_result) -> bool:
        source, destination = f"{self._root}/{path}", f"{self._root}/{target}"
        try:
            if not os.path.samestat(os.stat(source, follow_symlinks=False), judged):
                raise FileNotFoundError
            os.rename(source, destination)
        except OSError as error:
            os.unlink(destination)
            if isinstance(error, FileNotFoundError):
                return False
            raise
        if os.path.samestat(os.stat(destination, follow_symlinks=False), judged):
            return True
        # A good upload came between the look and the rename.
        self._give_back(source, destination)
        return False

    def _give_back(self, source: str, destination: str) -> None:
        parent, name = os.path.split(source)
        directory = self._directories.enter(parent, name, functools.partial(_restore, destination))
        try:
            self._directories.sync(parent, directory)
        finally:
            os.close(directory)

    def _reserve(self, wanted: str) -> str:
        """Make an empty file to rename over, since a rename asks nobody whether it may replace what is there."""
        for number in itertools.count():
            target = f"{wanted}.{number}" if number else wanted
            with suppress(FileExistsError):
                os.close(create_file(f"{self._root}/{target}", PRIVATE.file))
                return target
        raise AssertionError("numbers have no end")


def _restore(path: str, name: str, directory: int) -> None:
    """Give the file at `path` its name back. If another upload has the name by now, remove the file."""
    try:
        is_linked = try_link(path, name, directory)
    except FileExistsError:
        is_linked = True
    if is_linked:
        os.unlink(path)
    else:
        # Without hard links. The rename may replace an upload that took the name since, by the same bytes.
        os.rename(path, name, dst_dir_fd=directory)
