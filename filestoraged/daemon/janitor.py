"""Background cleanup of drops: claims of dead processes, bytes of claimed drops, and drops that have expired."""

from __future__ import annotations

import contextlib

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.daemon.cleaner import Cleaner
from filestoraged.daemon.cleanup_lock import CleanupLock
from filestoraged.errors import NotFound
from filestoraged.store.contract import Store
from filestoraged.store.drops import Drops


class Janitor(Cleaner):
    """See `Cleaner`."""

    def __init__(self, drops: Drops, store: Store, lock: CleanupLock, clock: Clock = SYSTEM_CLOCK) -> None:
        """`store` has the bytes of the drops."""
        super().__init__("drops", lock, clock)
        self._drops = drops
        self._store = store

    def retry(self) -> None:
        self._drops.retry(self._remove)

    def _take_step(self) -> int:
        """Do some work of each kind, so that none waits for thousands of another. Returns how many drops it was."""
        remove_all = self._store.remove_all
        found = self._try(lambda: self._drops.reap(self._remove))
        found += self._try(lambda: self._drops.remove_latest(remove_all))
        expired = self._try(self._drops.expire)
        if not expired:
            # After all have expired: the more drops are removed at once, the fewer directories are synced.
            found += self._try(lambda: self._drops.remove(remove_all))
        return found + expired + self._try(self._drops.delete_old)

    def _remove(self, id_: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.remove(id_)
