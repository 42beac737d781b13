"""Small objects that were read a moment ago, kept in memory for as long as their files are the same.

A removal or a replacement by another process is seen, since the file is looked at each time: a `stat` instead of
opening, reading and closing it.
"""

from __future__ import annotations

import os
import threading

from filestoraged.store.contract import Blob, Sink

# An object of this size costs more to send than to find.
SMALL = 64 * 1024

# Bytes of objects kept by one process, and how many objects: each takes up to 1 KiB besides its bytes, so all of it is
# 16 MiB. When that is reached, all are forgotten: those asked for often are soon there again.
_KEPT = 8 * 1024 * 1024
_MOST = 8192

# What a file is known by. Its change time alone would do, but for clocks that go backwards.
_Identity = tuple[int, int, int, int]


class SmallBlob(Blob):
    """A whole object in memory. Many threads may send it at once; closing it does nothing."""

    __slots__ = ("_data", "_identity", "digest", "modified", "size")

    def __init__(self, digest: str, data: bytes, status: os.stat_result) -> None:
        self.digest = digest
        self.size = len(data)
        self.modified = int(status.st_mtime)
        self._data = data
        self._identity = _identity(status)

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a file with that status is still the one that was read."""
        return self._identity == _identity(status)

    def send(self, sink: Sink, start: int, stop: int) -> int:
        whole = start == 0 and stop == self.size
        return start + sink.write(self._data if whole else memoryview(self._data)[start:stop])

    def close(self) -> None:
        pass


class SmallBlobCache:
    """Small blobs by path. The lock guards the count of their bytes, and what may grow with it."""

    def __init__(self) -> None:
        self._blobs: dict[str, SmallBlob] = {}
        self._size = 0
        self._lock = threading.Lock()

    def find(self, path: str) -> SmallBlob | None:
        """The object of the file that is at `path` now, if it is known."""
        blob = self._blobs.get(path)
        if blob is None:
            return None
        try:
            if blob.is_of(os.stat(path)):
                return blob
        except OSError:
            # It is gone, or whoever opens the file will find out what else it is.
            pass
        self._forget(path)
        return None

    def keep(self, path: str, blob: SmallBlob) -> None:
        with self._lock:
            if self._size + blob.size > _KEPT or len(self._blobs) >= _MOST:
                self._blobs.clear()
                self._size = 0
            known = self._blobs.get(path)
            self._size += blob.size - (known.size if known else 0)
            self._blobs[path] = blob

    def _forget(self, path: str) -> None:
        with self._lock:
            blob = self._blobs.pop(path, None)
            if blob is not None:
                self._size -= blob.size


def read_at_once(descriptor: int, size: int) -> bytes | None:
    """Read a whole small file, if the kernel has it at hand; else None."""
    data = bytearray(size)
    try:
        read = os.preadv(descriptor, (data,), 0, os.RWF_NOWAIT)
    except OSError:
        # It would have to wait for the disk; or the file system cannot tell.
        return None
    return bytes(data) if read == size else None


def _identity(status: os.stat_result) -> _Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
