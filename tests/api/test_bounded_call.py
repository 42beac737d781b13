"""Function calls with a time limit."""

from __future__ import annotations

import threading

from filestoraged.api.bounded_call import BoundedCall
from tests.clock import VirtualClock
from tests.support import PATIENCE, TempCase, in_threads


class BoundedCallTest(TempCase):
    def test_result_and_error_of_the_function_are_passed_on(self) -> None:
        self.assertEqual(7, BoundedCall(lambda: 7, timeout=PATIENCE).result())
        with self.assertRaises(ZeroDivisionError):
            BoundedCall(lambda: 1 // 0, timeout=PATIENCE).result()

    def test_late_call_is_given_up_and_not_begun_again_before_it_ends(self) -> None:
        calls: list[None] = []
        clock, begun, may_end = VirtualClock(), threading.Event(), threading.Event()
        self.addCleanup(may_end.set)

        def function() -> int:
            calls.append(None)
            begun.set()
            may_end.wait(PATIENCE)
            return len(calls)

        def ask(_: object) -> None:
            self.assertRaises(TimeoutError, call.result)

        def give_up(number: int) -> None:
            if number == 3:
                clock.wait_for_waiting(3)
                clock.advance(5.1)
            else:
                ask(number)

        call = BoundedCall(function, timeout=5.0, clock=clock)
        in_threads(4, give_up)
        # One that asks now is late already, and does not wait.
        ask(None)
        self.assertTrue(begun.wait(PATIENCE))
        self.assertEqual(1, len(calls))

        may_end.set()
        for each in threading.enumerate():
            if each.name == "bounded call":
                each.join(PATIENCE)
        self.assertEqual(2, call.result())

    def test_threads_that_ask_at_once_share_a_call(self) -> None:
        asked = threading.Barrier(4)
        calls: list[None] = []

        def function() -> int:
            # The others ask while it runs.
            asked.wait(PATIENCE)
            calls.append(None)
            return len(calls)

        call = BoundedCall(function, timeout=PATIENCE)

        def ask(_: object) -> int:
            future, _ = call.start()
            asked.wait(PATIENCE)
            return future.result(PATIENCE)  # type: ignore[no-any-return]

        self.assertEqual([1, 1, 1], in_threads(3, ask))
