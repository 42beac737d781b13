"""Background cleanup: a thread in each worker, of which one at a time works, in small steps."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, NotFound, StoreDetached
from filestoraged.store.cleanup_lock import CleanupLock
from filestoraged.store.contract import Store
from filestoraged.store.drops import Drops
from filestoraged.store.uploads.uploads import Uploads

log = logging.getLogger(__name__)

# Seconds between two rounds: the bytes of a drop that was downloaded are removed well within 10 s.
_INTERVAL = 3.0

# Where there is more than one step can do, as when thousands of drops expire at once, the pause between two steps is so
# many times as long as the last step: the janitor works a sixth of the time, and requests keep more than four fifths of
# their rate.
_PAUSE_FACTOR = 5.0

# Errors of the environment: logged in one line, without a traceback.
_ENVIRONMENT_ERRORS = (Error, OSError, sqlite3.Error)


class Janitor(ABC):
    """A thread of each worker. A lock lets one of all processes clean up at a time; two at once would do no harm."""

    # Less where a step is waited for.
    pause_factor = _PAUSE_FACTOR

    def __init__(self, subject: str, lock: CleanupLock, clock: Clock) -> None:
        """`subject` is what it cleans up, for the log."""
        self._subject = subject
        self._lock = lock
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        # Messages of the failures of this round; and those that were logged, until a round is without them.
        self._failures: set[str] = set()
        self._logged: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        self.retry()

    @abstractmethod
    def retry(self) -> None:
        """Write the changes that could not be written before. Each worker does that for its own."""

    @abstractmethod
    def _take_step(self) -> int:
        """Do some of the work. Returns 0 where nothing was left to do."""

    def clean_up(self) -> None:
        """Do everything that is due, in small steps."""
        while not self._stopping.is_set():
            started = self._clock.now()
            self._lock.renew()
            if not self._take_step():
                return
            self._clock.wait(self._stopping, min(self.pause_factor * (self._clock.now() - started), _INTERVAL))
            self.retry()

    def _try(self, step: Callable[[], int | None]) -> int:
        """Returns what the step returns, 0 where it fails or returns nothing."""
        try:
            return step() or 0
        except StoreDetached:
            # Logged by what found it. Nothing is cleaned up elsewhere.
            pass
        except _ENVIRONMENT_ERRORS as error:
            # Without the path of an OSError, which has the id of a drop.
            message = (isinstance(error, OSError) and error.strerror) or str(error.__cause__ or error)
            if message not in self._logged | self._failures:
                log.warning("cannot clean up %s, retrying every %.0f s: %s", self._subject, _INTERVAL, message)
            self._failures.add(message)
        except Exception:
            log.exception("cannot clean up %s, retrying every %.0f s", self._subject, _INTERVAL)
        return 0

    def _run(self) -> None:
        while True:
            self._run_once()
            if self._clock.wait(self._stopping, _INTERVAL):
                return

    def _run_once(self) -> None:
        self.retry()
        self._failures = set()
        self._try(self._clean_up_alone)
        self._logged |= self._failures

    def _clean_up_alone(self) -> None:
        with self._lock.hold() as is_alone:
            if not is_alone:
                return
            self.clean_up()
        self._logged = set(self._failures)


class DropsJanitor(Janitor):
    """Claims of dead processes, bytes of claimed drops, and drops that have expired."""

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


class UploadsJanitor(Janitor):
    """Resumable uploads that were not continued."""

    def __init__(self, uploads: Uploads, lock: CleanupLock, clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__("uploads", lock, clock)
        self._uploads = uploads

    def retry(self) -> None:
        """Nothing is written later: what fails is found again by its row."""

    def _take_step(self) -> int:
        return self._try(self._uploads.expire)
