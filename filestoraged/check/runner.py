"""Runs the tasks of a check on several threads, and passes their findings to one.

Findings wait in a bounded queue, and so do the threads while it is full: memory is bounded, whatever they find.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from filestoraged.check.findings import CheckTotals, Finding
from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.errors import Error
from filestoraged.store.contract import Usage

_Task = TypeVar("_Task")

_MAX_QUEUED_FINDINGS = 256

# Seconds: how often a thread with a finding for a full queue checks whether to stop, and how long it is joined.
_STOP_POLL = 0.1
_JOIN_TIMEOUT = 2.0


# Seconds before what is to be read is counted for the progress display: a short run ends without.
_COUNT_DELAY = 1.0


def start_counting(usages: Callable[[], Iterable[Usage | None]], totals: CheckTotals, throttle: Throttle) -> None:
    """Count what is to be read, beside the threads that read it."""

    def count() -> None:
        total = Usage()
        with suppress(CheckStopped, Error, OSError):
            throttle.sleep(_COUNT_DELAY)
            for usage in usages():
                throttle.raise_if_stopped()
                total = total.plus(usage or Usage())
            if total.objects:
                totals.all_objects, totals.all_size = total

    threading.Thread(target=count, name="count", daemon=True).start()


class Runner(Generic[_Task]):
    """One thread for each of the `functions`, which take their tasks from one iterator. The lock guards that."""

    def __init__(
        self, tasks: Iterator[_Task], functions: Sequence[Callable[[_Task], Iterable[Finding]]], throttle: Throttle
    ) -> None:
        self._tasks = tasks
        self._throttle = throttle
        self._tasks_lock = threading.Lock()
        # The last entry of each thread is the exception that ended it, or None.
        self._queue: queue.Queue[Finding | BaseException | None] = queue.Queue(_MAX_QUEUED_FINDINGS)
        # Daemon threads: one may wait for a disk that does not answer, and must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name="check", daemon=True) for each in functions
        ]

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """Run all tasks and yield their findings; and None after each `pause` seconds without a finding.

        Raises the first exception of a thread, and CheckStopped.
        """
        for thread in self._threads:
            thread.start()
        try:
            yield from self._receive(pause)
        except BaseException:
            # No caller receives further findings. Also for GeneratorExit.
            self._throttle.stop()
            raise
        finally:
            self._join()

    def _receive(self, pause: float) -> Iterator[Finding | None]:
        running = len(self._threads)
        while running:
            try:
                received = self._queue.get(timeout=pause)
            except queue.Empty:
                self._throttle.raise_if_stopped()
                yield None
                continue
            if isinstance(received, BaseException):
                raise received
            if received is None:
                running -= 1
            else:
                yield received

    def _join(self) -> None:
        clock = self._throttle.clock
        deadline = clock.now() + _JOIN_TIMEOUT
        for thread in self._threads:
            thread.join(max(0.0, deadline - clock.now()))

    def _run(self, function: Callable[[_Task], Iterable[Finding]]) -> None:
        reason: BaseException | None = None
        try:
            for task in iter(self._next_task, None):
                for finding in function(task):
                    self._put(finding)
                self._throttle.raise_if_stopped()
        except BaseException as error:
            # Raised to the caller of `findings`.
            reason = error
        self._put(reason)

    def _next_task(self) -> _Task | None:
        with self._tasks_lock:
            return next(self._tasks, None)

    def _put(self, entry: Finding | BaseException | None) -> None:
        while True:
            try:
                return self._queue.put(entry, timeout=_STOP_POLL)
            except queue.Full:
                if self._throttle.stopped:
                    return None
