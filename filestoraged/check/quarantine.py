"""Where files go that are to be out of the way and not lost: `ROOT/quarantine`, by the path that they had.

The invariant: what is moved there is the very file that was judged. A good upload that takes its name meanwhile keeps
it.
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import Optional

from filestoraged.store.directories import Directories, sync


class Quarantine:
    """The quarantine of the store in `root`. Many threads use it; so may other processes at the same time."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._directories = Directories(root)

    def move(self, path: str, descriptor: int) -> Optional[str]:
        """Move the file that is open as `descriptor`, if `path` still leads to it. Returns where it is now, else None.

        Both paths are below the store. The descriptor keeps its inode from becoming another file's. Raises OSError.
        """
        judged = os.fstat(descriptor)
        directory = self._directories.open(os.path.dirname(f"{self._root}/quarantine/{path}"))
        try:
            target = self._reserve(f"quarantine/{path}")
            if not self._take(path, target, judged):
                return None
            # Where it is now comes first: a crash may leave it under both names, but not under none.
            os.fsync(directory)
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
        # A good upload came between the look and the rename. One that came still later has the name, and may keep it.
        with suppress(FileExistsError):
            os.link(destination, source, follow_symlinks=False)
            sync(os.path.dirname(source))
        os.unlink(destination)
        return False

    def _reserve(self, wanted: str) -> str:
        """Make an empty file to rename over, since a rename asks nobody whether it may replace what is there."""
        for number in itertools.count():
            target = f"{wanted}.{number}" if number else wanted
            with suppress(FileExistsError):
                os.close(os.open(f"{self._root}/{target}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
                return target
        raise AssertionError("numbers have no end")
