"""Threads that sync files at the same time: the file system serves them by fewer writes of its journal."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from filestoraged.store.system import LINUX, Queue, System, Thread

# With that of the caller.
_MAX_THREADS = 16

_Item = TypeVar("_Item")


class SyncThreads(Generic[_Item]):
    """Calls a function for several items at once. One thread calls it. Its threads start when they are needed."""

    def __init__(self, function: Callable[[_Item], None], *, system: System = LINUX) -> None:
        self._function = function
        self._system = system
        # Items with the places of their outcomes; None ends a thread.
        self._waiting: Queue = system.queue()
        # Places of items, with an exception or None.
        self._outcomes: Queue = system.queue()
        self._threads: list[Thread] = []

    def call(self, items: Sequence[_Item]) -> list[Exception | None]:
        """Call the function for each item. Returns the exception of each call, None if there was none."""
        if len(items) == 1:
            return [self._outcome(items[0])]
        while len(self._threads) < min(_MAX_THREADS, len(items)) - 1:
            thread = self._system.start_thread(self._run, name="sync")
            if thread is None:
                break
            self._threads.append(thread)
        for each in enumerate(items):
            self._waiting.put(each)
        # The caller works too: there may be no other thread.
        self._work_off()
        outcomes = dict[int, Exception | None](self._outcomes.get() for _ in items)
        return [outcomes[number] for number in range(len(items))]

    def close(self) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work_off(self) -> None:
        try:
            while True:
                self._work(self._waiting.get(block=False))
        except queue.Empty:
            pass

    def _run(self) -> None:
        while self._work(self._waiting.get()):
            pass

    def _work(self, job: tuple[int, _Item] | None) -> bool:
        """Returns False if the thread is to end."""
        if job is None:
            return False
        number, item = job
        self._outcomes.put((number, self._outcome(item)))
        return True

    def _outcome(self, item: _Item) -> Exception | None:
        try:
            self._function(item)
        except Exception as error:
            return error
        return None
