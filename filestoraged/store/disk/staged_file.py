"""A file in the staging area, from its first byte until it has a name among the objects.

The invariant: the bytes are durable before the file gets that name. Its caller has made them so, by `sync` or by a
record of the journal.
"""

from __future__ import annotations

import contextlib
import errno

from filestoraged.digest import Bytes
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.system import read_file


class StagedFile:
    """One thread at a time calls it."""

    __slots__ = ("_descriptor", "_is_link", "_is_staged", "_path", "_system")

    def __init__(self, area: StagingArea, directories: Directories, *, source: str | None = None) -> None:
        """A new file; or another name of the file `source`, whose bytes are complete and synced.

        Raises OSError; EXDEV, EPERM and the like where a file cannot have a name here.
        """
        self._system = directories.system
        # Whether it has another name elsewhere, perhaps the one that it is to get.
        self._is_link = source is not None
        self._path, self._descriptor = area.create() if source is None else area.link(source)
        # Whether the file still has that path.
        self._is_staged = True

    def write(self, data: Bytes) -> None:
        view = memoryview(data)
        while view:
            # A signal or a full disk may cut a write short. The next write raises the error, if there is one.
            view = view[self._system.write(self._descriptor, view) :]

    def read(self) -> bytes:
        """All of its bytes."""
        return read_file(self._system, self._path)

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
