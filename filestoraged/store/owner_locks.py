"""Owner locks: a process locks an entry of a directory for as long as it lives, however it ends.

Other processes can lock the entry only after its owner's end, which tells them that what the owner held may be cleared.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from filestoraged.file_lock import lock, try_lock
from filestoraged.store.path_identity import PathIdentity
from filestoraged.store.permissions import PRIVATE, make_directory, open_own_directory
from filestoraged.store.system import LINUX, Files, System

# Of a lock file. A symbolic link would lead to a foreign file.
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


class LockOwner(NamedTuple):
    """A process as owner. Its lock is held while `descriptor` is open."""

    token: str
    path: str
    pid: int
    descriptor: int


class OwnerLocks(ABC):
    """A directory with one locked entry for each process, named by the process's token.

    Any thread calls it. The lock serializes making and releasing this process's entry.
    """

    def __init__(self, directory: str, *, system: System = LINUX) -> None:
        self._directory = directory
        self._system = system
        self._own: LockOwner | None = None
        self._making = system.lock()

    def own(self) -> LockOwner:
        """This process's entry, made on the first call. A forked child gets its own. Raises OSError."""
        own = self._own
        if own is None or own.pid != self._system.getpid():
            own = self.renew(own)
        return own

    def renew(self, old: LockOwner | None) -> LockOwner:
        """Replace this process's entry `old`, unless another thread has done so. Raises OSError."""
        with self._making:
            if self._own is old or self._own is None:
                self._own = self._make_own()
            return self._own

    def release(self) -> None:
        """Remove this process's entry and unlock it, unless the entry is in use. The next `own` makes another."""
        with self._making:
            own = self._own
            if own is None or own.pid != self._system.getpid():
                return
            try:
                self._remove(own.path)
            except FileNotFoundError:
                pass
            except OSError:
                return
            self._own = None
            self._system.close(own.descriptor)

    def tokens(self) -> Sequence[str]:
        """The tokens of all owners, alive or dead. Raises OSError, also if the directory is a symbolic link."""
        try:
            with self._opened() as directory:
                return self._system.listdir(directory)
        except FileNotFoundError:
            return []

    def path(self, token: str) -> str:
        return f"{self._directory}/{token}"

    def _opened(self) -> AbstractContextManager[int]:
        """The open directory. Raises OSError, also if it is a symbolic link."""
        return closed_after(open_own_directory(self._directory, system=self._system), system=self._system)

    @abstractmethod
    def _make(self, path: str) -> int:
        """Make an entry and return a descriptor of it. Raises FileNotFoundError if another process removed it."""

    @abstractmethod
    def _remove(self, path: str) -> None:
        """Remove an entry. Raises OSError if it is in use."""

    def _make_own(self) -> LockOwner:
        while True:
            token = self._system.urandom(8).hex()
            path = self.path(token)
            try:
                descriptor = self._make(path)
            except FileNotFoundError:
                # A process that starts swept the entry before it was opened.
                continue
            try:
                lock(descriptor, flock=self._system.flock)
                # No link: a process that starts swept the entry before it was locked.
                if self._system.fstat(descriptor).st_nlink:
                    return LockOwner(token, path, self._system.getpid(), descriptor)
            except BaseException:
                self._system.close(descriptor)
                raise
            self._system.close(descriptor)


class OwnerFiles(OwnerLocks):
    """LockOwner locks on empty files, for processes that refer to each other by token."""

    def __init__(self, directory: str, root: PathIdentity | None = None) -> None:
        """Without `root`, the directory above, the directory is made in whatever is there."""
        super().__init__(directory)
        self._root = root

    def prepare(self) -> None:
        """Make this process's entry, where its caller can handle an OSError."""
        self.own()

    @property
    def token(self) -> str:
        """This process's token. A forked child has another one than its parent."""
        return self.own().token

    def is_alive(self, token: str) -> bool:
        """Whether the owner is alive. Unlinks a dead owner's lock file."""
        if self._own is not None and token == self._own.token:
            return True
        try:
            with self._opened() as directory:
                return self._is_locked(token, directory)
        except FileNotFoundError:
            return False

    def sweep(self) -> None:
        """Unlink the lock files of dead owners."""
        for token in self.tokens():
            self.is_alive(token)

    def _make(self, path: str) -> int:
        if self._root is not None:
            self._root.check()
        with contextlib.suppress(FileExistsError):
            make_directory(self._directory, PRIVATE.directory, system=self._system)
        with self._opened() as directory:
            descriptor = self._system.open(os.path.basename(path), _FLAGS | os.O_CREAT, PRIVATE.file, dir_fd=directory)
        # Whatever the umask: other workers must be able to open it.
        self._system.fchmod(descriptor, PRIVATE.file)
        return descriptor

    def _remove(self, path: str) -> None:
        self._system.unlink(path)

    def _is_locked(self, token: str, directory: int) -> bool:
        """Whether the owner of a lock file is alive. Unlinks a dead owner's."""
        try:
            descriptor = self._system.open(token, _FLAGS, dir_fd=directory)
        except OSError as error:
            # A symbolic link is no owner's.
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            return False
        with closed_after(descriptor, system=self._system):
            if not try_lock(descriptor, flock=self._system.flock):
                return True
            with contextlib.suppress(FileNotFoundError):
                self._system.unlink(token, dir_fd=directory)
        return False


@contextlib.contextmanager
def closed_after(descriptor: int, *, system: Files = LINUX) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        system.close(descriptor)
