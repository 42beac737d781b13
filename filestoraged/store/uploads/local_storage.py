"""Unfinished uploads in the store's directory: a file with the bytes of each, and a lock file that names its holder.

Daemons on one directory share them, that of several machines included. Whichever database has the rows.
"""

from __future__ import annotations

import os

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import UploadLocked
from filestoraged.file_lock import try_lock, unlock
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.owner_locks import OwnerFiles, closed_after
from filestoraged.store.permissions import PRIVATE
from filestoraged.store.uploads.lock_files import FileHold, LockHolder, read_holder, write_holder
from filestoraged.store.uploads.registry import Registry
from filestoraged.store.uploads.storage import SILENCE, Held, Tail
from filestoraged.store.uploads.upload_file import UploadFile


class LocalStorage:
    """A `Storage`."""

    is_remote = False

    def __init__(
        self, disk: DiskStore, registry: Registry, clock: Clock = SYSTEM_CLOCK, *, silence: float = SILENCE
    ) -> None:
        """`disk` is the store's directory, wherever the objects go. `silence` is in seconds."""
        self._volume = disk.volume
        self._identity = disk.volume.identity
        self._root = disk.root
        # Beside the bytes: who can lock a file is alive.
        self._owners = OwnerFiles(self._path(layout.UPLOAD_OWNERS), self._identity)
        self._apply = registry.apply
        self._clock = clock
        self._silence = silence

    def acquire(self, id_: str) -> Held:
        """As the protocol says. Raises StoreDetached, too."""
        path = self._path(layout.upload_lock_path(id_))
        # The lock file is made if it is missing.
        self._identity.check()
        token = self._owners.token
        while True:
            descriptor = self._open(path)
            try:
                hold = self._acquire(path, descriptor, token)
            except BaseException:
                os.close(descriptor)
                raise
            if hold is not None:
                return Held(hold, UploadFile(self._path(layout.upload_path(id_)), hold, self._volume))
            # The upload ended, and its lock file was removed before this one was locked.
            os.close(descriptor)

    def is_held(self, id_: str) -> bool:
        with self._identity.required():
            try:
                descriptor = os.open(
                    self._path(layout.upload_lock_path(id_)), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                )
            except FileNotFoundError:
                return False
            with closed_after(descriptor):
                return self._is_alive(read_holder(descriptor))

    def may_have_bytes(self, id_: str) -> bool:
        with self._identity.required():
            return os.path.lexists(self._path(layout.upload_lock_path(id_)))

    def has_bytes(self, id_: str, received: int) -> bool:
        try:
            with self._identity.required():
                return os.stat(self._path(layout.upload_path(id_))).st_size >= received
        except FileNotFoundError:
            return False

    def sweep(self) -> None:
        self._owners.sweep()

    def _acquire(self, path: str, descriptor: int, token: str) -> FileHold | None:
        """Hold the upload by its open lock file. Returns None if the file has no name any more."""
        if not try_lock(descriptor):
            # The holder writes at this moment.
            raise UploadLocked
        if not os.fstat(descriptor).st_nlink:
            return None
        holder = read_holder(descriptor)
        is_alive = self._is_alive(holder)
        is_silent = abs(self._clock.date() - os.fstat(descriptor).st_mtime) >= self._silence
        if is_alive and (not is_silent or holder.tail is Tail.NONE):
            raise UploadLocked
        generation = holder.generation + 1
        write_holder(descriptor, LockHolder(generation, token, Tail.CUT_OFF))
        os.utime(descriptor)
        unlock(descriptor)
        # Of a dead process, the last write or sync may have failed without anyone who knows.
        has_tail = is_alive and holder.tail is Tail.COUNTS
        return FileHold(path, descriptor, generation, token, has_tail=has_tail, apply=self._apply, clock=self._clock)

    def _open(self, path: str) -> int:
        above, name = os.path.split(path)
        with closed_after(self._volume.directories.open(above)) as directory:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE.file, dir_fd=directory)

    def _is_alive(self, holder: LockHolder) -> bool:
        return holder.token != "" and self._owners.is_alive(holder.token)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
