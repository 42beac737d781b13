"""Background cleanup of resumable uploads that were not continued."""

from __future__ import annotations

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.daemon.cleaner import Cleaner
from filestoraged.daemon.cleanup_lock import CleanupLock
from filestoraged.store.uploads.uploads import Uploads


class UploadsJanitor(Cleaner):
    """See `Cleaner`."""

    def __init__(self, uploads: Uploads, lock: CleanupLock, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__("uploads", lock, clock)
        self._uploads = uploads

    def retry(self) -> None:
        """Nothing is written later: what fails is found again by its row."""

    def _take_step(self) -> int:
        return self._try(self._uploads.expire)
