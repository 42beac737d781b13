"""Objects as files: `abcdef…` is the file `ROOT/ab/abcdef…` and holds exactly its bytes.

The invariant: a name in a two-letter folder leads to a whole object, at every moment and after every crash.
So bytes are staged elsewhere on the same file system, synced, and only then renamed to their name.
"""

from __future__ import annotations

import os
import stat
from typing import BinaryIO, Callable, Optional, Sequence, Union

from filestoraged.digest import Bytes, Expected, parse_digest
from filestoraged.errors import AlreadyExists, NotFound
from filestoraged.store.contract import Blob, Sink, Staging, Store
from filestoraged.store.directories import Directories, sync
from filestoraged.store.recent import SMALL, Recent, SmallBlob, read_at_once
from filestoraged.store.stagings import Stagings

# A pipe that somebody has put there must not keep us waiting for its other end.
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

# How much may lie unwritten in the page cache before the kernel is asked to begin: the disk then works
# while the network does, and the sync at the end has little left to wait for.
_WRITE_BEHIND = 8 * 1024 * 1024

# Bytes: a disk that is full may still have room for a name.
_TRIAL = 4096


class DiskStore(Store):
    """A directory of objects. A namespace is a directory within it, which shares its stagings."""

    def __init__(
        self,
        root: Union[str, "os.PathLike[str]"],
        *,
        algorithm: str = "sha256",
        max_size: Optional[int] = None,
        within: Optional["DiskStore"] = None,
    ) -> None:
        """`max_size` is in bytes, None for no limit. A namespace says `within` which store it lies."""
        self.root = os.path.abspath(root)
        self.algorithm = algorithm
        self.max_size = max_size
        self._outermost: str = within._outermost if within else self.root
        self.stagings: Stagings = within.stagings if within else Stagings(self.root)
        self._recent: Recent = within._recent if within else Recent()
        self.directories: Directories = within.directories if within else Directories(self.root)

    def prepare(self) -> None:
        """Make the directory, and see that it can be written. Raises OSError."""
        os.makedirs(self.root, exist_ok=True)
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", self.root)

    def try_writing(self) -> None:
        """Store a few bytes and remove them again. Raises OSError, also where the directory itself has gone."""
        os.stat(self.root)
        path, descriptor = self.stagings.create()
        try:
            os.write(descriptor, bytes(_TRIAL))
        finally:
            os.close(descriptor)
            os.unlink(path)

    def sweep(self) -> int:
        """Clear away what a crash left. Returns how many stagings."""
        return self.stagings.sweep()

    def stage(self, size: Optional[int] = None, *, expected: Sequence[Expected] = ()) -> "DiskStaging":
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

    def _open_file(self, name: str) -> "DiskBlob":
        try:
            return DiskBlob(name, os.open(self.path(name), _READING))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(name=name) from error

    def get(self, name: str) -> BinaryIO:
        return os.fdopen(self._open_file(name).detach(), "rb")

    def remove(self, name: str) -> None:
        path = self.path(name)
        try:
            os.unlink(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(name=name) from error
        sync(os.path.dirname(path))

    def namespace(self, name: str, *, algorithm: Optional[str] = None) -> "DiskStore":
        root = os.path.join(self.root, name)
        return DiskStore(root, algorithm=algorithm or self.algorithm, max_size=self.max_size, within=self)

    def path(self, name: str) -> str:
        if parse_digest(name) != name:
            raise ValueError("objects on disk are named by a digest")
        return self._place(name)

    def place(self, name: str) -> Optional[str]:
        return os.path.relpath(self.path(name), self._outermost)

    def shard(self, name: str) -> str:
        """The directory that an object of that name lies in."""
        return f"{self.root}/{name[:2]}"

    def _place(self, name: str) -> str:
        return f"{self.root}/{name[:2]}/{name}"


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

    def load(self) -> Optional[SmallBlob]:
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
    def __init__(self, store: DiskStore, size: Optional[int], expected: Sequence[Expected]) -> None:
        super().__init__(store.algorithm, limit=store.max_size, size=size, expected=expected)
        self._store = store
        self._behind = 0
        self._renamed = False
        self._path, self._descriptor = store.stagings.create()

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

    def _publish(self, name: Optional[str], digest: str) -> None:
        self._move(os.rename, name or digest)
        self._renamed = True

    def _publish_new(self, name: Optional[str], digest: str) -> None:
        # A link, unlike a rename, fails where the name is taken; the staging's own name goes with `_discard`.
        self._move(os.link, name or digest)

    def _move(self, move: Callable[[str, str], None], name: str) -> None:
        # Sync the bytes before the rename: after a crash no name may lead to half an object.
        os.fsync(self._descriptor)
        target = self._store.path(name)
        # Opened before the rename, so that running out of descriptors leaves nothing visible.
        directory = self._store.directories.open(self._store.shard(name))
        try:
            move(self._path, target)
            os.fsync(directory)
        except FileExistsError as error:
            raise AlreadyExists(name) from error
        finally:
            os.close(directory)

    def _discard(self) -> None:
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not self._renamed:
            os.unlink(self._path)
