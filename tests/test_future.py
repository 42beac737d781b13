from __future__ import annotations

import threading
import unittest

from filestoraged.future import Future, set_results
from tests.daemon.process import PATIENCE


class FutureTest(unittest.TestCase):
    def test_result_of_a_done_future_is_returned(self) -> None:
        future: Future[int] = Future()

        future.set_result(7)

        self.assertEqual((7, None, True), (future.result(), future.exception(), future.done()))

    def test_error_is_raised_and_returned(self) -> None:
        future: Future[int] = Future()
        error = OSError("broken")

        future.set_exception(error)

        self.assertIs(error, future.exception())
        with self.assertRaises(OSError):
            future.result()

    def test_result_that_is_set_by_another_thread_is_waited_for(self) -> None:
        future: Future[int] = Future()
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(future.result(PATIENCE)))
        waiting.start()

        future.set_result(7)
        waiting.join()

        self.assertEqual([7], found)

    def test_result_that_does_not_come_raises_a_timeout_and_can_be_set_later(self) -> None:
        future: Future[int] = Future()
        with self.assertRaises(TimeoutError):
            future.result(0.001)

        future.set_result(7)

        self.assertEqual(7, future.result(0.001))

    def test_callback_of_a_done_future_is_called_at_once(self) -> None:
        future: Future[int] = Future()
        future.set_result(7)
        calls: list[object] = []

        future.add_done_callback(calls.append, lambda: calls.append("wake"))

        self.assertEqual([future, "wake"], calls)

    def test_futures_that_are_done_together_wake_each_thread_once_behind_all_callbacks(self) -> None:
        futures: list[Future[int]] = [Future() for _ in range(3)]
        calls: list[object] = []

        def wake() -> None:
            calls.append("wake")

        def wake_other() -> None:
            calls.append("wake other")

        for future, each in zip(futures, (wake, wake_other, wake)):
            future.add_done_callback(calls.append, each)

        set_results((future, number) for number, future in enumerate(futures))

        self.assertEqual([*futures, "wake", "wake other"], calls)
        self.assertEqual([0, 1, 2], [future.result() for future in futures])

    def test_callback_is_called_once_when_it_is_added_while_another_thread_sets_the_result(self) -> None:
        for _ in range(300):
            future: Future[int] = Future()
            calls: list[object] = []
            both = threading.Barrier(2)

            def set_result(future: Future[int] = future, both: threading.Barrier = both) -> None:
                both.wait(PATIENCE)
                future.set_result(7)

            thread = threading.Thread(target=set_result)
            thread.start()
            both.wait(PATIENCE)
            future.add_done_callback(calls.append)
            thread.join()

            self.assertEqual([future], calls)
