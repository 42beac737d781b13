"""The queue of completed futures, and the descriptor that wakes the loop."""

from __future__ import annotations

import os
import unittest
from typing import Any
from unittest import mock

from filestoraged.future import Future
from filestoraged.web.completion_queue import CompletionQueue


class CompletionQueueTest(unittest.TestCase):
    def setUp(self) -> None:
        self.queue: CompletionQueue[str] = CompletionQueue()

    def test_completed_futures_wake_the_loop_once(self) -> None:
        self.addCleanup(self.queue.close)
        futures: list[Future[Any]] = [Future(), Future()]
        for number, future in enumerate(futures):
            self.queue.expect(str(number), future)

        for future in futures:
            future.set_result(None)

        self.assertEqual(b"!", os.read(self.queue.descriptor, 64))
        self.assertEqual(["0", "1"], self.queue.pop_completed())

    def test_queue_is_not_closed_while_it_is_written_to(self) -> None:
        # Otherwise the byte may go to a file that has got the same descriptor.
        self.addCleanup(self.queue.close)

        def write(_: int, data: bytes) -> int:
            self.assertTrue(self.queue._lock.locked())
            return len(data)

        with mock.patch("os.write", side_effect=write) as written:
            self.queue.wake()

        written.assert_called_once()

    def test_future_that_is_done_after_the_close_writes_nothing(self) -> None:
        future: Future[None] = Future()
        self.queue.expect("late", future)
        self.queue.close()

        with mock.patch("os.write") as write:
            future.set_result(None)

        write.assert_not_called()
