"""The runner, its threads and findings; and the throttle that they share."""

from __future__ import annotations

import threading
import unittest
from collections.abc import Iterator
from unittest import mock

from filestoraged.check.findings import FOREIGN, Finding
from filestoraged.check.runner import Runner
from filestoraged.check.throttle import CheckStopped, Throttle
from tests.clock import StoppedClock
from tests.support import PATIENCE


def find(number: int) -> Iterator[Finding]:
    yield Finding(FOREIGN, str(number), "found")


class RunnerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.throttle = Throttle()

    def test_each_task_runs_once(self) -> None:
        found = list(Runner(iter(range(1, 2001)), [find] * 4, self.throttle).findings(PATIENCE))

        self.assertEqual(list(range(1, 2001)), sorted(int(each.path) for each in found if each))

    def test_completed_runner_leaves_the_throttle_running(self) -> None:
        # The threads have put their last entries, and have not ended yet.
        with mock.patch.object(threading.Thread, "is_alive", return_value=True):
            list(Runner(iter((1, 2)), [find] * 2, self.throttle).findings(PATIENCE))

        self.assertFalse(self.throttle.stopped)

    def test_exception_of_one_thread_stops_all(self) -> None:
        def fail(number: int) -> Iterator[Finding]:
            raise OSError("no disk")

        runner = Runner(iter(int, 1), [find, fail], self.throttle)

        self.assertRaises(OSError, list, runner.findings(PATIENCE))
        self.assertTrue(self.throttle.stopped)

    def test_caller_gets_none_after_a_pause_without_findings(self) -> None:
        goes_on = threading.Event()

        def wait(number: int) -> Iterator[Finding]:
            goes_on.wait(PATIENCE)
            return iter(())

        findings = Runner(iter((1,)), [wait], self.throttle).findings(0.01)
        self.assertIsNone(next(findings))
        goes_on.set()

        self.assertEqual({None}, {None, *findings})

    def test_closing_the_findings_stops_all_threads(self) -> None:
        endless: Iterator[int] = iter(int, 1)
        findings = Runner(endless, [find] * 2, self.throttle).findings(PATIENCE)
        next(findings)

        findings.close()  # type: ignore[attr-defined]

        self.assertTrue(self.throttle.stopped)
        self.assertNotIn("check", [thread.name for thread in threading.enumerate()])


class ThrottleTest(unittest.TestCase):
    def test_reads_are_small_with_a_low_limit(self) -> None:
        self.assertEqual(262144, Throttle().read_size(262144))
        self.assertEqual(131072, Throttle(1024 * 1024).read_size(262144))
        self.assertEqual(4096, Throttle(10).read_size(262144))

    def test_all_threads_share_the_limit(self) -> None:
        clock = StoppedClock()
        throttle = Throttle(1000, clock=clock)

        for size in (500, 1000, 500):
            throttle.pay(size)

        self.assertEqual([0.4, 1.4, 1.9], [round(each, 1) for each in clock.waits])

    def test_reader_behind_its_limit_does_not_wait(self) -> None:
        clock = StoppedClock()

        Throttle(1000, clock=clock).pay(100)

        self.assertEqual([], clock.waits)

    def test_stop_ends_a_wait(self) -> None:
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
