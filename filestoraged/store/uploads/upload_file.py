"""The bytes of an unfinished upload, in a file of the store's directory."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from filestoraged.digest import Bytes
from filestoraged.errors import Gone
from filestoraged.store.contract import Staging, Store
from filestoraged.store.disk.volume import Volume
from filestoraged.store.hashing import COPY_SIZE, OverlappedHasher
from filestoraged.store.uploads.lock_files import FileHold
from filestoraged.store.uploads.storage import Change


class UploadFile:
    """A `Content`, which is written only while the hold is the holder's own.

    No byte counts before a sync that covers it has succeeded. After one that has failed, the bytes that it was for are
    cut off: the kernel reports the error once, and the next sync would succeed without them.
    """

    # The file becomes the object, and is synced before.
    holds_all = False
    is_empty = False

    def __init__(self, path: str, hold: FileHold, volume: Volume) -> None:
        self.path = path
        self._hold = hold
        self._volume = volume
        self._descriptor = -1
        # Bytes that are written, and that are durable.
        self.size = 0
        self._durable = 0

    def open(self, recorded: int) -> None:
        directory = self._volume.directories.open(os.path.dirname(self.path))
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            mode = self._volume.permissions.file
            self._descriptor = os.open(os.path.basename(self.path), flags, mode, dir_fd=directory)
            # The mode of objects, whatever the umask: the file becomes one.
            os.fchmod(self._descriptor, mode)
            if not recorded:
                # With a name that is not durable, nothing in the file would be.
                self._volume.directories.sync(os.path.dirname(self.path), directory)
        finally:
            os.close(directory)
        size = os.fstat(self._descriptor).st_size
        if size < recorded:
            # The row of an upload whose bytes are lost is removed. They are not if the whole directory is.
            self._volume.identity.check()
            raise Gone("Bytes of the upload were lost; begin it anew.")
        self._durable = recorded
        self.size = size if self._hold.has_tail else recorded
        if size > self.size:
            with self._hold.kept():
                os.ftruncate(self._descriptor, self.size)

    def append(self, data: Bytes) -> None:
        view = memoryview(data)
        with self._hold.kept():
            while view:
                written = os.pwrite(self._descriptor, view, self.size)
                view = view[written:]
                self.size += written

    def record(self, change: Change) -> None:
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "The bytes of the upload are closed")
        with self._cut_if_failed():
            os.fdatasync(self._descriptor)
            self._volume.check_changes()
        self._durable = self.size
        self._hold.change(change)

    def cut(self, size: int, change: Change) -> None:
        # The row first: after a crash in between, the next holder cuts the file.
        self._hold.change(change)
        self._cut(size)

    def read(self, start: int) -> Iterator[bytes]:
        while start < self.size:
            piece = os.pread(self._descriptor, min(COPY_SIZE, self.size - start), start)
            if not piece:
                raise Gone("Bytes of the upload were lost; begin it anew.")
            yield piece
            start += len(piece)
            # However long the reader takes.
            self._hold.note_activity()

    def stage(self, store: Store, hasher: Callable[[], OverlappedHasher]) -> Staging | None:
        if not store.stages_files:
            return None
        # The bytes become an object now.
        os.utime(self._descriptor)
        return store.stage_file(self.path, self.size, hasher())

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _cut(self, size: int) -> None:
        with self._hold.kept():
            os.ftruncate(self._descriptor, size)
        self.size = size
        self._durable = min(self._durable, size)

    @contextlib.contextmanager
    def _cut_if_failed(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            with contextlib.suppress(OSError):
                self._cut(self._durable)
            # Nothing more can be added in this hold: whether the cut has succeeded is not known.
            self.close()
            raise
