"""Unfinished uploads in the store's directory: a file with the bytes of each, and a lock file that names its holder.

Daemons on one directory share them, that of several machines included. Whichever database has the rows.
"""

from __future__ import annotations

import os

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store import layout
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.uploads.lock_files import FileHolds
from filestoraged.store.uploads.registry import Registry
from filestoraged.store.uploads.storage import Held
from filestoraged.store.uploads.upload_file import UploadFile


class LocalStorage:
    """A `Storage`."""

    is_remote = False

    def __init__(self, disk: DiskStore, registry: Registry, clock: Clock = SYSTEM_CLOCK) -> None:
        """`disk` is the store's directory, wherever the objects go."""
        self._volume = disk.volume
        self._identity = disk.volume.identity
        self._root = disk.root
        # Beside the bytes: who can lock a file is alive.
        self._owners = OwnerFiles(self._path(layout.UPLOAD_OWNERS), self._identity)
        self._holds = FileHolds(disk.volume.directories, self._owners, registry.apply, clock=clock)

    def acquire(self, id_: str) -> Held:
        hold = self._holds.acquire(self._path(layout.upload_lock_path(id_)))
        return Held(hold, UploadFile(self._path(layout.upload_path(id_)), hold, self._volume))

    def is_held(self, id_: str) -> bool:
        with self._identity.required():
            return self._holds.is_held(self._path(layout.upload_lock_path(id_)))

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

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"
