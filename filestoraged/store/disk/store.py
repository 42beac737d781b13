"""Objects as files: the file `ROOT/ab/abcdef…` is the object `abcdef…` and has exactly its bytes.

The invariant: a name in a shard directory leads to a whole object, at every moment and after every crash. So bytes are
staged elsewhere on the same file system, synced, and only then given their name.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import heapq
import itertools
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import BinaryIO

from filestoraged.digest import Expected, parse_digest
from filestoraged.errors import Error, NotFound
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import Blob, ObjectStatus, Sink, Store, Usage, never_pause
from filestoraged.store.disk.changes import Removal
from filestoraged.store.disk.directories import open_directory, sync
from filestoraged.store.disk.small_blobs import DEFAULT_CACHE_SIZE, SMALL, SmallBlob, SmallBlobCache, read_at_once
from filestoraged.store.disk.staging import DiskStaging, LinkedStaging, check_name
from filestoraged.store.disk.usage import DiskUsage
from filestoraged.store.disk.volume import Volume
from filestoraged.store.hashing import HashThreads, OverlappedHasher
from filestoraged.store.path_identity import PathIdentity
from filestoraged.store.permissions import PRIVATE, Permissions, require_directory, require_file
from filestoraged.store.system import LINUX, Entry, Files, System, exists, is_directory

# O_NONBLOCK: opening a pipe under an object's name must not wait for its other end. O_NOFOLLOW: a symbolic link there
# leads to a foreign file.
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

# What a lookup of a name without a file fails with. ELOOP: a symbolic link.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# Errors of a file that cannot have a second name: on another file system, or one without hard links.
_NOT_LINKABLE = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

# In bytes. A full disk may still have room for an empty file.
_PROBE_SIZE = 4096


class DiskStore(Store):
    """A directory of objects. A namespace is a directory within it, and shares its stagings."""

    stages_files = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        algorithm: str = "sha256",
        max_size: int | None = None,
        permissions: Permissions = PRIVATE,
        hash_threads: HashThreads | None = None,
        cache_size: int | None = None,
        identity: PathIdentity | None = None,
        within: DiskStore | None = None,
        system: System = LINUX,
    ) -> None:
        """`max_size` is in bytes, None for no limit; `cache_size` is the memory for small objects, in bytes.

        A namespace lies `within` a store, and has its permissions, and its cache unless it has a `cache_size`.

        Without `hash_threads`, the store and its namespaces have a limit of their own. `identity` is that of the root,
        which `prepare` fixes; until then, any directory will do. `system` is the system that the store runs on.
        """
        self.root = os.path.abspath(root)
        self.algorithm = algorithm
        self.max_size = max_size
        self.hash_threads = within.hash_threads if within else hash_threads or HashThreads()
        self.volume: Volume = (
            within.volume if within else Volume(self.root, permissions, identity=identity, system=system)
        )
        self._system = self.volume.system
        self._small_blobs: SmallBlobCache = (
            within._small_blobs
            if within is not None and cache_size is None
            else SmallBlobCache(DEFAULT_CACHE_SIZE if cache_size is None else cache_size, system=self._system)
        )
        self._usage: DiskUsage | None = None

    @property
    def unwaiting_size(self) -> int:  # type: ignore[override]
        return 0 if self.volume.committer is None else SMALL

    def has_room(self, size: int) -> bool:
        return self.volume.staging_memory.has(size)

    @property
    def is_crowded(self) -> bool:
        return self.volume.is_crowded

    def group_commits(self) -> None:
        """Commit small uploads and removals in groups, if the file system allows it. Call it after the fork.

        Raises OSError and StoreDetached; each change is then synced alone.
        """
        self.volume.group_commits()

    def prepare(self) -> None:
        """Make the directory, and check that it can be written. Call it before the fork.

        From then on the store is this directory, and no other one under its name. A symbolic link may lead to it, but
        not to what the daemon keeps for itself in it. Raises OSError, but not for a full disk, and StoreDetached.
        """
        self.volume.directories.make_root()
        if not is_directory(self._system, self.root):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", self.root)
        if not self._system.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied", self.root)
        for name in layout.OWN_DIRECTORIES:
            require_directory(f"{self.root}/{name}", system=self._system)
        for name in layout.OWN_FILES:
            require_file(f"{self.root}/{name}", system=self._system)
        repositories = f"{self.root}/{layout.REPOSITORIES}"
        if exists(self._system, repositories) and not is_directory(self._system, repositories):
            raise NotADirectoryError(errno.ENOTDIR, f"{repositories!r} is not a directory")
        self.volume.identity.fix()

    def probe(self) -> None:
        """Write a few bytes and remove them. Raises StoreDetached, and OSError, also if the directory is missing."""
        self.volume.identity.check()
        self._system.stat(self.root)
        path, descriptor = self.volume.staging_area.create()
        try:
            data = memoryview(bytes(_PROBE_SIZE))
            while data:
                data = data[self._system.write(descriptor, data) :]
        finally:
            self._system.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                self._system.unlink(path)

    def probe_rename(self) -> None:
        """Rename a staging into the directory, if that exists, and remove it. Raises OSError.

        The error is EXDEV if the two are on different file systems: no object could be stored. Device numbers do not
        tell, since two mounts of one file system have the same.
        """
        path, descriptor = self.volume.staging_area.create()
        self._system.close(descriptor)
        target = f"{self.root}/{layout.TRIAL}"
        try:
            with contextlib.suppress(FileNotFoundError):
                self._system.rename(path, target)
        finally:
            for each in (path, target):
                with contextlib.suppress(OSError):
                    self._system.unlink(each)

    def list(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """As the contract says. Lists one shard directory after the other, and holds the names of one in memory."""
        names: builtins.list[str] = []
        with self.volume.identity.required():
            for shard in sorted(filter(layout.is_shard, _listed(self._system, self.root))):
                if shard >= layout.shard(after) and len(names) < limit:
                    following = sorted(name for name in _listed(self._system, f"{self.root}/{shard}") if name > after)
                    own = (name for name in following if _is_object(name, shard))
                    names += itertools.islice(own, limit - len(names))
        return names

    def list_namespaces(self, after: str = "", limit: int = 1000) -> Sequence[str]:
        """As the contract says. Lists the whole directory, and holds `limit` of its names in memory."""
        try:
            with self.volume.identity.required(), self._system.scandir(self.root) as entries:
                names = (each.name for each in entries if each.name > after and _is_namespace(each))
                return heapq.nsmallest(limit, names)
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def usage(self, pause: Callable[[], None] = never_pause) -> Mapping[str, Usage | None]:
        """What each interface holds, by its name. Remembers counts of directories; one thread at a time calls it."""
        if self._usage is None:
            self._usage = DiskUsage(self.root, system=self._system)
        with self.volume.identity.required():
            return self._usage.count(pause)

    def sweep(self) -> int:
        return self.volume.staging_area.sweep()

    def close(self) -> None:
        """Finish what is to be committed, and remove this process's staging area, unless it has stagings."""
        self.volume.close()

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> DiskStaging:
        return DiskStaging(self, size, expected, volume=self.volume, root=self.root)

    def stage_file(self, path: str, size: int, hasher: OverlappedHasher) -> DiskStaging | None:
        try:
            file = self.volume.stage_link(path)
        except OSError as error:
            if error.errno in _NOT_LINKABLE:
                return None
            raise
        try:
            return LinkedStaging(self, file, size, hasher, volume=self.volume, root=self.root)
        except BaseException:
            file.discard()
            raise

    def open(self, name: str) -> Blob:
        cached = self.recall(name)
        if cached is not None:
            return cached
        blob = self._open_file(name)
        small = blob.load() if blob.size <= SMALL else None
        if small is None:
            return blob
        blob.close()
        self._small_blobs.put(self._place(name), small)
        return small

    def recall(self, name: str) -> SmallBlob | None:
        # The name of a cached object was checked when it was first opened.
        return self._small_blobs.get(self._place(name))

    def _open_file(self, name: str) -> DiskBlob:
        path = self.path(name)
        self.volume.directories.refuse_link(path)
        try:
            return DiskBlob(name, self._system.open(path, _READING), system=self._system)
        except OSError as error:
            raise self._lookup_error(error, name) from error

    def stat(self, name: str) -> ObjectStatus:
        path = self.path(name)
        try:
            status = self._system.lstat(path)
        except OSError as error:
            raise self._lookup_error(error, name) from error
        if not stat.S_ISREG(status.st_mode):
            raise NotFound(name=name)
        return ObjectStatus(name, status.st_size, int(status.st_mtime))

    def _lookup_error(self, error: OSError, name: str) -> Exception:
        """NotFound where there is no file under that name, else the error itself. Raises StoreDetached.

        The root is checked here, and not before the lookup, so that objects that are there cost nothing more.
        """
        self.volume.identity.check()
        return NotFound(name=name) if error.errno in _MISSING else error

    def get(self, name: str) -> BinaryIO:
        return self._system.fdopen(self._open_file(name).detach())

    def remove(self, name: str) -> None:
        removed, failed = self._remove_from(self.shard(check_name(name)), [name])
        for error in failed.values():
            raise error
        if not removed:
            raise NotFound(name=name)

    def remove_later(self, name: str) -> Future[None]:
        removal = Removal(self.root, check_name(name), system=self._system)
        self.volume.commit(removal)
        return removal.done

    def remove_all(self, names: Iterable[str]) -> Mapping[str, Exception]:
        """As the contract says, with one sync for the objects of a directory."""
        failures: dict[str, Exception] = {}
        for shard, group in itertools.groupby(sorted(map(check_name, names)), self.shard):
            tried = [*group]
            try:
                failures.update(self._remove_from(shard, tried)[1])
            except (Error, OSError) as error:
                failures.update(dict.fromkeys(tried, error))
        return failures

    def _remove_from(self, shard: str, names: Sequence[str]) -> tuple[int, dict[str, OSError]]:
        """Remove files of one directory, durably. Returns how many it removed, and the errors of those that remain.

        Raises OSError if no removal is known to be durable, and StoreDetached.
        """
        self.volume.identity.check()
        self.volume.directories.refuse_link(shard)
        # Open before the removal: a process without free descriptors removes nothing.
        try:
            directory = open_directory(shard, system=self._system)
        except (FileNotFoundError, NotADirectoryError):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                sync(self.root, system=self._system)
            self.volume.identity.check()
            return 0, {}
        removed, failed = 0, {}
        try:
            for name in names:
                try:
                    removed += _remove_name(self._system, name, directory)
                except OSError as error:
                    failed[name] = error
            # Also if nothing was removed: this may be the retry of a removal whose sync failed.
            self._system.fsync(directory)
            if not self._system.fstat(directory).st_nlink:
                # Another removal removed the directory, perhaps before that sync.
                sync(self.root, system=self._system)
            self.volume.check_changes()
        finally:
            self._system.close(directory)
        # Fails if it is not empty. An upload that has it open makes it again when it names its object.
        with contextlib.suppress(OSError):
            self._system.rmdir(shard)
        return removed, failed

    def namespace(self, name: str, *, algorithm: str | None = None) -> DiskStore:
        root = os.path.join(self.root, name)
        return DiskStore(root, algorithm=algorithm or self.algorithm, max_size=self.max_size, within=self)

    def path(self, name: str) -> str:
        return self._place(check_name(name))

    def place(self, name: str) -> str | None:
        return os.path.relpath(self.path(name), self.volume.root)

    def shard(self, name: str) -> str:
        """The directory of an object with that name."""
        return f"{self.root}/{layout.shard(name)}"

    def _place(self, name: str) -> str:
        return f"{self.root}/{layout.object_path(name)}"


class DiskBlob(Blob):
    def __init__(self, name: str, descriptor: int, *, system: Files = LINUX) -> None:
        """Take over `descriptor`. Raises NotFound if it is not a regular file's."""
        self._descriptor = descriptor
        self._system = system
        self._status = system.fstat(descriptor)
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
        data = read_at_once(self._descriptor, self.size, system=self._system)
        return None if data is None else SmallBlob(self.digest, data, self._status)

    def detach(self) -> int:
        """Give the descriptor to the caller, who closes it."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        descriptor = self.detach()
        if descriptor >= 0:
            self._system.close(descriptor)


def _remove_name(system: Files, name: str, directory: int) -> bool:
    """Remove a file. Returns whether it existed."""
    try:
        system.unlink(name, dir_fd=directory)
    except (FileNotFoundError, IsADirectoryError):
        return False
    return True


def _listed(system: Files, path: str) -> Sequence[str]:
    try:
        return system.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _is_namespace(entry: Entry) -> bool:
    return layout.is_repository(entry.name) and entry.is_dir()


def _is_object(name: str, shard: str) -> bool:
    return layout.shard(name) == shard and parse_digest(name) == name
