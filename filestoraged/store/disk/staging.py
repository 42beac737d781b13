"""The staging of a disk store: small bytes in memory, larger ones in a file of the staging area."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from filestoraged.digest import Bytes, Digest, Expected
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import Staging, Store
from filestoraged.store.disk.changes import ObjectUpload, Source
from filestoraged.store.disk.staging_area import StagedFile
from filestoraged.store.disk.staging_memory import MemoryStaging
from filestoraged.store.disk.volume import Volume
from filestoraged.store.hashing import OverlappedHasher


class DiskStaging(Staging):
    def __init__(
        self,
        store: Store,
        size: int | None,
        expected: Sequence[Expected],
        *,
        volume: Volume,
        namespace: str,
        file: StagedFile | None = None,
        hasher: OverlappedHasher | None = None,
    ) -> None:
        """`namespace` is its path below the outermost store.

        `file` has all `size` bytes already, which `hasher` has hashed: they get another name, and are not copied.
        """
        super().__init__(store, size, expected)
        if hasher is not None:
            self.size = size or 0
            self._hasher = hasher
        self._volume = volume
        self._namespace = namespace
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
