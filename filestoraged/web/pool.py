"""A bounded pool of threads with a first-in, first-out queue of jobs."""

from __future__ import annotations

import logging
import math
import queue
import threading
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)


class Job(Protocol):
    def run_on_thread(self) -> None: ...


_Job = TypeVar("_Job", bound=Job)


class Pool(Generic[_Job]):
    """At most `size` threads, started when needed. A thread ends after `idle` seconds without a job.

    If the system refuses another thread, jobs wait for the existing ones. If there is none, `retry` tries again, and
    returns the jobs after `patience` seconds. The lock guards the counters.
    """

    def __init__(self, size: int, *, idle: float, patience: float) -> None:
        self._size = size
        self._idle = idle
        self._patience = patience
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        # When `retry` first found jobs and no thread, on its clock; infinite otherwise.
        self._stuck_since = math.inf

    @property
    def is_saturated(self) -> bool:
        """Whether a job waits for a thread."""
        return self._unfinished > self._threads

    @property
    def busy(self) -> bool:
        return self._unfinished > 0

    def submit(self, job: _Job) -> None:
        with self._lock:
            self._unfinished += 1
            wanted = self._unfinished > self._threads < self._size
            self._threads += wanted
        self._jobs.put(job)
        if wanted:
            self._start_thread()

    def retry(self, now: float) -> list[_Job]:
        """Start a thread if jobs wait and none runs. After `patience` seconds of failure, remove and return all jobs.

        One thread calls it, at intervals. `now` is on the monotonic clock.
        """
        with self._lock:
            stuck = self._unfinished > 0 == self._threads
            self._threads += stuck
        if not stuck or self._start_thread():
            self._stuck_since = math.inf
            return []
        self._stuck_since = min(self._stuck_since, now)
        return self._take_all() if now - self._stuck_since >= self._patience else []

    def _start_thread(self) -> bool:
        try:
            threading.Thread(target=self._run, name="request", daemon=True).start()
            return True
        except RuntimeError as error:
            log.warning("cannot start a thread: %s", error)
            with self._lock:
                self._threads -= 1
            return False

    def _take_all(self) -> list[_Job]:
        jobs: list[_Job] = []
        try:
            while True:
                jobs.append(self._jobs.get_nowait())
        except queue.Empty:
            with self._lock:
                self._unfinished -= len(jobs)
            return jobs

    def _run(self) -> None:
        while self._work():
            pass

    def _work(self) -> bool:
        """Run the next job. Returns False if the thread ends."""
        try:
            job = self._jobs.get(timeout=self._idle)
        except queue.Empty:
            with self._lock:
                # A job that was submitted at this moment relies on this thread.
                leaves = self._unfinished < self._threads
                self._threads -= leaves
            return not leaves
        try:
            job.run_on_thread()
        except Exception:
            log.exception("a connection failed")
        with self._lock:
            self._unfinished -= 1
        return True
