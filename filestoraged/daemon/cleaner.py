"""Background cleanup: a thread in each worker, of which one at a time works, in small steps."""

from __future__ import annotations

import logging
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from filestoraged.clock import Clock
from filestoraged.daemon.cleanup_lock import CleanupLock
from filestoraged.errors import Error, StoreDetached

log = logging.getLogger(__name__)

# Seconds between two rounds: the bytes of a drop that was downloaded are removed well within 10 s.
_INTERVAL = 3.0

# Where there is more than one step can do, as when thousands of drops expire at once, the pause between two steps is so
# many times as long as the last step: the janitor works a sixth of the time, and requests keep more than four fifths of
# their rate.
_PAUSE_FACTOR = 5.0

# Errors of the environment: logged in one line, without a traceback.
_ENVIRONMENT_ERRORS = (Error, OSError, sqlite3.Error)


class Cleaner(ABC):
    """A thread of each worker. A lock lets one of all processes clean up at a time; two at once would do no harm."""

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
            self._clock.wait(self._stopping, min(_PAUSE_FACTOR * (self._clock.now() - started), _INTERVAL))
            self.retry()

    def _try(self, step: Callable[[], int]) -> int:
        try:
            return step()
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

    def _clean_up_alone(self) -> int:
        with self._lock.hold() as is_alone:
            if not is_alone:
                return 0
            self.clean_up()
        self._logged = set(self._failures)
        return 0
