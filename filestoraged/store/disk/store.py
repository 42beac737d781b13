"""Objects as files: `abcdef…` is the file `ROOT/ab/abcdef…` and holds exactly its bytes.

The invariant: a name in a two-letter folder leads to a whole object, at every moment and after every crash.
So bytes are staged elsewhere on the same file system, synced, and only then renamed to their name.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

from filestoraged.digest import Bytes, Expected, parse_digest
from filestoraged.errors import AlreadyExists, NotFound
from filestoraged.store import layout
from filestoraged.store.contract import Blob, Sink, Staging, Store
from filestoraged.store.disk.directories import Directories, open_directory, sync
from filestoraged.store.disk.permissions import PRIVATE, Permissions
from filestoraged.store.disk.small_blobs import SMALL, SmallBlob, SmallBlobCache, read_at_once
from filestoraged.store.disk.staging import StagingArea
from filestoraged.store.hashing import HashThreads

# A pipe that somebody has put there must not keep us waiting for its other end.
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# How much may lie unwritten in the page cache before the kernel is asked to begin: the disk then works
# while the network does, and the sync at the end has little left to wait for.
_WRITE_BEHIND = 8 * 1024 * 1024

# Bytes: a disk that is full may still have room for a name.
_TRIAL = 4096

# What file systems say that have no hard links; or that have enough to that file.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class DiskStore(Store):
    """A directory of objects. A namespace is a directory within it, which shares its stagings."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        algorithm: str = "sha256",
        max_size: int | None = None,
        modes: Permissions = PRIVATE,
        hash_threads: HashThreads | None = None,
        within: DiskStore | None = None,
    ) -> None:
        """`max_size` is in bytes, None for no limit. A namespace lies `within` a store, and has its modes.

        Without `hash_threads`, the store and its namespaces get a limit of their own.
        """
        self.root = os.path.abspath(root)
        self.algorithm = algorithm
        self.max_size = max_size
        self.hash_threads = within.hash_threads if within else hash_threads or HashThreads()
        self._outermost: str = within._outermost if within else self.root
        self.directories: Directories = within.directories if within else Directories(self.root, modes)
        self.stagings: StagingArea = within.stagings if within else StagingArea(self.directories, modes)
        self._recent: SmallBlobCache = within._recent if within else SmallBlobCache()

    def prepare(self) -> None:
        """Make the directory, and see that it can be written. Raises OSError, but not for a full disk."""
        self.directories.make_root()
        if not os.path.isdir(self.root):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", self.root)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied", self.root)

    def try_writing(self) -> None:
        """Store a few bytes and remove them again. Raises OSError, also where the directory itself has gone."""
        os.stat(self.root)
        path, descriptor = self.stagings.create()
        try:
            data = memoryview(bytes(_TRIAL))
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def try_renaming(self) -> None:
        """Rename a staging into the directory, if that is there, and remove it. Raises OSError.

        The error is EXDEV where they lie on two file systems: nothing could be stored. Device numbers do not tell, as
        two mounts of one file system have the same.
        """
        path, descriptor = self.stagings.create()
        os.close(descriptor)
        target = f"{self.root}/{layout.TRIAL}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, target)
        finally:
            for each in (path, target):
                with contextlib.suppress(OSError):
                    os.unlink(each)

    def sweep(self) -> int:
        """Clear away what a crash left. Returns how many stagings."""
        return self.stagings.sweep()

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> DiskStaging:
        return DiskStaging(self, size, expected)

    def open(self, name: str) -> Blob:
        # What is found there has been opened before, so it is no use to look at the name again.
        recent = self._recent.find(self._place(name))
        if recent is not None:
            return recent
        blob = self._open_file(name)
        small = blob.load() if blob.size <= SMALL else None
        if small is None:
            return blob
        blob.close()
        self._recent.keep(self._place(name), small)
        return small

    def _open_file(self, name: str) -> DiskBlob:
        try:
            return DiskBlob(name, os.open(self.path(name), _READING))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(name=name) from error

    def get(self, name: str) -> BinaryIO:
        return os.fdopen(self._open_file(name).detach(), "rb")

    def remove(self, name: str) -> None:
        removed, failed = self._remove_from(self.shard(self._checked(name)), [name])
        for error in failed.values():
            raise error
        if not removed:
            raise NotFound(name=name)

    def remove_all(self, names: Iterable[str]) -> dict[str, OSError]:
        """Remove many objects, with one sync for those of a directory. Returns the errors of those that are left.

        One that does not exist is no error.
        """
        failures: dict[str, OSError] = {}
        for shard, group in itertools.groupby(sorted(map(self._checked, names)), self.shard):
            tried = list(group)
            try:
                failures.update(self._remove_from(shard, tried)[1])
            except OSError as error:
                failures.update(dict.fromkeys(tried, error))
        return failures

    def _remove_from(self, shard: str, names: Sequence[str]) -> tuple[int, dict[str, OSError]]:
        """Remove files of one directory, durably. Returns how many there were, and the errors of those that are left.

        Raises OSError where nothing is known to be durable.
        """
        # Opened first, so that running out of descriptors removes nothing.
        try:
            directory = open_directory(shard)
        except (FileNotFoundError, NotADirectoryError):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                sync(self.root)
            return 0, {}
        removed, failed = 0, {}
        try:
            for name in names:
                try:
                    removed += _remove_name(name, directory)
                except OSError as error:
                    failed[name] = error
            # Also where it is gone already: the sync of the one who removed it may have failed, and this is his retry.
            os.fsync(directory)
            if not os.fstat(directory).st_nlink:
                # Another removal has taken the directory away, perhaps before that sync.
                sync(self.root)
        finally:
            os.close(directory)
        # Only an empty one goes. An upload that has it open finds that out when it names its object.
        with contextlib.suppress(OSError):
            os.rmdir(shard)
        return removed, failed

    def namespace(self, name: str, *, algorithm: str | None = None) -> DiskStore:
        root = os.path.join(self.root, name)
        return DiskStore(root, algorithm=algorithm or self.algorithm, max_size=self.max_size, within=self)

    def path(self, name: str) -> str:
        return self._place(self._checked(name))

    def place(self, name: str) -> str | None:
        return os.path.relpath(self.path(name), self._outermost)

    def shard(self, name: str) -> str:
        """The directory that an object of that name lies in."""
        return f"{self.root}/{layout.shard(name)}"

    def _checked(self, name: str) -> str:
        if parse_digest(name) != name:
            raise ValueError("objects on disk are named by a digest")
        return name

    def _place(self, name: str) -> str:
        return f"{self.root}/{layout.object_path(name)}"


