"""The findings of a check, and its progress. This module knows neither disks nor servers."""

from __future__ import annotations

import errno
import threading
from typing import NamedTuple

# The bytes differ from their name, the disk cannot return them, or something is in place of an object or a directory.
DAMAGED = "damaged"
# A name that the store does not use there. A check never touches it.
FOREIGN = "foreign"
# A staging of a process that has ended.
HALF_MADE = "half-made"
# Bytes without a drop, or chunks without a manifest.
ORPHANED = "orphaned"
# A drop that is available and has no bytes.
MISSING = "missing"
# The user who runs the check may not read it.
UNREADABLE = "unreadable"

# Errors of a disk that has lost bytes: its own, of the file system's structure, or of a checksum.
_LOST = (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA)

# Errors of a machine without free resources, which say nothing about an object.
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

FINDING_KINDS = (DAMAGED, FOREIGN, HALF_MADE, ORPHANED, MISSING, UNREADABLE)


class Finding(NamedTuple):
    """`path` is within the store, or a memcached key. `remedy` says how it was repaired, None if it was not."""

    kind: str
    path: str
    reason: str
    remedy: str | None = None


def read_failure(path: str, error: OSError) -> Finding:
    """The finding for a file that cannot be read. Raises the error if it says nothing about the file."""
    if error.errno in _OUT_OF_RESOURCES:
        raise error
    kind = DAMAGED if error.errno in _LOST else UNREADABLE
    return Finding(kind, path, f"it cannot be read: {error.strerror or error}")


class CheckTotals:
    """The progress of a check. Many threads add to it, any thread reads it; the lock guards each sum."""

    def __init__(self) -> None:
        self.objects = 0
        # In bytes, including the part that was read of objects that are being read.
        self.size = 0
        # The expected final values of both, None until they are known.
        self.all_objects: int | None = None
        self.all_size: int | None = None
        self._lock = threading.Lock()

    def add_object(self) -> None:
        with self._lock:
            self.objects += 1

    def add_size(self, size: int) -> None:
        with self._lock:
            self.size += size
