"""The clock of tests: its time passes by itself for no thread."""

from __future__ import annotations

import threading
import unittest
from collections.abc import Callable
from typing import Any

from filestoraged.clock import SYSTEM_CLOCK, Clock
from tests.clock import VirtualClock


class VirtualClockTest(unittest.TestCase):
    def setUp(self) -> None:
        self.virtual = VirtualClock()
        self.clock: Clock = self.virtual
        self.results: list[Any] = []

    def start(self, work: Callable[[], object]) -> threading.Thread:
        """Run `work` on a thread, and return when that waits."""
        thread = threading.Thread(target=lambda: self.results.append(work()))
        thread.start()
        self.addCleanup(thread.join)
        self.virtual.wait_for_waiting()
        return thread

    def test_time_passes_by_as_much_as_it_is_advanced(self) -> None:
        before = self.clock.now()

        self.virtual.advance(2.5)

        self.assertEqual(2.5, self.clock.now() - before)

    def test_sleeping_thread_wakes_when_its_time_has_come_and_not_before(self) -> None:
        thread = self.start(lambda: self.clock.sleep(10.0))

        self.virtual.advance(9.0)
        self.virtual.wait_for_waiting()
        self.assertTrue(thread.is_alive())
        self.virtual.advance(1.0)
        thread.join()

        self.assertEqual([None], self.results)

    def test_thread_that_sleeps_again_is_waited_for_although_it_has_just_been_woken(self) -> None:
        def sleep_again() -> None:
            for _ in range(100):
                self.clock.sleep(1.0)

        thread = self.start(sleep_again)

        for _ in range(100):
            self.virtual.wait_for_waiting()
            self.virtual.advance(1.0)
        thread.join()

        self.assertEqual(1100.0, self.clock.now())

    def test_date_moves_with_the_time_and_is_set_without_it(self) -> None:
        before = self.clock.now()
        self.virtual.set_date(1_000_000.5)
        self.virtual.advance(2.0)

        self.assertEqual((1_000_002.5, 2.0), (self.clock.date(), self.clock.now() - before))

    def test_event_that_is_set_ends_a_wait_without_the_time(self) -> None:
        event = threading.Event()
        thread = self.start(lambda: self.clock.wait(event, 10.0))

        event.set()
        thread.join()

        self.assertEqual([True], self.results)

    def test_wait_for_an_event_that_is_not_set_ends_with_its_time(self) -> None:
        thread = self.start(lambda: self.clock.wait(threading.Event(), 10.0))

        self.virtual.advance(10.0)
        thread.join()

        self.assertEqual([False], self.results)

    def test_condition_is_waited_for_until_it_holds_or_its_time_has_come(self) -> None:
        condition = threading.Condition()
        jobs: list[str] = []

        def work() -> list[str]:
            with condition:
                return list(self.clock.wait_for(condition, lambda: jobs, 10.0))

        changes: list[Callable[[], object]] = [lambda: jobs.append("job"), lambda: self.virtual.advance(10.0)]
        for change in changes:
            thread = self.start(work)
            with condition:
                change()
                condition.notify_all()
            thread.join()
            jobs.clear()

        self.assertEqual([["job"], []], self.results)

    def test_wait_without_time_left_returns_at_once(self) -> None:
        condition = threading.Condition()
        for clock in (self.clock, SYSTEM_CLOCK):
            with self.subTest(clock=type(clock)), condition:
                self.assertFalse(clock.wait(threading.Event(), 0.0))
                self.assertFalse(clock.wait_for(condition, lambda: False, 0.0))


class SystemClockTest(unittest.TestCase):
    def test_time_of_the_system_does_not_go_back(self) -> None:
        times = [SYSTEM_CLOCK.now() for _ in range(100)]

        self.assertEqual(sorted(times), times)

    def test_event_and_condition_that_hold_are_not_waited_for(self) -> None:
        event, condition = threading.Event(), threading.Condition()
        event.set()

        self.assertTrue(SYSTEM_CLOCK.wait(event, 60.0))
        with condition:
            self.assertEqual("held", SYSTEM_CLOCK.wait_for(condition, lambda: "held", 60.0))
