"""A bounded pool of threads. What waits for one is served in its order."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import Callable

log = logging.getLogger(__name__)

Job = Callable[[], None]


class Pool:
    """At most `size` threads, started as they are needed. The lock guards the two counters."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: "SimpleQueue[Job]" = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._threads = 0
        self._unfinished = 0

    @property
    def crowded(self) -> bool:
        """Whether a job waits for a thread."""
        return self._unfinished > self._threads

    def submit(self, job: Job) -> None:
        with self._lock:
            self._unfinished += 1
            wanted = self._unfinished > self._threads < self._size
            self._threads += wanted
        self._jobs.put(job)
        if wanted:
            self._start_thread()

    def join(self, timeout: float) -> bool:
        """Wait until no job is left. Returns whether that came about within `timeout` seconds."""
        with self._lock:
            return self._idle.wait_for(lambda: self._unfinished == 0, timeout)

    def _start_thread(self) -> None:
        try:
            threading.Thread(target=self._run, name="request", daemon=True).start()
        except RuntimeError as error:
            # The job waits for one of the others, or for the next try.
            log.warning("cannot start a thread: %s", error)
            with self._lock:
                self._threads -= 1

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:
                log.exception("a connection failed")
            with self._lock:
                self._unfinished -= 1
                if self._unfinished == 0:
                    self._idle.notify_all()
            # Not kept alive by this frame until the next one comes.
            del job
