"""Threads that check one thing after the other, and the thread that hears what they find.

What was found waits in a short queue, and so do they when nobody listens: memory is bounded, whatever there is.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from filestoraged.check.findings import Finding
from filestoraged.check.throttle import Throttle

_Task = TypeVar("_Task")

# Findings that nobody has heard of yet.
_WAITING = 256

# Seconds: how often a thread that waits to be heard looks whether it is to stop, and how long it is waited for then.
_LOOK = 0.1
_PATIENCE = 2.0


class Runner(Generic[_Task]):
    """One thread for each of the `inspectors`, who get their tasks from one iterator. The lock guards that."""

    def __init__(
        self, tasks: Iterator[_Task], inspectors: Sequence[Callable[[_Task], Iterable[Finding]]], pace: Throttle
    ) -> None:
        self._tasks = tasks
        self._pace = pace
        self._taking = threading.Lock()
        # A thread that ends says so by what has kept it from going on, or by None.
        self._heard: queue.Queue[Finding | BaseException | None] = queue.Queue(_WAITING)
        # They must not keep the process alive: one may wait for a disk that does not answer.
        self._threads = [
            threading.Thread(target=self._run, args=(each,), name="check", daemon=True) for each in inspectors
        ]

    def findings(self, pause: float) -> Iterator[Finding | None]:
        """What they find, until all is done; and None whenever `pause` seconds have gone by without.

        Raises what one of them has come upon, and Stopped.
        """
        for thread in self._threads:
            thread.start()
        try:
            yield from self._listen(pause)
        except BaseException:
            # Nobody hears the others out; GeneratorExit says so as well.
            self._pace.stop()
            raise
        finally:
            self._join()

    def _listen(self, pause: float) -> Iterator[Finding | None]:
        left = len(self._threads)
        while left:
            try:
                heard = self._heard.get(timeout=pause)
            except queue.Empty:
                self._pace.go_on()
                yield None
                continue
            if isinstance(heard, BaseException):
                raise heard
            if heard is None:
                left -= 1
            else:
                yield heard

    def _join(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, inspect: Callable[[_Task], Iterable[Finding]]) -> None:
        reason: BaseException | None = None
        try:
            for task in iter(self._take, None):
                for finding in inspect(task):
                    self._say(finding)
                self._pace.go_on()
        except BaseException as error:
            # It is raised to the one who listens.
            reason = error
        self._say(reason)

    def _take(self) -> _Task | None:
        with self._taking:
            return next(self._tasks, None)

    def _say(self, what: Finding | BaseException | None) -> None:
        while True:
            try:
                return self._heard.put(what, timeout=_LOOK)
            except queue.Full:
                if self._pace.stopped:
                    return None
