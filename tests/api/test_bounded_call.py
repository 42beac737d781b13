"""Function calls with a time limit."""

from __future__ import annotations

import threading
from unittest import mock

from filestoraged.api.bounded_call import BoundedCall
from filestoraged.future import Future
from tests.support import PATIENCE, TempCase, in_threads


class BoundedCallTest(TempCase):
    def test_result_and_error_of_the_function_are_passed_on(self) -> None:
        self.assertEqual(7, BoundedCall(lambda: 7, timeout=PATIENCE).result())
        with self.assertRaises(ZeroDivisionError):
            BoundedCall(lambda: 1 // 0, timeout=PATIENCE).result()

    def test_late_call_is_given_up_and_not_begun_again_before_it_ends(self) -> None:
        calls: list[None] = []
        begun, may_end = threading.Event(), threading.Event()
        self.addCleanup(may_end.set)

        def function() -> int:
            calls.append(None)
            begun.set()
            may_end.wait(PATIENCE)
            return len(calls)

        call = BoundedCall(function, timeout=0.05)
        for _ in range(3):
            with self.assertRaises(TimeoutError):
                call.result()
        self.assertTrue(begun.wait(PATIENCE))
        self.assertEqual(1, len(calls))

        call._timeout = PATIENCE
        may_end.set()
        self.wait_until(
            "it has ended", lambda: not [each for each in threading.enumerate() if each.name == "bounded call"]
        )
        self.assertEqual(2, call.result())

    def test_call_that_is_late_already_is_not_waited_for(self) -> None:
        may_end = threading.Event()
        self.addCleanup(may_end.set)
        call = BoundedCall(lambda: may_end.wait(PATIENCE), timeout=PATIENCE)
        future, late_at = call.start()

        with (
            mock.patch("filestoraged.api.bounded_call.time.monotonic", return_value=late_at + 1),
            mock.patch.object(Future, "result", autospec=True) as result,
        ):
            call.result()

        result.assert_called_once_with(future, 0.0)

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
