"""A file in the staging area, from its first byte until it has a name among the objects.

The invariant: the bytes are durable before the file gets that name. Its caller has made them so, by `sync` or by a
record of the journal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from filestoraged.digest import Bytes
from filestoraged.errors import AlreadyExists
from filestoraged.store.disk.directories import Directories, try_link
from filestoraged.store.disk.staging_area import StagingArea
from filestoraged.store.system import read_file


class StagedFile:
    """One thread at a time calls it. Paths of shard directories are absolute."""

    __slots__ = ("_descriptor", "_directories", "_is_link", "_is_new", "_is_staged", "_path", "_system")

    def __init__(self, area: StagingArea, directories: Directories, *, source: str | None = None) -> None:
        """A new file; or another name of the file `source`, whose bytes are complete and synced.

        Raises OSError; EXDEV, EPERM and the like where a file cannot have a name here.
        """
        self._directories = directories
        self._system = directories.system
        # Whether this file gave the object its name, so that a failed commit may take it back.
        self._is_new = False
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

    # A name is relative to an open directory; or it is a path, without one.

    def add(self, name: str, directory: int | None = None) -> None:
        """Give the file a name. Raises AlreadyExists if an object has it, and OSError if anything else has."""
        try:
            is_linked = self._link(name, directory)
        except AlreadyExists:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(self._system.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                    # A client that was told that the object exists would not send it again.
                    raise FileExistsError(errno.EEXIST, f"{name!r} is not a regular file") from None
            raise
        if not is_linked:
            raise OSError(errno.EOPNOTSUPP, "The file system has no hard links")

    def replace(self, name: str, directory: int | None = None) -> None:
        """Give the file a name, whether it is taken or not."""
        try:
            # A link tells for certain whether the name was free, even if other uploads of the same bytes race with it.
            if self._link(name, directory):
                return
        except AlreadyExists:
            pass
        try:
            self._system.rename(self._path, name, dst_dir_fd=directory)
        except IsADirectoryError:
            raise IsADirectoryError(errno.EISDIR, f"{name!r} is a directory") from None
        # Where both names are those of one file already, a rename changes nothing (POSIX, "rename").
        self._unlink()

    def rename(self, path: str) -> None:
        """Give the file a name, whether it is taken or not; for a caller that need not know."""
        try:
            self._system.rename(self._path, path)
        except IsADirectoryError:
            raise IsADirectoryError(errno.EISDIR, f"{path!r} is a directory") from None
        self._is_staged = False
        if self._is_link:
            # Where both names are those of one file already, a rename changes nothing (POSIX, "rename").
            self._unlink()

    def take_back(self, shard: str, path: str) -> None:
        """Remove the name of an object whose commit failed, if this file gave it that name.

        Another upload of the same bytes may have the name by now, and keeps it. Raises OSError.
        """
        if not self._is_new:
            return
        own = self._system.fstat(self._descriptor)
        if not os.path.samestat(self._system.stat(path, follow_symlinks=False), own):
            return
        self._is_new = False
        self._system.rename(path, self._path)
        self._is_staged = True
        if os.path.samestat(self._system.stat(self._path, follow_symlinks=False), own):
            self._system.rmdir(shard)
            return
        # Another upload took the name between `stat` and `rename`, and its client was told that it is stored.
        with contextlib.suppress(AlreadyExists):
            restored = self._directories.enter(shard, os.path.basename(path), self.add)
            try:
                self._directories.sync(shard, restored)
            finally:
                self._system.close(restored)

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

    def _link(self, name: str, directory: int | None) -> bool:
        try:
            is_linked = try_link(self._path, name, directory, system=self._system)
        except FileExistsError as error:
            raise AlreadyExists(name) from error
        if is_linked:
            self._is_new = True
            # Now, so that one sync of the staging's directory would cover both. If it fails, a sweep removes the name.
            with contextlib.suppress(OSError):
                self._unlink()
        return is_linked

    def _unlink(self) -> None:
        self._is_staged = False
        # An operator may have removed it. An earlier error is the one to report.
        with contextlib.suppress(FileNotFoundError):
            self._system.unlink(self._path)
