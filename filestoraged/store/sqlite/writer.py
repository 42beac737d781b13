"""Many callers, one writer: jobs that arrive while it writes are gathered, and written next, together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from filestoraged.errors import StoreUnavailable

log = logging.getLogger(__name__)

_Job = TypeVar("_Job")
_Job_contra = TypeVar("_Job_contra", contravariant=True)

# Jobs that are written together: more would keep the first of them waiting for the last.
_MOST = 500

# How long it waits for as many jobs as there were last time, in seconds: a transaction of one costs half as much as one
# of ten. A caller that is alone never waits.
_GATHER = 0.001

# A thread that gets nothing for so many seconds ends.
_IDLE = 5.0

# A job that has not begun after so many seconds is refused, where the writer stands still: another process holds the
# lock, perhaps a stopped one, or the disk does not answer. One that is behind with many jobs does not stand still.
PATIENCE = 5.0

# Seconds between two looks for such jobs.
_LOOK = 0.25

# What `tidy` returns while a caller waits for what it does: seconds in which others write.
URGENT = 0.02


class Work(Protocol[_Job_contra]):
    """What a writer does. All but `refuse` is called on its thread, within the lock."""

    def write_jobs(self, jobs: Sequence[_Job_contra]) -> None:
        """Write the jobs, and tell the caller of each, whatever happens."""

    def tidy(self) -> float:
        """Do one step of what no caller waits for. Returns seconds until the next one, infinite for none."""

    def refuse(self, jobs: Sequence[_Job_contra], error: Exception) -> None:
        """Tell the callers of jobs that will not be written. With no jobs: of those that `tidy` is to finish."""


class Writer(Generic[_Job]):
    """Hands jobs to `work`, on a thread that is there while they come. The condition guards the rest.

    A second thread refuses the jobs that wait for too long while the first one waits for the lock or for the disk.
    """

    def __init__(self, lock: AbstractContextManager[object], work: Work[_Job], *, patience: float = PATIENCE) -> None:
        self._lock = lock
        self._work = work
        self._patience = patience
        # With the time when each was submitted, on the monotonic clock.
        self._jobs: deque[tuple[float, _Job]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        # How many were written last.
        self._crowd = 1
        # When `tidy` is to be called, on the monotonic clock, and the pause before that. A process that died may have
        # left it something to do.
        self._tidy_at = self._pause = 0.0
        # Since when this round lasts, and since when it waits for the lock; infinite where it does not.
        self._round_since = self._lock_since = math.inf

    def submit(self, job: _Job) -> None:
        """Raises StoreUnavailable where no thread can be started."""
        with self._changed:
            self._jobs.append((time.monotonic(), job))
            if self._thread is None:
                self._start()
            elif len(self._jobs) in (1, self._crowd):
                self._changed.notify()

    def close(self, timeout: float = math.inf) -> bool:
        """Write what is left, and end the thread. Returns whether that took at most `timeout` seconds."""
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
        watch = threading.Thread(target=self._watch, args=(ended,), name="overdue", daemon=True)
        try:
            watch.start()
            self._thread.start()
        except RuntimeError as error:
            ended.set()
            self._thread = None
            self._jobs.pop()
            raise StoreUnavailable("The server has no thread left to write with; retry later.") from error

    def _run(self, ended: threading.Event) -> None:
        try:
            while self._await_jobs():
                self._round_since = self._lock_since = time.monotonic()
                self._try_round()
                self._round_since = self._lock_since = math.inf
        finally:
            ended.set()

    def _try_round(self) -> None:
        try:
            with self._lock:
                self._lock_since = math.inf
                self._write_round()
        except OSError as error:
            # The lock cannot be had.
            self._refuse_all(error)
        except Exception as error:
            # The thread goes on: without it, all jobs to come would wait in vain.
            log.exception("a round of the writer failed")
            self._refuse_all(error)

    def _await_jobs(self) -> bool:
        """Wait for something to do. Returns False where the thread is to end."""
        with self._changed:
            pause = min(max(0.0, self._tidy_at - time.monotonic()), _IDLE)
            self._changed.wait_for(lambda: self._jobs or self._closed, pause)
            if not self._jobs and (self._pause == math.inf or (self._closed and self._pause > URGENT)):
                self._thread = None
                return False
            # The callers of the last round have been told, and come again if they have more.
            if self._jobs:
                self._changed.wait_for(lambda: len(self._jobs) >= self._crowd or self._closed, _GATHER)
            return True

    def _write_round(self) -> None:
        jobs = self._take()
        if jobs:
            self._work.write_jobs(jobs)
        if (jobs and self._pause == math.inf) or time.monotonic() >= self._tidy_at or self._closed:
            self._plan(self._work.tidy())

    def _plan(self, pause: float) -> None:
        self._pause = pause
        self._tidy_at = time.monotonic() + pause

    def _take(self) -> list[_Job]:
        with self._changed:
            jobs = [self._jobs.popleft()[1] for _ in range(min(_MOST, len(self._jobs)))]
            self._crowd = len(jobs) or self._crowd
        return jobs

    def _refuse_all(self, error: Exception) -> None:
        self._work.refuse(self._take(), error)
        self._work.refuse([], error)
        self._plan(math.inf)

    # The rest runs on the second thread.

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(min(_LOOK, self._patience / 2)):
            now = time.monotonic()
            if now - self._round_since >= self._patience:
                self._refuse_overdue(now - self._patience)

    def _refuse_overdue(self, since: float) -> None:
        overdue: list[_Job] = []
        with self._changed:
            while self._jobs and self._jobs[0][0] <= since:
                overdue.append(self._jobs.popleft()[1])
        error = StoreUnavailable("The database is locked by another process; retry later.")
        error.__cause__ = TimeoutError(f"nothing could be written for {self._patience:g} s")
        if overdue:
            self._work.refuse(overdue, error)
        if self._lock_since <= since:
            self._work.refuse([], error)
