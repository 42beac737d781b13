"""Many callers, one writer: what is wanted while it writes is gathered, and written next, together."""

from __future__ import annotations

import threading
from typing import Callable, Generic, List, Optional, Sequence, TypeVar

_Job = TypeVar("_Job")

# What is written together: more would keep the first of them waiting for the last.
_MOST = 500

# How long it waits for as many as there were last time, in seconds: a transaction of one costs half as much as one of
# ten. Who is alone never waits.
_GATHER = 0.001

# A thread that gets nothing for so many seconds ends.
_PATIENCE = 5.0


class Writer(Generic[_Job]):
    """Hands jobs to `write`, on a thread that is there while they come. The lock guards the rest.

    `write` sees to it that whoever waits for a job is told, whatever happens.
    """

    def __init__(self, write: Callable[[Sequence[_Job]], None]) -> None:
        self._write = write
        self._jobs: List[_Job] = []
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._thread: Optional[threading.Thread] = None
        self._closed = False
        # How many were written last.
        self._crowd = 1

    def submit(self, job: _Job) -> None:
        with self._lock:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
                self._thread.start()
            elif len(self._jobs) in (1, self._crowd):
                self._changed.notify()

    def close(self) -> None:
        """Write what is left, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed, _PATIENCE)
                if not self._jobs:
                    self._thread = None
                    return
                # Whoever was in the last round has been told, and comes again if he has more.
                self._changed.wait_for(lambda: len(self._jobs) >= self._crowd or self._closed, _GATHER)
                jobs, self._jobs = self._jobs[:_MOST], self._jobs[_MOST:]
                self._crowd = len(jobs)
            self._write(jobs)
