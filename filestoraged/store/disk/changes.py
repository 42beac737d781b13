"""The changes of a disk store: an upload in two steps, and a removal in one.

Each step is made durable before the next one is taken, by `sync` or by a sync of the whole file system.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from filestoraged.digest import Digest
from filestoraged.errors import AlreadyExists, NotFound
from filestoraged.store import layout
from filestoraged.store.disk.committer import Change
from filestoraged.store.disk.directories import open_directory, sync
from filestoraged.store.disk.staged_file import StagedFile
from filestoraged.store.disk.volume import MemoryStaging, Volume
from filestoraged.store.system import Files

Source = MemoryStaging | StagedFile

# Gives a file a name: `StagedFile.add` or `StagedFile.replace`.
Move = Callable[[StagedFile, str], None]


class Upload(Change):
    """Bytes that become an object: its file is written, and then named."""

    def __init__(self, volume: Volume, source: Source, move: Move, *, root: str, name: str, digest: Digest) -> None:
        """`root` is the directory of the namespace."""
        super().__init__()
        self._volume = volume
        self._system = volume.system
        self._source: Source | None = source
        self._move = move
        self._root = root
        self._shard = f"{root}/{layout.shard(name)}"
        self._path = f"{self._shard}/{name}"
        self._digest = digest
        self._file: StagedFile | None = None
        self._refusal: AlreadyExists | None = None

    def advance(self) -> None:
        if self._file is None:
            self._write()
            return
        try:
            self._volume.directories.place(self._shard, self._name)
        except AlreadyExists as error:
            # Answered behind the sync: a client that is told that the object exists does not send it again, and the
            # upload that stored it may not have synced its name yet.
            self._refusal = error
        self.is_complete = True

    def sync(self) -> None:
        assert self._file is not None
        if not self.is_complete:
            self._file.sync()
            return
        try:
            directory = open_directory(self._shard, system=self._system)
        except FileNotFoundError:
            # A removal has removed the object again, and its directory: the removal came last.
            sync(self._root, system=self._system)
            return
        try:
            self._volume.directories.sync(self._shard, directory)
        finally:
            self._system.close(directory)

    def finish(self) -> Digest:
        self._close()
        if self._refusal is not None:
            raise self._refusal
        return self._digest

    def undo(self) -> None:
        if self.is_complete:
            assert self._file is not None
            with contextlib.suppress(OSError):
                self._file.take_back(self._shard, self._path)
        self._close()

    def _write(self) -> None:
        if isinstance(self._source, StagedFile):
            self._file = self._source
        elif self._source is not None:
            self._file = self._volume.stage_file()
            self._file.write(self._source.data)
        if self._move is StagedFile.replace:
            self.stores = self._path
        self._release_source()

    def _release_source(self) -> None:
        source, self._source = self._source, None
        if isinstance(source, MemoryStaging):
            source.release()

    def _name(self) -> None:
        assert self._file is not None
        self._move(self._file, self._path)

    def _close(self) -> None:
        file = self._file or self._source
        self._release_source()
        if isinstance(file, StagedFile):
            # It is an object or to be discarded; an error here changes neither.
            with contextlib.suppress(OSError):
                file.discard()


class Removal(Change):
    """The removal of an object."""

    def __init__(self, root: str, name: str, *, system: Files) -> None:
        """`root` is the directory of the namespace."""
        super().__init__()
        self._system = system
        self._root = root
        self._name = name
        self._shard = f"{root}/{layout.shard(name)}"
        self._is_removed = False
        self.is_complete = True

    def advance(self) -> None:
        # A missing object is synced all the same: this may be the retry of a removal whose sync failed.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            self._system.unlink(f"{self._shard}/{self._name}")
            self._is_removed = True

    def sync(self) -> None:
        for path in (self._shard, self._root):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                sync(path, system=self._system)
                return

    def finish(self) -> None:
        if not self._is_removed:
            raise NotFound(name=self._name)
        # Fails if it is not empty. An upload that needs it makes it again.
        with contextlib.suppress(OSError):
            self._system.rmdir(self._shard)

    def undo(self) -> None:
        """A removal that may have happened cannot be undone; the caller repeats it."""
