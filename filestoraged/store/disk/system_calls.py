"""System calls that the standard library lacks."""

from __future__ import annotations

import ctypes
import errno
import os

_libc = ctypes.CDLL(None, use_errno=True)

# Flags of `sync_file_range`, from linux/fs.h.
WAIT_BEFORE, WRITE, WAIT_AFTER = 1, 2, 4


def syncfs(descriptor: int) -> None:
    """Write all that the file system of an open file has in memory, and wait for it; see syncfs(2). Raises OSError."""
    _call("syncfs", descriptor)


def sync_file_range(descriptor: int, start: int, stop: int, flags: int) -> None:
    """Begin to write a part of a file, or wait for it; see sync_file_range(2). Raises OSError."""
    _call("sync_file_range", descriptor, ctypes.c_int64(start), ctypes.c_int64(stop - start), ctypes.c_uint(flags))


def _call(name: str, *arguments: object) -> None:
    try:
        function = getattr(_libc, name)
    except AttributeError:
        number = errno.ENOSYS
    else:
        number = ctypes.get_errno() if function(*arguments) else 0
    if number:
        raise OSError(number, os.strerror(number))
