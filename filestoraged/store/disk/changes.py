"""The changes of a disk store: uploads, removals, and notes of what was changed without the journal.

The invariant: a name in a shard leads to a whole object, at every moment and after every crash, and an object that was
answered stays. With a journal, a change is recorded durably, then applied to the files without a sync. Without one, the
bytes are synced before they get their name, and the directory behind it. In both cases the path is locked meanwhile, so
that no other thread or process changes the same object.
"""

from __future__ import annotations

import contextlib
import errno
import stat
from abc import ABC, abstractmethod
from typing import Any

from filestoraged.digest import Bytes, Digest
from filestoraged.errors import AlreadyExists, NotFound
from filestoraged.future import Future
from filestoraged.store.disk.directories import Directories, open_directory, sync
from filestoraged.store.disk.records import RecordKind
from filestoraged.store.disk.staging_area import StagedFile, StagingArea
from filestoraged.store.disk.staging_memory import MemoryStaging
from filestoraged.store.system import System

Source = MemoryStaging | StagedFile


class Change(ABC):
    """A change of the object at `path`, which is below the store. One thread at a time calls it."""

    kind: RecordKind
    # Whether the committer is to lock the path. Otherwise its caller has.
    is_locked_by_caller = False

    def __init__(self, path: str, directories: Directories) -> None:
        self.path = path
        self.done: Future[Any] = Future()
        self._directories = directories
        self._system: System = directories.system
        self._full = f"{directories.root}/{path}"
        self._shard, _, self._name = self._full.rpartition("/")

    # With a journal, in this order.

    def prepare(self) -> Bytes:
        """Do all that may fail before the record. Returns its bytes. Raises OSError, and Error."""
        self._directories.refuse_link(self._full)
        return b""

    @abstractmethod
    def apply(self) -> None:
        """The record is durable: apply it to the files. Raises OSError, and Error, if nothing was changed."""

    # Without one.

    @abstractmethod
    def commit_alone(self) -> None:
        """Make the change, and make it durable. Raises OSError, and Error."""

    def take_back(self) -> None:
        """Undo what `commit_alone` made, if it or what followed has failed, where it can be undone. Raises nothing."""
        return

    # In any case, one of these, last.

    @abstractmethod
    def finish(self) -> Any:
        """The change is made. Returns the result of `done`. Raises an Error instead."""

    def fail(self, error: BaseException) -> None:
        self._release()
        self.done.set_exception(error)

    def _release(self) -> None:
        """Release everything. Raises nothing."""
        return


class ObjectUpload(Change):
    """Bytes that become an object."""

    kind = RecordKind.STORED

    def __init__(
        self,
        path: str,
        source: Source,
        directories: Directories,
        area: StagingArea,
        *,
        digest: Digest,
        replace: bool,
    ) -> None:
        super().__init__(path, directories)
        self._source = source
        self._digest = digest
        self._replace = replace
        self._area = area
        self._file: StagedFile | None = source if isinstance(source, StagedFile) else None
        # Whether the object existed before, and was not to be replaced; and whether this upload gave it its name.
        self._is_refused = False
        self._is_new = False

    def prepare(self) -> Bytes:
        super().prepare()
        # What exists is durable: the upload that stored it locked its path until it was.
        if not self._replace and self._exists():
            raise AlreadyExists(self._name)
        assert isinstance(self._source, MemoryStaging)
        data: Bytes = self._source.data
        self._write(data)
        return data

    def apply(self) -> None:
        # Another upload of the same round may have stored it.
        if not self._replace and self._exists():
            raise AlreadyExists(self._name)
        self._give_name()

    def commit_alone(self) -> None:
        super().prepare()
        exists = self._exists()
        self._is_refused = exists and not self._replace
        if not self._is_refused:
            if isinstance(self._source, MemoryStaging):
                self._write(self._source.data)
            assert self._file is not None
            self._file.sync()
            self._give_name()
            self._is_new = not exists
        # Of one that exists, too: a client that is told so does not send it again, and a process that was killed may
        # not have synced its name.
        directory = open_directory(self._shard, system=self._system)
        try:
            self._directories.sync(self._shard, directory)
        finally:
            self._system.close(directory)

    def take_back(self) -> None:
        if self._is_new:
            with contextlib.suppress(OSError):
                self._system.unlink(self._full)
                self._system.rmdir(self._shard)

    def finish(self) -> Digest:
        self._release()
        if self._is_refused:
            raise AlreadyExists(self._name)
        return self._digest

    def _write(self, data: Bytes) -> None:
        self._file = self._area.stage()
        self._file.write(data)

    def _give_name(self) -> None:
        assert self._file is not None
        self._directories.place(self._shard, self._file.rename, self._full)

    def _exists(self) -> bool:
        """Whether anything has the name. Raises OSError if it is no object, and not to be replaced."""
        try:
            mode = self._system.lstat(self._full).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return False
        if not self._replace and not stat.S_ISREG(mode):
            # A client that was told that the object exists would not send it again.
            raise FileExistsError(errno.EEXIST, f"{self._full!r} is not a regular file")
        return True

    def _release(self) -> None:
        # It is an object or to be discarded; an error here changes neither.
        with contextlib.suppress(OSError):
            self._source.discard()
            if self._file is not None:
                self._file.discard()


class Removal(Change):
    """The removal of an object. That it is missing is recorded, too: its client may not have learnt why."""

    kind = RecordKind.REMOVED
    _is_removed = False

    def apply(self) -> None:
        self._is_removed = self._unlink(self._full, None)

    def commit_alone(self) -> None:
        self._directories.refuse_link(self._full)
        # Open before the removal: a process without free descriptors removes nothing.
        try:
            directory = open_directory(self._shard, system=self._system)
        except (FileNotFoundError, NotADirectoryError):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                sync(self._shard.rpartition("/")[0], system=self._system)
            return
        try:
            self._is_removed = self._unlink(self._name, directory)
            # Also if nothing was removed: this may be the retry of a removal whose sync failed.
            self._system.fsync(directory)
            if not self._system.fstat(directory).st_nlink:
                # Another removal removed the directory, perhaps before that sync.
                sync(self._shard.rpartition("/")[0], system=self._system)
        finally:
            self._system.close(directory)

    def finish(self) -> None:
        if not self._is_removed:
            raise NotFound(name=self._name)
        # Fails if it is not empty. An upload that needs it makes it again.
        with contextlib.suppress(OSError):
            self._system.rmdir(self._shard)

    def _unlink(self, name: str, directory: int | None) -> bool:
        try:
            self._system.unlink(name, dir_fd=directory)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        return True


class Note(Change):
    """The object at the path was changed without a record, and synced. The caller has locked the path."""

    kind = RecordKind.SYNCED
    is_locked_by_caller = True

    def apply(self) -> None:
        return

    def commit_alone(self) -> None:
        return

    def finish(self) -> None:
        pass
