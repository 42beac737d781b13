"""One thread that writes the jobs of all its callers in batches: group commit, whatever the database.

Jobs that arrive while a batch is written form the next one.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, StoreUnavailable

log = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Item_contra = TypeVar("_Item_contra", contravariant=True)

# Jobs in one batch: in a larger one, the first job would wait long for the last.
MAX_BATCH = 500

# Seconds to wait for as many jobs as the last batch had: a transaction of one job costs half as much as one of ten. The
# only caller never waits. Whatever the clock: what it waits for are threads of this process.
_GATHER_TIMEOUT = 0.001

# Seconds without a job after which the writer's thread ends.
_WRITER_IDLE_TIMEOUT = 5.0

# Seconds after which a queued job is refused while the writer is blocked: another process, perhaps a stopped one, holds
# the lock, or the disk does not answer. A writer that is behind with many jobs is not blocked.
_JOB_TIMEOUT = 5.0

# Seconds between two searches for such jobs.
_OVERDUE_INTERVAL = 0.25

# What `maintain` returns while callers wait for its next step: seconds during which other processes write.
URGENT = 0.02


class BatchTarget(Protocol[_Item_contra]):
    """Receives the batches of a BatchWriter, on its thread and within the lock; `refuse` is called without either."""

    def write_batch(self, jobs: Sequence[_Item_contra]) -> None:
        """Write the jobs, and complete each of them, whatever happens."""

    def maintain(self) -> float:
        """Do one step of background work. Returns seconds until the next one, infinite if none is needed."""

    def refuse(self, jobs: Sequence[_Item_contra], error: Exception) -> None:
        """Fail jobs that will not be written. Without jobs: fail those that `maintain` was to complete."""


class BatchWriter(Generic[_Item]):
    """Passes jobs to `target` in batches, on a thread that exists while jobs arrive. The condition guards the rest.

    A second thread refuses overdue jobs while the first one waits for the lock or for the disk.
    """

    def __init__(
        self,
        lock: AbstractContextManager[object],
        target: BatchTarget[_Item],
        *,
        timeout: float = _JOB_TIMEOUT,
        max_batch: int = MAX_BATCH,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Queued jobs are refused after `timeout` seconds while the writer is blocked."""
        self._max_batch = max_batch
        self._lock = lock
        self._target = target
        self._timeout = timeout
        self._clock = clock
        # With the time when each was submitted, on the monotonic clock.
        self._jobs: deque[tuple[float, _Item]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        # The size of the last batch.
        self._last_batch = 1
        # When to call `maintain`, on the monotonic clock, and what it returned last. At first, since a process that
        # died may have left work.
        self._maintain_at = self._pause = 0.0
        # When this round began, and when it began to wait for the lock; infinite when it does not.
        self._round_since = self._lock_since = math.inf

    def submit(self, job: _Item) -> None:
        """Queue a job. Raises StoreUnavailable if no thread can be started."""
        with self._changed:
            self._jobs.append((self._clock.now(), job))
            if self._thread is None:
                self._start()
            elif len(self._jobs) in (1, self._last_batch):
                self._changed.notify()

    def close(self, timeout: float = math.inf) -> bool:
        """Write the queued jobs, and end the thread. Returns False if that takes more than `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is None:
            return True
        thread.join(None if timeout == math.inf else timeout)
        return not thread.is_alive()

    def _start(self) -> None:
        ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ended,), name="writer", daemon=True)
        overdue = threading.Thread(target=self._refuse_overdue, args=(ended,), name="overdue", daemon=True)
        try:
            overdue.start()
            self._thread.start()
        except RuntimeError as error:
            ended.set()
            self._thread = None
            self._jobs.pop()
            raise StoreUnavailable("The server cannot start a thread to write; retry later.") from error

    def _run(self, ended: threading.Event) -> None:
        try:
            while self._wait_for_work():
                self._round_since = self._lock_since = self._clock.now()
                self._try_round()
                self._round_since = self._lock_since = math.inf
        finally:
            ended.set()

    def _try_round(self) -> None:
        try:
            with self._lock:
                self._lock_since = math.inf
                self._write_round()
        except (Error, OSError) as error:
            # The lock cannot be acquired.
            self._refuse_all(error)
        except Exception as error:
            # The thread goes on: without it, all later jobs would wait for ever.
            log.exception("a round of the writer failed")
            self._refuse_all(error)

    def _wait_for_work(self) -> bool:
        """Wait for jobs or the next maintenance. Returns False if the thread is to end."""
        with self._changed:
            pause = min(max(0.0, self._maintain_at - self._clock.now()), _WRITER_IDLE_TIMEOUT)
            self._clock.wait_for(self._changed, lambda: self._jobs or self._closed, pause)
            if not self._jobs and (self._pause == math.inf or (self._closed and self._pause > URGENT)):
                self._thread = None
                return False
            # The callers of the last batch have their results, and may submit more jobs.
            if self._jobs:
                self._changed.wait_for(lambda: len(self._jobs) >= self._last_batch or self._closed, _GATHER_TIMEOUT)
            return True

    def _write_round(self) -> None:
        jobs = self._next_batch()
        if jobs:
            self._target.write_batch(jobs)
        if (jobs and self._pause == math.inf) or self._clock.now() >= self._maintain_at or self._closed:
            self._schedule(self._target.maintain())

    def _schedule(self, pause: float) -> None:
        self._pause = pause
        self._maintain_at = self._clock.now() + pause

    def _next_batch(self) -> list[_Item]:
        with self._changed:
            jobs = [self._jobs.popleft()[1] for _ in range(min(self._max_batch, len(self._jobs)))]
            self._last_batch = len(jobs) or self._last_batch
        return jobs

    def _refuse_all(self, error: Exception) -> None:
        self._target.refuse(self._next_batch(), error)
        self._target.refuse([], error)
        self._schedule(math.inf)

    # The rest runs on the second thread.

    def _refuse_overdue(self, ended: threading.Event) -> None:
        while not self._clock.wait(ended, min(_OVERDUE_INTERVAL, self._timeout / 2)):
            now = self._clock.now()
            if now - self._round_since >= self._timeout:
                self._refuse_since(now - self._timeout)

    def _refuse_since(self, since: float) -> None:
        overdue: list[_Item] = []
        with self._changed:
            while self._jobs and self._jobs[0][0] <= since:
                overdue.append(self._jobs.popleft()[1])
        error = StoreUnavailable("The database is locked by another process, or does not answer; retry later.")
        error.__cause__ = TimeoutError(f"the writer was blocked for {self._timeout:g} s")
        if overdue:
            self._target.refuse(overdue, error)
        if self._lock_since <= since:
            self._target.refuse([], error)
