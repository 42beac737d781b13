"""A bounded pool of threads with a first-in, first-out queue of jobs."""

from __future__ import annotations

import logging
import math
import queue
import threading
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)


class PoolJob(Protocol):
    def run_on_thread(self) -> None: ...


_Job = TypeVar("_Job", bound=PoolJob)


class Pool(Generic[_Job]):
    """At most `size` threads, started when needed. `check`, which one thread calls at intervals, ends those not needed.

    If the system refuses another thread, jobs wait for the existing ones. If there is none, `check` tries again, and
    returns the jobs after `patience` seconds. The lock guards the counters.
    """

    def __init__(self, size: int, *, idle: float, patience: float) -> None:
        self._size = size
        self._idle = idle
        self._patience = patience
        # The thread that takes a None ends. It is not counted any more.
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0
        # The most unfinished jobs since threads were ended last; when they are ended next, on the clock of `check`.
        self._peak = 0
        self._end_idle_at = -math.inf
        # When `check` first found jobs and no thread, on its clock; infinite otherwise.
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
            self._peak = max(self._peak, self._unfinished)
            wanted = self._unfinished > self._threads < self._size
            self._threads += wanted
        self._jobs.put(job)
        if wanted:
            self._start_thread()

    def check(self, now: float) -> list[_Job]:
        """Start a thread if jobs wait and none runs. After `patience` seconds of failure, remove and return all jobs.

        End the threads that no job has needed for `idle` seconds.
        """
        with self._lock:
            if now >= self._end_idle_at:
                self._end_threads(self._threads - self._peak)
                self._peak, self._end_idle_at = self._unfinished, now + self._idle
            stuck = self._unfinished > 0 == self._threads
            self._threads += stuck
        if not stuck or self._start_thread():
            self._stuck_since = math.inf
            return []
        self._stuck_since = min(self._stuck_since, now)
        return self._take_all() if now - self._stuck_since >= self._patience else []

    def close(self) -> None:
        """End all threads, each behind its job."""
        with self._lock:
            self._end_threads(self._threads)

    def _end_threads(self, count: int) -> None:
        for _ in range(count):
            self._threads -= 1
            self._jobs.put(None)

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
                job = self._jobs.get_nowait()
                if job is not None:
                    jobs.append(job)
        except queue.Empty:
            with self._lock:
                self._unfinished -= len(jobs)
            return jobs

    def _run(self) -> None:
        while self._work():
            pass

    def _work(self) -> bool:
        """Run the next job. Returns False if the thread ends."""
        job = self._jobs.get()
        if job is None:
            return False
        try:
            job.run_on_thread()
        except Exception:
            log.exception("a connection failed")
        with self._lock:
            self._unfinished -= 1
        return True
