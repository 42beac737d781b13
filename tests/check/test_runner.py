"""Threads that check side by side, and who hears them; and the pace that they keep."""

from __future__ import annotations

import threading
import unittest
from collections.abc import Iterator
from unittest import mock

from filestoraged.check.findings import FOREIGN, Finding
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import CheckStopped, Throttle
from tests.support import PATIENCE


def find(number: int) -> Iterator[Finding]:
    yield Finding(FOREIGN, str(number), "found")


class RunnerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.throttle = Throttle()

    def test_each_task_is_done_once(self) -> None:
        found = list(Runner(iter(range(1, 2001)), [find] * 4, self.throttle).findings(PATIENCE))

        self.assertEqual(list(range(1, 2001)), sorted(int(each.path) for each in found if each))

    def test_a_runner_that_was_heard_out_leaves_the_pace_to_the_next(self) -> None:
        # Its threads have said their last word, and are not gone yet.
        with mock.patch.object(threading.Thread, "is_alive", return_value=True):
            list(Runner(iter((1, 2)), [find] * 2, self.throttle).findings(PATIENCE))

        self.assertFalse(self.throttle.stopped)

    def test_what_one_comes_upon_ends_all(self) -> None:
        def fail(number: int) -> Iterator[Finding]:
            raise OSError("no disk")

        runner = Runner(iter(int, 1), [find, fail], self.throttle)

        self.assertRaises(OSError, list, runner.findings(PATIENCE))
        self.assertTrue(self.throttle.stopped)

    def test_who_hears_nothing_for_a_while_is_told(self) -> None:
        goes_on = threading.Event()

        def wait(number: int) -> Iterator[Finding]:
            goes_on.wait(PATIENCE)
            return iter(())

        findings = Runner(iter((1,)), [wait], self.throttle).findings(0.01)
        self.assertIsNone(next(findings))
        goes_on.set()

        self.assertEqual({None}, {None, *findings})

    def test_who_does_not_listen_any_more_stops_them(self) -> None:
        endless: Iterator[int] = iter(int, 1)
        findings = Runner(endless, [find] * 2, self.throttle).findings(PATIENCE)
        next(findings)

        findings.close()  # type: ignore[attr-defined]

        self.assertTrue(self.throttle.stopped)
        self.assertNotIn("check", [thread.name for thread in threading.enumerate()])


class ThrottleTest(unittest.TestCase):
    def test_pieces_are_small_where_the_limit_is(self) -> None:
        self.assertEqual(262144, Throttle().read_size(262144))
        self.assertEqual(131072, Throttle(1024 * 1024).read_size(262144))
        self.assertEqual(4096, Throttle(10).read_size(262144))

    def test_what_was_read_is_waited_for_by_all_together(self) -> None:
        throttle, waits = Throttle(1000), []

        def wait(seconds: float) -> None:
            waits.append(round(seconds, 1))

        with mock.patch.object(throttle._stopped, "wait", wait), mock.patch("time.monotonic", return_value=5.0):
            for size in (500, 1000, 500):
                throttle.pay(size)

        self.assertEqual([0.4, 1.4, 1.9], waits)

    def test_who_has_lagged_behind_need_not_wait(self) -> None:
        throttle = Throttle(1000)

        with mock.patch.object(throttle._stopped, "wait", side_effect=AssertionError):
            throttle.pay(100)

    def test_a_stop_is_heard_while_waiting(self) -> None:
        throttle = Throttle(1)
        heard: list[bool] = []

        def wait() -> None:
            try:
                throttle.pay(1000)
            except CheckStopped:
                heard.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        throttle.stop()
        thread.join(PATIENCE)

        self.assertEqual([True], heard)
