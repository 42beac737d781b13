"""Objects as files: the file `ROOT/ab/abcdef…` is the object `abcdef…` and has exactly its bytes.

The invariant: a name in a shard directory leads to a whole object, at every moment and after every crash. So bytes are
staged elsewhere on the same file system, synced, and only then given their name.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

from filestoraged.digest import Bytes, Digest, Expected, parse_digest
from filestoraged.errors import AlreadyExists, NotFound
from filestoraged.store import layout
from filestoraged.store.contract import Blob, Sink, Staging, Store, Usage, never_pause
from filestoraged.store.disk.directories import Directories, open_directory, sync, try_link
from filestoraged.store.disk.small_blobs import SMALL, SmallBlob, SmallBlobCache, read_at_once
from filestoraged.store.disk.staging import StagingArea
from filestoraged.store.disk.usage import DiskUsage
from filestoraged.store.hashing import HashThreads
from filestoraged.store.permissions import PRIVATE, Permissions

# O_NONBLOCK: opening a pipe under an object's name must not wait for its other end.
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# Bytes that may be unwritten in the page cache before the kernel is told to write them. The disk then works while the
# network does, and the sync at the end has little left to wait for.
_WRITE_BEHIND = 8 * 1024 * 1024

# In bytes. A full disk may still have room for an empty file.
_PROBE_SIZE = 4096


class DiskStore(Store):
    """A directory of objects. A namespace is a directory within it, and shares its stagings."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        algorithm: str = "sha256",
        max_size: int | None = None,
        permissions: Permissions = PRIVATE,
        hash_threads: HashThreads | None = None,
        within: DiskStore | None = None,
    ) -> None:
        """`max_size` is in bytes, None for no limit. A namespace lies `within` a store, and has its permissions.

        Without `hash_threads`, the store and its namespaces have a limit of their own.
        """
        self.root = os.path.abspath(root)
        self.algorithm = algorithm
        self.max_size = max_size
        self.hash_threads = within.hash_threads if within else hash_threads or HashThreads()
        self._outermost: str = within._outermost if within else self.root
        self.directories: Directories = within.directories if within else Directories(self.root, permissions)
        self.staging_area: StagingArea = within.staging_area if within else StagingArea(self.directories, permissions)
        self._small_blobs: SmallBlobCache = within._small_blobs if within else SmallBlobCache()
        self._usage: DiskUsage | None = None

    def prepare(self) -> None:
        """Make the directory, and check that it can be written. Raises OSError, but not for a full disk."""
        self.directories.make_root()
        if not os.path.isdir(self.root):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", self.root)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied", self.root)

    def probe(self) -> None:
        """Write a few bytes and remove them. Raises OSError, also if the directory itself is missing."""
        os.stat(self.root)
        path, descriptor = self.staging_area.create()
        try:
            data = memoryview(bytes(_PROBE_SIZE))
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def probe_rename(self) -> None:
        """Rename a staging into the directory, if that exists, and remove it. Raises OSError.

        The error is EXDEV if the two are on different file systems: no object could be stored. Device numbers do not
        tell, since two mounts of one file system have the same.
        """
        path, descriptor = self.staging_area.create()
        os.close(descriptor)
        target = f"{self.root}/{layout.TRIAL}"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, target)
        finally:
            for each in (path, target):
                with contextlib.suppress(OSError):
                    os.unlink(each)

    def list(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """As the contract says. Lists one shard directory after the other, and holds the names of one in memory."""
        names: builtins.list[str] = []
        for shard in sorted(filter(layout.is_shard, _listed(self.root))):
            if shard >= layout.shard(after) and len(names) < limit:
                own = (name for name in _listed(f"{self.root}/{shard}") if name > after and _is_object(name, shard))
                names += sorted(own)
        return names[:limit]

    def usage(self, pause: Callable[[], None] = never_pause) -> Mapping[str, Usage | None]:
        """What each interface holds, by its name. Remembers counts of directories; one thread at a time calls it."""
        if self._usage is None:
            self._usage = DiskUsage(self.root)
        return self._usage.count(pause)

    def sweep(self) -> int:
        return self.staging_area.sweep()

    def close(self) -> None:
        """Remove this process's staging area, unless it has stagings."""
        self.staging_area.release()

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> DiskStaging:
        return DiskStaging(self, size, expected)

    def open(self, name: str) -> Blob:
        # The name of a cached object was checked when it was first opened.
        cached = self._small_blobs.get(self._place(name))
        if cached is not None:
            return cached
        blob = self._open_file(name)
        small = blob.load() if blob.size <= SMALL else None
        if small is None:
            return blob
        blob.close()
        self._small_blobs.put(self._place(name), small)
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
        """Remove many objects, with one sync for those of a directory. Returns the errors of those that remain.

        A missing object is no error.
        """
        failures: dict[str, OSError] = {}
        for shard, group in itertools.groupby(sorted(map(self._checked, names)), self.shard):
            tried = [*group]
            try:
                failures.update(self._remove_from(shard, tried)[1])
            except OSError as error:
                failures.update(dict.fromkeys(tried, error))
        return failures

    def _remove_from(self, shard: str, names: Sequence[str]) -> tuple[int, dict[str, OSError]]:
        """Remove files of one directory, durably. Returns how many it removed, and the errors of those that remain.

        Raises OSError if no removal is known to be durable.
        """
        # Open before the removal: a process without free descriptors removes nothing.
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
            # Also if nothing was removed: this may be the retry of a removal whose sync failed.
            os.fsync(directory)
            if not os.fstat(directory).st_nlink:
                # Another removal removed the directory, perhaps before that sync.
                sync(self.root)
        finally:
            os.close(directory)
        # Fails if it is not empty. An upload that has it open makes it again when it names its object.
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
        """The directory of an object with that name."""
        return f"{self.root}/{layout.shard(name)}"

    def _checked(self, name: str) -> str:
        if parse_digest(name) != name:
            raise ValueError(f"invalid name {name!r}: objects on disk are named by 32 to 128 lower-case hex digits")
        return name

    def _place(self, name: str) -> str:
        return f"{self.root}/{layout.object_path(name)}"


class DiskBlob(Blob):
    def __init__(self, name: str, descriptor: int) -> None:
        """Take over `descriptor`. Raises NotFound if it is not a regular file's."""
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
        """The same object in memory, or None if the disk would have to be read."""
        data = read_at_once(self._descriptor, self.size)
        return None if data is None else SmallBlob(self.digest, data, self._status)

    def detach(self) -> int:
        """Give the descriptor to the caller, who closes it."""
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
        # The kernel was told to write the bytes up to this position.
        self._written_behind = 0
        # Whether this staging gave the object its name, so that a failed commit may take it back.
        self._is_new = False
        self._path, self._descriptor = store.staging_area.create()
        # Whether the file still has that path.
        self._is_staged = True

    def _write(self, data: Bytes) -> None:
        self._hasher.update(data)
        view = memoryview(data)
        while view:
            # A signal or a full disk may cut a write short. The next write raises the error, if there is one.
            view = view[os.write(self._descriptor, view) :]
        behind = self.size - self._written_behind
        if behind >= _WRITE_BEHIND:
            # Drops the clean pages, and starts writing the dirty ones.
            os.posix_fadvise(self._descriptor, self._written_behind, behind, os.POSIX_FADV_DONTNEED)
            self._written_behind = self.size

    def _publish(self, name: str | None, digest: Digest) -> None:
        self._move(self._replace, name or digest)

    def _publish_new(self, name: str | None, digest: Digest) -> None:
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
            # Discard: the kernel reports the error once, marks the pages as clean, and the next sync would succeed.
            self._discard()
            raise

    def _add(self, name: str, directory: int) -> None:
        """Give the file a name. Raises AlreadyExists if the name is taken."""
        if not self._link(name, directory):
            raise OSError(errno.EOPNOTSUPP, "The file system has no hard links")

    def _replace(self, name: str, directory: int) -> None:
        """Give the file a name, whether it is taken or not."""
        with contextlib.suppress(AlreadyExists):
            # A link tells for certain whether the name was free, even if other uploads of the same bytes race with it.
            if self._link(name, directory):
                return
        os.rename(self._path, name, dst_dir_fd=directory)
        self._is_staged = False

    def _link(self, name: str, directory: int) -> bool:
        try:
            is_linked = try_link(self._path, name, directory)
        except FileExistsError as error:
            raise AlreadyExists(name) from error
        if is_linked:
            self._is_new = True
            # Now, so that one sync of the staging's directory would cover both. If it fails, a sweep removes the name.
            with contextlib.suppress(OSError):
                self._unlink()
        return is_linked

    def _take_back(self, name: str, directory: int) -> None:
        """Remove the name of an object whose commit failed, unless another upload of the same bytes has it by now."""
        own = os.fstat(self._descriptor)
        if not os.path.samestat(os.stat(name, dir_fd=directory, follow_symlinks=False), own):
            return
        self._is_new = False
        os.rename(name, self._path, src_dir_fd=directory)
        self._is_staged = True
        if os.path.samestat(os.stat(self._path, follow_symlinks=False), own):
            os.rmdir(self._store.shard(name))
            return
        # Another upload took the name between `stat` and `rename`, and its client was told that it is stored.
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
            if self._is_staged:
                self._unlink()

    def _unlink(self) -> None:
        self._is_staged = False
        # An operator may have removed it. An earlier error is the one to report.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _remove_name(name: str, directory: int) -> bool:
    """Remove a file. Returns whether it existed."""
    try:
        os.unlink(name, dir_fd=directory)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def _listed(path: str) -> Sequence[str]:
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _is_object(name: str, shard: str) -> bool:
    return layout.shard(name) == shard and parse_digest(name) == name
