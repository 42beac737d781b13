"""Keys, drops, locks and uploads in PostgreSQL. Loaded where --database is given: the driver takes some megabytes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from filestoraged.api.kv import Keys
from filestoraged.clock import Clock
from filestoraged.errors import StartError, StorageFull, StoreFailed, StoreUnavailable
from filestoraged.store.cleanup_lock import CleanupLock
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops
from filestoraged.store.locks import Locks
from filestoraged.store.postgresql.connection import Connector
from filestoraged.store.postgresql.kv import PostgresKeys
from filestoraged.store.postgresql.lease import JanitorLease
from filestoraged.store.postgresql.transactions import PostgresTransactions
from filestoraged.store.postgresql.url import DatabaseAddress
from filestoraged.store.uploads.local_storage import LocalStorage
from filestoraged.store.uploads.registry import Registry
from filestoraged.store.uploads.storage import Storage

if TYPE_CHECKING:
    from filestoraged.store.s3.segment_objects import SegmentObjects


class PostgresDatabases:
    """The database at an address. All but keys share their connections, which the last of them closes."""

    is_remote = True

    def __init__(self, address: DatabaseAddress, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._connector = Connector(address)
        self._lock = threading.Lock()
        self._shared: _SharedTransactions | None = None

    def prepare(self) -> Sequence[str]:
        try:
            with contextlib.closing(self._connector.connect()):
                return ()
        except (StoreUnavailable, StorageFull) as error:
            cause = error.__cause__ or error
            return (f"starting without the database {self._address.description}: {cause}",)
        except StoreFailed as error:
            cause = error.__cause__ or error
            raise StartError(f"cannot use the database {self._address.description}: {cause}") from error

    def open_keys(self) -> Keys:
        return PostgresKeys(self._connector)

    def open_drops(self, *, ttl: float) -> Drops:
        shared = self._share()
        return Drops(shared, shared, ttl=ttl, clock=self._clock)

    def open_locks(self) -> Locks:
        return Locks(self._share())

    def open_uploads(self, *, ttl: float) -> Registry:
        return Registry(self._share(), ttl=ttl, clock=self._clock)

    def open_upload_storage(self, registry: Registry, disk: DiskStore, segments: SegmentObjects | None) -> Storage:
        if segments is None:
            return LocalStorage(disk, registry)
        # Closed with the registry.
        assert self._shared is not None
        shared = self._shared
        from filestoraged.store.uploads.remote_storage import RemoteStorage

        return RemoteStorage(shared, shared, segments, registry, clock=self._clock)

    def open_cleanup_lock(self) -> CleanupLock:
        # It ends with the drops or the uploads.
        assert self._shared is not None
        return JanitorLease(self._shared)

    def _share(self) -> _SharedTransactions:
        with self._lock:
            if self._shared is None:
                self._shared = _SharedTransactions(self._connector)
            self._shared.users += 1
            return self._shared


class _SharedTransactions(PostgresTransactions):
    """Closed by the last of its users. Several threads close it; the lock guards their number."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector)
        self.users = 0
        self._users_lock = threading.Lock()

    def close(self) -> None:
        with self._users_lock:
            self.users -= 1
            is_last = self.users == 0
        if is_last:
            super().close()