class DiskBlob(Blob):
    def __init__(self, name: str, descriptor: int) -> None:
        """Take over `descriptor`. Raises NotFound where it is no file's."""
        self._descriptor = descriptor
        self._status = os.fstat(descriptor)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise NotFound(name=name)
        self.digest = name
        self.size = self._status.st_size
        self.modified = int(self._status.st_mtime)

    def send(self, sink: Sink, start: int, stop: int) -> int:
        return start + sink.sendfile(self._descriptor, start, stop)

    def load(self) -> SmallBlob | None:
        """The same object in memory, if that takes no waiting for the disk."""
        data = read_at_once(self._descriptor, self.size)
        return None if data is None else SmallBlob(self.digest, data, self._status)

    def detach(self) -> int:
        """Hand the descriptor over to the caller."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        descriptor = self.detach()
        if descriptor >= 0:
            os.close(descriptor)


class DiskStaging(Staging):
    def __init__(self, store: DiskStore, size: int | None, expected: Sequence[Expected]) -> None:
        super().__init__(store, size, expected)
        self._store = store
        self._behind = 0
        # Whether the object had no name before, so that it is ours to take back.
        self._is_new = False
        self._path, self._descriptor = store.stagings.create()
        # Whether the file has that path.
        self._staged = True

    def _write(self, data: Bytes) -> None:
        self._hasher.update(data)
        view = memoryview(data)
        while view:
            # A signal or a full disk may cut a write short; the next one says which.
            view = view[os.write(self._descriptor, view) :]
        if self.size - self._behind >= _WRITE_BEHIND:
            # It drops the pages that are clean already, and begins to write those that are not.
            os.posix_fadvise(self._descriptor, self._behind, self.size - self._behind, os.POSIX_FADV_DONTNEED)
            self._behind = self.size

    def _publish(self, name: str | None, digest: str) -> None:
        self._move(self._replace, name or digest)

    def _publish_new(self, name: str | None, digest: str) -> None:
        self._move(self._add, name or digest)

    def _move(self, move: Callable[[str, int], None], name: str) -> None:
        # Sync the bytes before the rename: after a crash no name may lead to half an object.
        self._sync()
        directories, shard = self._store.directories, self._store.shard(self._store._checked(name))
        directory = directories.enter(shard, name, move)
        try:
            directories.sync(shard, directory)
        except OSError:
            if self._is_new:
                with contextlib.suppress(OSError):
                    self._take_back(name, directory)
            raise
        finally:
            os.close(directory)

    def _sync(self) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "The staging was discarded")
        try:
            os.fsync(self._descriptor)
        except OSError:
            # Never again: the kernel says so once, takes the pages for clean, and the next sync would succeed.
            self._discard()
            raise

    def _add(self, name: str, directory: int) -> None:
        """Give the file a name that is free. Raises AlreadyExists."""
        try:
            # A link, unlike a rename, fails where the name is taken.
            os.link(self._path, name, dst_dir_fd=directory)
        except FileExistsError as error:
            raise AlreadyExists(name) from error
        self._is_new = True
        # Now, so that one sync of the staging's directory would be for both. Where it fails, a sweep removes that name.
        with contextlib.suppress(OSError):
            self._unlink()

    def _replace(self, name: str, directory: int) -> None:
        """Give the file a name, whether it is free or not."""
        try:
            # That says for certain which of the two it is, whoever uploads the same bytes at the same time.
            self._add(name, directory)
            return
        except AlreadyExists:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        os.rename(self._path, name, dst_dir_fd=directory)
        self._staged = False

    def _take_back(self, name: str, directory: int) -> None:
        """Remove the name of an object that is refused, unless another upload of the same bytes has it by now."""
        ours = os.fstat(self._descriptor)
        if not os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), ours):
            return
        self._is_new = False
        os.rename(name, self._path, src_dir_fd=directory)
        self._staged = True
        if os.path.samestat(os.stat(self._path, follow_symlinks=False), ours):
            os.rmdir(self._store.shard(name))
            return
        # One that came between the look and the rename was stored, and its client was told so.
        directories, shard = self._store.directories, self._store.shard(name)
        with contextlib.suppress(AlreadyExists):
            restored = directories.enter(shard, name, self._add)
            try:
                directories.sync(shard, restored)
            finally:
                os.close(restored)

    def _discard(self) -> None:
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.close(descriptor)
        finally:
            if self._staged:
                self._unlink()

    def _unlink(self) -> None:
        self._staged = False
        # Somebody may have tidied up. If anything went wrong before, that is what counts.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _remove_name(name: str, directory: int) -> bool:
    """Remove a file. Returns whether it was there."""
    try:
        os.unlink(name, dir_fd=directory)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True
