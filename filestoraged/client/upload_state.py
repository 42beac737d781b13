"""Uploads that were begun and not completed, in files, so that a later run of the program continues them.

A file is named by what is uploaded and where to: path, size and time of change, and the target. It holds the path of
the upload at the daemon, which lets anyone with a token continue it, so only its owner may read it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.file_lock import try_lock

# Seconds. A daemon keeps an upload for 24 hours after its last byte.
_MAX_AGE = 2 * 24 * 3600

_NAME = re.compile(r"[0-9a-f]{32}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%\-]+)+")


class UploadState:
    """The state of one upload. Leaving the with-block lets other processes have it; one process at a time does."""

    def __init__(self, directory: str | None, key: Sequence[str | int], clock: Clock = SYSTEM_CLOCK) -> None:
        """Without a `directory`, or where it cannot be used, nothing is kept."""
        self._descriptor: int | None = None
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        self._file = None if directory is None else os.path.join(directory, name)
        self._directory = directory
        self._clock = clock

    def __enter__(self) -> UploadState:
        if self._file is None or self._directory is None:
            return self
        # A full disk or a directory that cannot be written costs only the continuation.
        with contextlib.suppress(OSError):
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            _require_own(self._directory)
            _remove_old(self._directory, self._clock.date())
            self._descriptor = _lock(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or self._file is None:
            return
        with contextlib.suppress(OSError):
            if not os.fstat(descriptor).st_size:
                # Before the lock ends with the descriptor.
                os.unlink(self._file)
        os.close(descriptor)

    def read(self) -> str | None:
        """Return the path of an upload to continue."""
        if self._descriptor is None:
            return None
        text = os.pread(self._descriptor, 4096, 0).decode("latin-1")
        return text if _PATH.fullmatch(text) else None

    def write(self, path: str) -> None:
        self.forget()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self._descriptor, path.encode(), 0)

    def forget(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)


def default_directory() -> str:
    """Return the directory for state by the XDG Base Directory Specification, which ignores relative paths."""
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):
        home = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(home, "filestoraged")


def _require_own(directory: str) -> None:
    """Raise OSError for a directory in which others can make files: theirs would name uploads that others can read."""
    status = os.stat(directory)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), directory)


def _lock(file: str) -> int | None:
    """Open and lock a file. Returns None if another process has it: it uploads the same to the same target."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if try_lock(descriptor) and os.fstat(descriptor).st_nlink:
            return descriptor
    except OSError:
        pass
    # Locked by another process, or removed by it meanwhile.
    os.close(descriptor)
    return None


def _remove_old(directory: str, now: float) -> None:
    oldest = now - _MAX_AGE
    with os.scandir(directory) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
