"""Changes that follow an answer: no request waits for them, so one that fails is written again until it succeeds."""

from __future__ import annotations

import functools
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from filestoraged.errors import StoreUnavailable

log = logging.getLogger(__name__)

# A change to be made within a transaction. It is made again where it is not known whether it was: that must do no harm.
Note = Callable[[sqlite3.Connection], None]

# With so many unwritten, `require_few` refuses what would lead to more of them.
_MOST = 1000


class _Entry(NamedTuple):
    note: Note
    subject: str


class DeferredWrites:
    """Hands notes to `write`, and keeps those that failed for `retry`. The lock guards the two collections."""

    def __init__(self, write: Callable[[Note], Future[None]]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._in_flight: set[Future[None]] = set()
        self._failed: list[_Entry] = []
        # Whether the log says that notes fail.
        self._failing = False

    def submit(self, note: Note, subject: str = "") -> Future[None]:
        """Write a note now if possible, else later. The result says only how the first attempt ended.

        While it is not written, `unwritten` has its `subject`, if it has one.
        """
        return self._submit(_Entry(note, subject))

    @property
    def unwritten(self) -> list[str]:
        """The subjects of those that failed."""
        with self._lock:
            return [entry.subject for entry in self._failed if entry.subject]

    def retry(self) -> None:
        """Write again what has failed. Call it every now and then."""
        with self._lock:
            failed, self._failed = self._failed, []
        for entry in failed:
            self._submit(entry)

    def require_few(self) -> None:
        """Raises StoreUnavailable while many could not be written."""
        if len(self._failed) >= _MOST:
            raise StoreUnavailable("The state of drops cannot be recorded for now.")

    def flush(self) -> None:
        """Wait until all are written. What fails is tried once more; what fails then is lost."""
        self._wait()
        self.retry()
        self._wait()
        with self._lock:
            lost = len(self._failed)
        if lost:
            log.error("leaving %d changes of drops unwritten", lost)

    def _submit(self, entry: _Entry) -> Future[None]:
        result: Future[None]
        try:
            result = self._write(entry.note)
        except Exception as error:
            # No thread could be started to write it.
            result = Future()
            result.set_exception(error)
        with self._lock:
            self._in_flight.add(result)
        result.add_done_callback(functools.partial(self._on_done, entry))
        return result

    def _wait(self) -> None:
        # Not by the futures themselves: they are done before `_on_done` knows how they ended.
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight)

    def _on_done(self, entry: _Entry, result: Future[None]) -> None:
        error = result.exception()
        with self._lock:
            self._in_flight.discard(result)
            self._changed.notify_all()
            if error is not None:
                self._failed.append(entry)
            fails = bool(self._failed)
            # Those in flight may be the ones that have failed before.
            changed = fails != self._failing and (fails or not self._in_flight)
            if changed:
                self._failing = fails
        if changed and fails:
            log.warning(
                "cannot record the state of drops, retrying until it succeeds: %s",
                getattr(error, "__cause__", None) or error,
            )
        elif changed:
            log.info("recorded the state of all drops")
