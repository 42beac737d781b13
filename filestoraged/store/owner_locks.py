"""Which processes are alive that have claimed something: each holds a lock that dies with it, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from typing import NamedTuple

from filestoraged.store.disk.permissions import PRIVATE, make_directory


class _Own(NamedTuple):
    """The lock is held as long as its descriptor is open."""

    token: str
    pid: int
    lock: int


class OwnerLocks:
    """A directory of small files, one for each process, named by its token. The lock guards the making of one's own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._own: _Own | None = None
        self._making = threading.Lock()

    @property
    def token(self) -> str:
        """This process's own. A child has another one than its parent."""
        with self._making:
            if self._own is None or self._own.pid != os.getpid():
                self._own = self._appear()
            return self._own.token

    def is_alive(self, token: str) -> bool:
        """Whether the process with that token is. The file of one that is not goes."""
        if self._own is not None and token == self._own.token:
            return True
        try:
            lock = os.open(self._path(token), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(self._path(token))
        except BlockingIOError:
            return True
        except FileNotFoundError:
            pass
        finally:
            os.close(lock)
        return False

    def sweep(self) -> None:
        """Clear away the files of those that are not."""
        with contextlib.suppress(FileNotFoundError):
            for token in os.listdir(self._directory):
                self.is_alive(token)

    def _appear(self) -> _Own:
        with contextlib.suppress(FileExistsError):
            make_directory(self._directory, PRIVATE.directory)
        while True:
            token = secrets.token_hex(8)
            lock = os.open(self._path(token), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE.file)
            # Whatever the umask: the other workers must be able to open it.
            os.fchmod(lock, PRIVATE.file)
            fcntl.flock(lock, fcntl.LOCK_EX)
            # Somebody may have swept it before it was locked.
            if os.fstat(lock).st_nlink:
                return _Own(token, os.getpid(), lock)
            os.close(lock)

    def _path(self, token: str) -> str:
        return os.path.join(self._directory, token)
