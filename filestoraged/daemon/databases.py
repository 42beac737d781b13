"""Where keys, drops, locks and uploads are kept: SQLite files below the store, or a database of several machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from filestoraged.api.kv import Keys
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store import layout
from filestoraged.store.cleanup_lock import CleanupLock, FileLock
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops
from filestoraged.store.kv import KeyValues
from filestoraged.store.locks import Locks
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.path_identity import PathIdentities, PathIdentity
from filestoraged.store.uploads.local_storage import LocalStorage
from filestoraged.store.uploads.registry import Registry
from filestoraged.store.uploads.storage import Storage

if TYPE_CHECKING:
    from filestoraged.store.postgresql.url import DatabaseAddress
    from filestoraged.store.s3.segment_objects import SegmentObjects


class Databases(Protocol):
    """Opens each database once in a worker. Those who open one close it."""

    # Whether queries wait for another machine.
    is_remote: bool

    def prepare(self) -> Sequence[str]:
        """Make what is missing, in the master. Returns faults that the daemon starts with. Raises StartError."""

    def open_keys(self) -> Keys: ...

    def open_drops(self, *, ttl: float) -> Drops: ...

    def open_locks(self) -> Locks: ...

    def open_uploads(self, *, ttl: float) -> Registry: ...

    def open_upload_storage(self, registry: Registry, disk: DiskStore, segments: SegmentObjects | None) -> Storage:
        """Where unfinished uploads have their bytes: the directory, unless there are `segments` of an S3 store."""

    def open_cleanup_lock(self) -> CleanupLock:
        """The lock of the janitors. Open the drops or the uploads first."""


class SqliteDatabases:
    """Files in the directory of the store, `root`. Interfaces prepare their own, and fix their `identities`."""

    is_remote = False

    def __init__(self, root: PathIdentity, identities: PathIdentities, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._identities = identities

    def prepare(self) -> Sequence[str]:
        return ()

    def open_keys(self) -> Keys:
        identity = self._identity(layout.KEYS_DATABASE)
        return KeyValues(identity.path, identity, clock=self._clock)

    def open_drops(self, *, ttl: float) -> Drops:
        identity = self._identity(layout.DROPS_DATABASE)
        owners = OwnerFiles(self._path(layout.DROP_OWNERS), self._root)
        return Drops.open(identity.path, owners, ttl=ttl, identity=identity, clock=self._clock)

    def open_locks(self) -> Locks:
        identity = self._identity(layout.LOCKS_DATABASE)
        return Locks.open(identity.path, identity, clock=self._clock)

    def open_uploads(self, *, ttl: float) -> Registry:
        identity = self._identity(layout.UPLOADS_DATABASE)
        return Registry.open(identity.path, ttl=ttl, identity=identity, clock=self._clock)

    def open_upload_storage(self, registry: Registry, disk: DiskStore, segments: SegmentObjects | None) -> Storage:
        """Whatever keeps the objects: other machines could not read the rows."""
        return LocalStorage(disk, registry)

    def open_cleanup_lock(self) -> CleanupLock:
        return FileLock(self._path(layout.JANITOR_LOCK), self._root)

    def _identity(self, name: str) -> PathIdentity:
        return self._identities.of_database(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._root.path, name)


def open_databases(
    address: DatabaseAddress | None, root: PathIdentity, identities: PathIdentities, clock: Clock = SYSTEM_CLOCK
) -> Databases:
    """Those at an address that `values.parse_database` returned; without one, those in the directory `root`."""
    if address is None:
        return SqliteDatabases(root, identities, clock)
    from filestoraged.daemon.postgresql_databases import PostgresDatabases

    return PostgresDatabases(address, clock)
