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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.errors import DISK_FULL, Error, NotFound
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import SMALL, Blob, ObjectStatus, Staging, Store, Usage, never_pause
from filestoraged.store.disk.blobs import DEFAULT_CACHE_SIZE, DiskBlob, SmallBlobCache
from filestoraged.store.disk.changes import ObjectUpload, Removal, Source
from filestoraged.store.disk.journal import SEGMENT_SIZE
from filestoraged.store.disk.staging_area import StagedFile
from filestoraged.store.disk.staging_memory import MemoryStaging
from filestoraged.store.disk.usage import DiskUsage
from filestoraged.store.disk.volume import Volume
from filestoraged.store.hashing import HashThreads, OverlappedHasher
from filestoraged.store.path_identity import PathIdentity
from filestoraged.store.permissions import PRIVATE, Permissions, require_directory, require_file
from filestoraged.store.system import LINUX, DirectoryEntry, System, exists, is_directory, listed

# O_NONBLOCK: opening a pipe under an object's name must not wait for its other end. O_NOFOLLOW: a symbolic link there
# leads to a foreign file.
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

# What a lookup of a name without a file fails with. ELOOP: a symbolic link.
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# Errors of a file that cannot have a second name: on another file system, or one without hard links.
_NOT_LINKABLE = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)

# Removals that wait at the same time.
_MAX_REMOVALS = 1000

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
        segment_size: int = SEGMENT_SIZE,
        system: System = LINUX,
    ) -> None:
        """`max_size` is in bytes, None for no limit; `cache_size` is the memory for small objects, in bytes.

        A namespace lies `within` a store, and has its permissions, and its cache unless it has a `cache_size`.

        Without `hash_threads`, the store and its namespaces have a limit of their own. `identity` is that of the root,
        which `prepare` fixes; until then, any directory will do. `system` is the system that the store runs on,
        and `segment_size` that of segments of its journal, in bytes.
        """
        self.root = os.path.abspath(root)
        self.algorithm = algorithm
        self.max_size = max_size
        self.hash_threads = within.hash_threads if within else hash_threads or HashThreads()
        self.volume: Volume = (
            within.volume
            if within
            else Volume(self.root, permissions, identity=identity, segment_size=segment_size, system=system)
        )
        self._system = self.volume.system
        # Within the outermost store; and whether objects lie in the directory itself.
        self.namespace_path = self.root[len(self.volume.root) :].lstrip("/")
        self._is_flat = layout.is_flat(self.namespace_path)
        self._names = layout.object_names(self.namespace_path)
        self._small_blobs = self._choose_cache(within, cache_size)
        self._usage: DiskUsage | None = None

    def _choose_cache(self, within: DiskStore | None, size: int | None) -> SmallBlobCache:
        if within is not None and size is None:
            return within._small_blobs
        return SmallBlobCache(DEFAULT_CACHE_SIZE if size is None else size, system=self._system)

    def prepare(self) -> None:
        """Make the directory, and check that it can be written. Call it before the fork.

        From then on the store is this directory, and no other one under its name. A symbolic link may lead to it, but
        not to what the daemon keeps for itself in it. Replays journals. Raises OSError, but not for a full disk,
        StoreDetached, and JournalDamaged.
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
        for name in (layout.REPOSITORIES, layout.NAMES, layout.RESTIC):
            directory = f"{self.root}/{name}"
            if exists(self._system, directory) and not is_directory(self._system, directory):
                raise NotADirectoryError(errno.ENOTDIR, f"{directory!r} is not a directory")
        self.volume.identity.fix()
        try:
            self.volume.join()
        except OSError as error:
            # What a power cut has left is not to be served before it is replayed.
            if error.errno not in DISK_FULL or self.volume.has_dead_journals():
                raise

    def probe(self) -> None:
        """Write a few bytes and remove them. Raises StoreDetached, and OSError, also if the directory is missing.

        While the journal cannot be written again, it raises why not.
        """
        self.volume.identity.check()
        self.volume.probe()
        self._system.stat(self.root)
        file = self.volume.staging_area.stage()
        try:
            file.write(bytes(_PROBE_SIZE))
        finally:
            file.discard()

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
            for shard in self._shards():
                if (shard >= layout.shard(after) or self._is_flat) and len(names) < limit:
                    following = sorted(name for name in listed(self._system, self._directory(shard)) if name > after)
                    own = (name for name in following if self._is_object(name, shard))
                    names += itertools.islice(own, limit - len(names))
        return names

    def scan(self) -> Generator[ObjectStatus, None, None]:
        """As the contract says. Reads directories piece by piece, so that a large one takes no memory."""
        with self.volume.identity.required():
            for shard in self._shards():
                yield from self._scan(shard)

    def _scan(self, shard: str) -> Iterator[ObjectStatus]:
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._system.scandir(self._directory(shard)) as entries,
        ):
            is_name = self._names.fullmatch
            for entry in entries:
                # Not by `_is_object`: restic lists hundreds of thousands at once.
                name = entry.name
                if not name.startswith(shard) or is_name(name) is None:
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    # Removed since it was listed.
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield ObjectStatus(name, status.st_size, int(status.st_mtime))

    def _shards(self) -> Sequence[str]:
        """The shards in their order; "" for the directory itself if it is flat."""
        return ("",) if self._is_flat else sorted(filter(layout.is_shard, listed(self._system, self.root)))

    def _directory(self, shard: str) -> str:
        return f"{self.root}/{shard}" if shard else self.root

    def _is_object(self, name: str, shard: str) -> bool:
        return name.startswith(shard) and self._names.fullmatch(name) is not None

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
        return self.volume.sweep()

    def close(self) -> None:
        """Finish what is to be committed, and remove this process's staging area, unless it has stagings."""
        self.volume.close()

    def stage(self, size: int | None = None, *, expected: Sequence[Expected] = ()) -> DiskStaging:
        return DiskStaging(self, size, expected)

    def stage_file(self, path: str, size: int, hasher: OverlappedHasher) -> DiskStaging | None:
        try:
            file = self.volume.staging_area.stage_link(path)
        except OSError as error:
            if error.errno in _NOT_LINKABLE:
                return None
            raise
        try:
            return DiskStaging(self, size, (), file=file, hasher=hasher)
        except BaseException:
            file.discard()
            raise

    def open(self, name: str) -> Blob:
        # The name of a cached object was checked when it was first opened.
        path = self._full_path(name)
        cached = self._small_blobs.get(path)
        if cached is not None:
            return cached
        blob = self._open_file(name)
        small = blob.load() if blob.size <= SMALL else None
        if small is None:
            return blob
        blob.close()
        self._small_blobs.put(path, small)
        return small

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
        self.volume.system.result_of(self.remove_later(name))

    def remove_later(self, name: str) -> Future[None]:
        removal = Removal(layout.checked_path(name, self.namespace_path), self.volume.directories)
        self.volume.commit(removal)
        return removal.done

    def remove_all(self, names: Iterable[str]) -> Mapping[str, Exception]:
        """As the contract says, in groups."""
        failures: dict[str, Exception] = {}
        waiting = iter(names)
        while group := [*itertools.islice(waiting, _MAX_REMOVALS)]:
            for name, removal in [(name, self.remove_later(name)) for name in group]:
                try:
                    self.volume.system.result_of(removal)
                except NotFound:
                    pass
                except (Error, OSError) as error:
                    failures[name] = error
        return failures

    def namespace(self, name: str, *, algorithm: str | None = None) -> DiskStore:
        root = os.path.join(self.root, name)
        return DiskStore(root, algorithm=algorithm or self.algorithm, max_size=self.max_size, within=self)

    def path(self, name: str) -> str:
        return f"{self.volume.root}/{layout.checked_path(name, self.namespace_path)}"

    def relative_path(self, name: str) -> str | None:
        return layout.checked_path(name, self.namespace_path)

    def _full_path(self, name: str) -> str:
        return f"{self.root}/{name}" if self._is_flat else f"{self.root}/{layout.object_path(name)}"


