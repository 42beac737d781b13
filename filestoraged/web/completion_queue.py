"""Connections whose pages await futures, and those of them whose futures are done."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Collection
from typing import Any, Generic, TypeVar

from filestoraged.future import Future

log = logging.getLogger(__name__)

_Connection = TypeVar("_Connection")


class CompletionQueue(Generic[_Connection]):
    """Any thread hands a connection over by `expect`; the loop gets it back when `descriptor` is readable."""

    def __init__(self) -> None:
        # Connections whose futures are not done, or not taken yet.
        self._expected: dict[Future[Any], _Connection] = {}
        self._completed: deque[Future[Any]] = deque()
        # Set within the lock: the queue may be closed meanwhile, and its descriptor be that of a database by then.
        self._is_signalled = False
        self._lock = threading.Lock()
        self.descriptor, self._write_end = os.pipe()
        os.set_blocking(self.descriptor, False)

    def expect(self, connection: _Connection, future: Future[Any]) -> None:
        """Give the connection to the loop when the future is done. The caller no longer owns it.

        No other connection awaits the same future.
        """
        self._expected[future] = connection
        # Futures that become done together wake the loop once, which then finds all of them.
        future.add_done_callback(self._completed.append, self.wake)

    def pop_completed(self) -> list[_Connection]:
        """The connections whose futures are done. Called by the loop."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 64)
        # Before the first is taken: one that is completed behind the last one signals again.
        self._is_signalled = False
        return [self._expected.pop(self._completed.popleft()) for _ in range(len(self._completed))]

    @property
    def expected(self) -> Collection[_Connection]:
        """The connections whose futures are not done, or not taken yet."""
        return self._expected.values()

    @property
    def has_completed(self) -> bool:
        """Whether futures are done that the loop has not taken yet."""
        return bool(self._completed)

    def wake(self) -> None:
        """Wake the loop. Any thread may call it. If it fails, the loop wakes within `limits.notice`."""
        if self._is_signalled:
            return
        with self._lock:
            if self._is_signalled:
                return
            self._is_signalled = True
            try:
                os.write(self._write_end, b"!")
            except OSError as error:
                self._is_signalled = False
                log.warning("cannot wake the server's loop: %s", error.strerror)

    def close(self) -> None:
        # A future may still be done later, and must not write to a descriptor that is something else by then.
        with self._lock:
            self._is_signalled = True
            os.close(self.descriptor)
            os.close(self._write_end)
