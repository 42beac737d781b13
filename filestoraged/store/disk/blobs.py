"""Objects opened for reading: by their files, or in a cache of small ones that are in demand.

What the cache has is valid while its file is unchanged. Each hit costs one `stat` of the file, instead of opening,
reading and closing it, so a removal or a replacement by another process is noticed. The path is looked up each time: a
descriptor of the file would cost half as much, but does not tell that a directory above the file was moved away.
"""

from __future__ import annotations

import os
import stat

from filestoraged.bounded_cache import ClockCache
from filestoraged.errors import NotFound
from filestoraged.store.contract import Blob, Sink
from filestoraged.store.system import LINUX, Files

# The memory of the cache where a store is opened without a daemon, in bytes.
DEFAULT_CACHE_SIZE = 8 * 1024 * 1024

# What an object takes besides its bytes and its path, in bytes: CPython's sizes, rounded up, and those of its memo.
_ENTRY_SIZE = 1300

# Inode, size, modification and change time. The change time alone would do if no clock ever went backwards.
_Identity = tuple[int, int, int, int]


class SmallBlob(Blob):
    """A whole object in memory. Many threads may send it at once. Closing it does nothing."""

    __slots__ = ("_data", "_identity", "cache", "digest", "is_used", "key", "memo", "modified", "size")

    def __init__(self, digest: str, data: bytes, status: os.stat_result) -> None:
        self.digest = digest
        self.size = len(data)
        self.modified = int(status.st_mtime)
        self._data = data
        self._identity: _Identity = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self.memo = None
        self.cache: SmallBlobCache | None = None
        self.key = ""
        # Whether it was requested since the cache considered it last.
        self.is_used = False

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a file with that status is the unchanged file that was read."""
        return self._identity == (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def send(self, sink: Sink, start: int, stop: int) -> int:
        whole = start == 0 and stop == self.size
        return start + sink.write(self._data if whole else memoryview(self._data)[start:stop])

    def close(self) -> None:
        pass


class DiskBlob(Blob):
    """An object whose file is open."""

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
        """The same object in memory, or None if the page cache has not all of it: the disk would have to be read."""
        data = bytearray(self.size)
        try:
            read = self._system.preadv(self._descriptor, (data,), 0, os.RWF_NOWAIT)
        except OSError:
            # The read would wait for the disk, or the file system does not support RWF_NOWAIT.
            return None
        return SmallBlob(self.digest, bytes(data), self._status) if read == self.size else None

    def detach(self) -> int:
        """Give the descriptor to the caller, who closes it."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        descriptor = self.detach()
        if descriptor >= 0:
            self._system.close(descriptor)


class SmallBlobCache:
    """Small blobs by path, in `size` bytes of memory at most. Any thread calls it."""

    def __init__(self, size: int = DEFAULT_CACHE_SIZE, *, system: Files = LINUX) -> None:
        self._lstat = system.lstat
        self._blobs: ClockCache[str, SmallBlob] = ClockCache(size, _size_of)

    def get(self, path: str) -> SmallBlob | None:
        """The cached object of the file that is at `path` now, if there is one."""
        blob = self._blobs.get(path)
        if blob is None:
            return None
        try:
            if blob.is_of(self._lstat(path)):
                blob.is_used = True
                return blob
        except OSError:
            # The file was removed, or opening it will raise the error that says why not.
            pass
        self._blobs.discard(path)
        return None

    def put(self, path: str, blob: SmallBlob) -> None:
        blob.cache, blob.key = self, path
        self._blobs.put(path, blob)


def _size_of(path: str, blob: SmallBlob) -> int:
    return blob.size + len(path) + _ENTRY_SIZE
