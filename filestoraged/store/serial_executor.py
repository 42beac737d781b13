"""A serial executor: one thread calls queued jobs, one after the other.

The invariant: a job that raises ends neither the thread nor the queue, so a caller never waits for a thread that is not
running.
"""

from __future__ import annotations

import contextlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from filestoraged.clock import SYSTEM_CLOCK, Clock

Call = Callable[[], None]


class CallQueue(Protocol):
    """The calls that wait, in any order. A deque is one."""

    def __len__(self) -> int: ...

    def popleft(self) -> Call: ...


class SerialExecutor(ABC):
    """Takes calls from `queue`, on a thread that is started when it is needed and ends when it is idle.

    `changed` guards the queue and all attributes. A subclass holds it while it uses the queue.
    """

    def __init__(self, queue: CallQueue, *, idle_timeout: float, clock: Clock = SYSTEM_CLOCK) -> None:
        """The thread ends after `idle_timeout` seconds without a call."""
        self.changed = threading.Condition()
        # Whether the thread is in a call, which it has removed from the queue.
        self.is_busy = False
        self._queue = queue
        self._idle_timeout = idle_timeout
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._closed = False

    def ensure_thread(self) -> bool:
        """Start the thread if none runs. Returns False if none can be started. Call it with `changed` held."""
        if self._thread is None:
            self._thread = self._start(self._run)
        return self._thread is not None

    def close(self) -> None:
        """Finish the queued calls, and end the thread."""
        with self.changed:
            self._closed = True
            self.changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    @abstractmethod
    def _start(self, run: Call) -> threading.Thread | None:
        """Start a thread that calls `run`. Returns None if none can be started."""

    @abstractmethod
    def _on_error(self, error: BaseException) -> None:
        """Called on the thread, without the lock, with the exception of a call."""

    def _run(self) -> None:
        while self._call_next():
            pass

    def _call_next(self) -> bool:
        """Returns False if the thread ends."""
        # A function of its own, so that a thread that waits does not keep its last call in memory.
        call = self._next()
        if call is None:
            return False
        try:
            call()
        except BaseException as error:
            self._on_error(error)
        return True

    def _next(self) -> Call | None:
        """Wait for the next call. Returns None if none comes, and the thread ends."""
        with self.changed:
            self.is_busy = False
            self._clock.wait_for(self.changed, lambda: len(self._queue) or self._closed, self._idle_timeout)
            if not len(self._queue):
                self._thread = None
                return None
            self.is_busy = True
            self.changed.notify_all()
            return self._queue.popleft()


def start_thread(run: Call, *, name: str) -> threading.Thread | None:
    """Start a daemon thread. Returns None if the system refuses another thread (RLIMIT_NPROC, pids.max)."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return None
    return thread


def lower_priority(nice: int) -> None:
    """Set the nice value of the calling thread, from 0 to 19 for the lowest priority. Linux has one for each thread.

    A service manager may forbid it; the thread then keeps its priority.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
