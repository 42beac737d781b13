"""Deferred writes: changes that no request waits for. One that fails is retried until it succeeds."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from filestoraged.errors import StoreUnavailable
from filestoraged.future import Future
from filestoraged.store.transactions import Transaction

log = logging.getLogger(__name__)

# A change within a transaction. It may be repeated if its outcome is unknown, so it must be idempotent.
Change = Callable[[Transaction], None]

# The number of failed changes at which `raise_if_behind` raises.
_MAX_FAILED = 1000


class _Deferred(NamedTuple):
    change: Change
    subject: str


class DeferredWrites:
    """Passes changes to `write`, and keeps those that failed for `retry`. The lock guards the two collections."""

    def __init__(self, write: Callable[[Change], Future[None]]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._in_flight: set[Future[None]] = set()
        self._failed: list[_Deferred] = []
        # Whether a warning that changes fail was logged.
        self._failing = False

    def submit(self, change: Change, subject: str = "") -> Future[None]:
        """Write a change now if possible, else later. The future has the outcome of the first attempt.

        While the change is not written, `unwritten` contains its `subject`, if it has one.
        """
        return self._submit(_Deferred(change, subject))

    @property
    def unwritten(self) -> list[str]:
        """The subjects of failed changes."""
        with self._lock:
            return [entry.subject for entry in self._failed if entry.subject]

    def retry(self) -> None:
        """Write the failed changes again. Call it regularly."""
        with self._lock:
            failed, self._failed = self._failed, []
        for entry in failed:
            self._submit(entry)

    def raise_if_behind(self) -> None:
        """Raise StoreUnavailable while many changes have failed."""
        if len(self._failed) >= _MAX_FAILED:
            raise StoreUnavailable("The state of drops cannot be recorded at present; retry later.")

    def flush(self) -> None:
        """Wait until all changes are written. Failed ones are tried once more; those that fail again are lost."""
        self._wait()
        self.retry()
        self._wait()
        with self._lock:
            lost = len(self._failed)
        if lost:
            log.error("leaving %d changes of drops unwritten", lost)

    def _submit(self, entry: _Deferred) -> Future[None]:
        result: Future[None]
        try:
            result = self._write(entry.change)
        except Exception as error:
            # No thread could be started.
            result = Future()
            result.set_exception(error)
        with self._lock:
            self._in_flight.add(result)
        result.add_done_callback(functools.partial(self._on_done, entry))
        return result

    def _wait(self) -> None:
        # Not for the futures themselves: they are done before `_on_done` has recorded their outcome.
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight)

    def _on_done(self, entry: _Deferred, result: Future[None]) -> None:
        error = result.exception()
        with self._lock:
            self._in_flight.discard(result)
            self._changed.notify_all()
            if error is not None:
                self._failed.append(entry)
            fails = bool(self._failed)
            # Changes in flight may be retries of failed ones.
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
