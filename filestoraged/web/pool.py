"""A bounded pool of threads. What waits for one is served in its order."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Callable

log = logging.getLogger(__name__)

Job = Callable[[], None]


class Pool:
    """At most `size` threads, started as they are needed, ended when nothing has come for `idle` seconds.

    The lock guards the two counters.
    """

    def __init__(self, size: int, idle: float) -> None:
        self._size = size
        self._idle = idle
        self._jobs: "queue.SimpleQueue[Job]" = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    @property
    def crowded(self) -> bool:
        """Whether a job waits for a thread."""
        return self._unfinished > self._threads

    @property
    def busy(self) -> bool:
        return self._unfinished > 0

    def submit(self, job: Job) -> None:
        with self._lock:
            self._unfinished += 1
            wanted = self._unfinished > self._threads < self._size
            self._threads += wanted
        self._jobs.put(job)
        if wanted:
            self._start_thread()

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._run, name="request", daemon=True).start()
        except RuntimeError as error:
            # The job waits for one of the others, or for the next try.
            log.warning("cannot start a thread: %s", error)
            with self._lock:
                self._threads -= 1

    def _run(self) -> None:
        while self._work():
            pass

    def _work(self) -> bool:
        """Do the next job. Returns whether the thread is to wait for another one."""
        try:
            job = self._jobs.get(timeout=self._idle)
        except queue.Empty:
            with self._lock:
                # A job that was submitted in this moment has counted on this thread.
                leaves = self._unfinished < self._threads
                self._threads -= leaves
            return not leaves
        try:
            job()
        except Exception:
            log.exception("a connection failed")
        with self._lock:
            self._unfinished -= 1
        return True
