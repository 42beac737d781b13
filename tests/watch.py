"""Waits for changes of files: the kernel tells of them (inotify(7)), so nothing asks again and again."""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Seconds without any change after which a wait fails.
_PATIENCE = 40.0

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x2, 0x80, 0x100, 0x200

_Value = TypeVar("_Value")

_libc = ctypes.CDLL(None, use_errno=True)


def wait_for_change(what: str, path: Path, condition: Callable[[], _Value]) -> _Value:
    """Return what the condition returns, once that is true. It depends on a file, or on the files in a directory alone.

    Raises AssertionError, which has `what`, where they do not change any more.
    """
    watch = _watch(path)
    try:
        # No change is missed: the watch is older than the first look.
        while not (value := condition()):
            if not select.select([watch], (), (), _PATIENCE)[0]:
                raise AssertionError(f"nothing has changed for {_PATIENCE:.0f} s: {what}")
            # All changes so far, however many they are: the condition looks at their result.
            os.read(watch, 1 << 16)
    finally:
        os.close(watch)
    return value


def _watch(path: Path) -> int:
    watch: int = _libc.inotify_init1(os.O_CLOEXEC)
    if watch < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1")
    if _libc.inotify_add_watch(watch, os.fsencode(path), _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE) < 0:
        os.close(watch)
        raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
    return watch
