"""Background cleanup of drops: claims of dead processes, bytes of claimed drops, and drops that have expired."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable

from filestoraged.errors import Error, NotFound
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drops import Drops

log = logging.getLogger(__name__)

# Seconds between two rounds: the bytes of a drop that was downloaded are removed well within 10 s.
_INTERVAL = 3.0

# Where there is more than one step can do, as when thousands of drops expire at once, the pause between two steps is so
# many times as long as the last step: the janitor works a sixth of the time, and requests keep more than four fifths of
# their rate.
_PAUSE_FACTOR = 5.0

# A janitor that has the lock and has done nothing for so many seconds is stopped, or its disk hangs: another one then
# works without the lock.
_JANITOR_TIMEOUT = 60.0

# Errors of the environment: logged in one line, without a traceback.
_ENVIRONMENT_ERRORS = (Error, OSError, sqlite3.Error)


class Janitor:
    """A thread of each worker. A lock lets one of all processes clean up at a time; two at once would do no harm."""

    def __init__(self, drops: Drops, store: DiskStore, lock: str) -> None:
        """`store` has the bytes of the drops; `lock` is the path of a file, created where it is missing."""
        self._drops = drops
        self._store = store
        self._lock = lock
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

    def retry(self) -> None:
        """Write the changes that could not be written before. Each worker's janitor does that for its own."""
        self._drops.retry(self._remove)

    def clean_up(self) -> None:
        """Do everything that is due, in small steps."""
        while not self._stopping.is_set():
            started = time.monotonic()
            with contextlib.suppress(OSError):
                # The heartbeat that `_is_locked` reads.
                os.utime(self._lock)
            if not self._take_step():
                return
            self._stopping.wait(min(_PAUSE_FACTOR * (time.monotonic() - started), _INTERVAL))
            self.retry()

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

    def _try(self, step: Callable[[], int]) -> int:
        try:
            return step()
        except _ENVIRONMENT_ERRORS as error:
            # Without the path of an OSError, which has the id of a drop.
            message = (isinstance(error, OSError) and error.strerror) or str(error.__cause__ or error)
            if message not in self._logged | self._failures:
                log.warning("cannot clean up drops, retrying every %.0f s: %s", _INTERVAL, message)
            self._failures.add(message)
        except Exception:
            log.exception("cannot clean up drops, retrying every %.0f s", _INTERVAL)
        return 0

    def _run(self) -> None:
        while True:
            self._run_once()
            if self._stopping.wait(_INTERVAL):
                return

    def _run_once(self) -> None:
        self.retry()
        self._failures = set()
        self._try(self._clean_up_alone)
        self._logged |= self._failures

    def _clean_up_alone(self) -> int:
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _is_locked(lock):
                return 0
            self.clean_up()
        finally:
            # Unlocks it, as the end of the process would.
            os.close(lock)
        self._logged = set(self._failures)
        return 0

    def _remove(self, id_: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.remove(id_)


def _is_locked(lock: int) -> bool:
    """Lock the file. Returns whether a process has it locked that is alive."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return abs(time.time() - os.fstat(lock).st_mtime) < _JANITOR_TIMEOUT
    return False