class DiskStaging(Staging):
    """Small bytes in memory, larger ones in a file of the staging area."""

    def __init__(
        self,
        store: DiskStore,
        size: int | None,
        expected: Sequence[Expected],
        *,
        file: StagedFile | None = None,
        hasher: OverlappedHasher | None = None,
    ) -> None:
        """`file` has all `size` bytes already, which `hasher` has hashed: they get another name, and are not copied."""
        super().__init__(store, size, expected)
        if hasher is not None:
            self.size = size or 0
            self._hasher = hasher
        self._volume = volume = store.volume
        self._namespace = store.namespace_path
        # None if the bytes were committed or discarded.
        self._source: Source | None = file or volume.staging_memory.stage(size) or volume.staging_area.stage()

    def _write(self, data: Bytes) -> None:
        self._append(data)
        # After the write: the hash thread, once woken, competes with the write for Python's lock.
        self._hasher.update(data)

    def _append(self, data: Bytes) -> None:
        if isinstance(self._source, MemoryStaging):
            if self._source.append(data):
                return
            self._spill(self._source)
        assert isinstance(self._source, StagedFile)
        self._source.write(data)

    def _spill(self, memory: MemoryStaging) -> None:
        """Write the bytes so far to a file."""
        file = self._volume.staging_area.stage()
        try:
            file.write(memory.data)
        except BaseException:
            file.discard()
            raise
        self._source = file
        memory.discard()

    def _publish(self, name: str | None, digest: Digest, *, replace: bool) -> Future[Digest]:
        if self._source is None:
            raise OSError(errno.EBADF, "The staging was discarded")
        path = layout.checked_path(name or digest, self._namespace)
        source, self._source = self._source, None
        volume = self._volume
        upload = ObjectUpload(path, source, volume.directories, volume.staging_area, digest=digest, replace=replace)
        # Bytes in a file may have been lost by a failed sync since they were written. What is fetched once is to leave
        # no copy.
        is_recorded = isinstance(source, MemoryStaging) and self._namespace != layout.DROPS
        volume.commit(upload, size=self.size, is_recorded=is_recorded)
        return upload.done

    def _discard(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.discard()


def _is_namespace(entry: DirectoryEntry) -> bool:
    return layout.is_repository(entry.name) and entry.is_dir()
