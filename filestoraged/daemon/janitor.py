"""What is tidied up in the background: claims of the dead, bytes of drops that are gone, drops whose time is over."""

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

# Seconds between two rounds: the bytes of what was fetched are gone well within ten.
_PAUSE = 3.0

# Where there is more than one step can do, as when thousands of drops expire at once, it rests for so many times what
# the last one took: a sixth of the time it works, and other requests keep more than four fifths of their rate.
_REST = 5.0

# One that has done nothing for so many seconds is stopped, or its disk hangs: another one goes on without the lock.
_SILENT = 60.0

# What the environment does: one line in the log tells all of it.
_ENVIRONMENT = (Error, OSError, sqlite3.Error)


class Janitor:
    """A thread of each worker. One of all processes tidies up at a time, but two would do no harm."""

    def __init__(self, drops: Drops, store: DiskStore, lock: str) -> None:
        """`store` has the bytes of the drops; `lock` is the path of a file, made where it is missing."""
        self._drops = drops
        self._store = store
        self._lock = lock
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)
        # Messages of this round's failures, and those that the log has until a round is without them.
        self._failures: set[str] = set()
        self._known: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ends.set()
        self._thread.join()
        self.retry()

    def retry(self) -> None:
        """Write what could not be written before. Of each worker's drops, only its own janitor can."""
        self._drops.retry(self._remove)

    def tidy_up(self) -> None:
        """Do all that there is to be done now, in small steps."""
        while not self._ends.is_set():
            started = time.monotonic()
            with contextlib.suppress(OSError):
                # A sign of life; see `_is_busy`.
                os.utime(self._lock)
            if not self._take_step():
                return
            self._ends.wait(min(_REST * (time.monotonic() - started), _PAUSE))
            self.retry()

    def _take_step(self) -> int:
        """Do some of everything: nothing waits for thousands of another kind. Returns how much there was to do."""
        remove_all = self._store.remove_all
        found = self._try(lambda: self._drops.reap(self._remove))
        found += self._try(lambda: self._drops.remove_latest(remove_all))
        expired = self._try(self._drops.expire)
        if not expired:
            # Not before all have expired: the more there are, the more of them lie in one directory.
            found += self._try(lambda: self._drops.remove(remove_all))
        return found + expired + self._try(self._drops.delete_old)

    def _try(self, step: Callable[[], int]) -> int:
        try:
            return step()
        except _ENVIRONMENT as error:
            # Not the path that an OSError names: it has a drop's id.
            message = (isinstance(error, OSError) and error.strerror) or str(error.__cause__ or error)
            if message not in self._known | self._failures:
                log.warning("tidying up drops failed, retrying every %.0f s: %s", _PAUSE, message)
            self._failures.add(message)
        except Exception:
            log.exception("tidying up drops failed, retrying every %.0f s", _PAUSE)
        return 0

    def _run(self) -> None:
        while True:
            self._run_once()
            if self._ends.wait(_PAUSE):
                return

    def _run_once(self) -> None:
        self.retry()
        self._failures = set()
        self._try(self._tidy_up_alone)
        self._known |= self._failures

    def _tidy_up_alone(self) -> int:
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _is_busy(lock):
                return 0
            self.tidy_up()
        finally:
            # Which unlocks it, as the end of the process does.
            os.close(lock)
        self._known = set(self._failures)
        return 0

    def _remove(self, id_: str) -> None:
        with contextlib.suppress(NotFound):
            self._store.remove(id_)


def _is_busy(lock: int) -> bool:
    """Lock it, or return whether the process that has it locked works."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return abs(time.time() - os.fstat(lock).st_mtime) < _SILENT
    return False
