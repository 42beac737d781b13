"""Write-behind: a file that grows has few bytes in memory that are not on disk yet.

The disk then works while the network does, the sync at the end has little left to wait for, and so has `syncfs` for
other files meanwhile. The invariant: at most two windows of a file are unwritten or being written. It bounds memory and
delays, and promises nothing about durability, which only the sync at the end does.
"""

from __future__ import annotations

import errno
import os

from filestoraged.store.system import LINUX, WAIT_AFTER, WAIT_BEFORE, WRITE, Files

# In bytes. On a disk of 1 GiB/s, a `syncfs` beside an upload takes 1.4 ms with windows of 2 MiB and 5 ms with 8 MiB.
# With 1 MiB, an upload on one core is a fifth slower.
WINDOW = 2 * 1024 * 1024

# A file system or a filter of system calls that does not support the call.
_UNSUPPORTED = (errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP)


class WriteBehind:
    """Makes the kernel write one file, as it grows. One thread at a time calls it."""

    def __init__(self, descriptor: int, start: int = 0, *, system: Files = LINUX) -> None:
        """The file grows from `start` on; earlier bytes are on disk."""
        self._descriptor = descriptor
        self._system = system
        # The kernel has written the bytes up to the first position, and was told to write those up to the second.
        self._written = start
        self._started = start
        self._is_supported = True

    def advance(self, size: int) -> None:
        """Note that the file has `size` bytes. Raises OSError if earlier ones could not be written.

        The kernel reports an error once, so the file must be discarded then: a later sync would succeed.
        """
        if size - self._started < WINDOW:
            return
        written, started = self._written, self._started
        self._written, self._started = started, size
        if not self._sync(started, size, WRITE):
            # This starts to write dirty pages too, and waits for none.
            self._system.posix_fadvise(self._descriptor, started, size - started, os.POSIX_FADV_DONTNEED)
        elif written < started:
            # Meanwhile the kernel writes the window that was just begun.
            self._sync(written, started, WAIT_BEFORE | WRITE | WAIT_AFTER)

    def _sync(self, start: int, stop: int, flags: int) -> bool:
        """Returns False if the call is not supported."""
        if self._is_supported:
            try:
                self._system.sync_file_range(self._descriptor, start, stop, flags)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._is_supported = False
        return self._is_supported
