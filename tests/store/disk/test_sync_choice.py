"""The choice between one sync for all and one for each, and the threads for the latter."""

from __future__ import annotations

import threading
import unittest
from unittest import mock

from filestoraged.store.disk.sync_choice import SyncChoice
from filestoraged.store.disk.sync_threads import SyncThreads
from filestoraged.store.system import Linux
from tests.support import PATIENCE


class SyncChoiceTest(unittest.TestCase):
    def setUp(self) -> None:
        self.now = 100.0
        system = mock.Mock(Linux(), monotonic=lambda: self.now)
        self.choice = SyncChoice(system=system)

    def test_changes_are_synced_together_at_first_and_one_change_is_not(self) -> None:
        self.assertEqual([False, True, True], [self.choice.is_together(count) for count in (1, 2, 100)])

    def test_faster_way_for_each_change_is_taken(self) -> None:
        self.choice.record_apart(4, 0.004)
        for seconds, expected in ((0.010, True), (0.100, False)):
            for _ in range(20):
                self.choice.record_together(16, seconds)
            self.assertEqual(expected, self.choice.is_together(16))

    def test_slower_way_is_tried_once_a_second(self) -> None:
        self.choice.record_apart(4, 0.004)
        self.choice.record_together(16, 0.100)

        seen = []
        for _ in range(13):
            self.now += 0.25
            seen.append(self.choice.is_together(16))

        self.assertEqual(3, sum(seen))

    def test_one_slow_sync_among_many_does_not_change_the_way(self) -> None:
        self.choice.record_apart(16, 0.0032)
        for _ in range(20):
            self.choice.record_together(16, 0.001)

        self.choice.record_together(16, 0.005)

        self.assertTrue(self.choice.is_together(16))


class SyncThreadsTest(unittest.TestCase):
    def test_calls_run_at_the_same_time_and_errors_are_those_of_their_items(self) -> None:
        together = threading.Barrier(8)

        def call(number: int) -> None:
            together.wait(PATIENCE)
            if number % 2:
                raise ValueError(number)

        threads = SyncThreads(call)
        self.addCleanup(threads.close)

        for _ in range(3):
            outcomes = threads.call(range(8))
            self.assertEqual([None, "1", None, "3", None, "5", None, "7"], [each and str(each) for each in outcomes])

    def test_items_are_all_called_where_no_thread_can_be_started(self) -> None:
        called: list[int] = []
        threads = SyncThreads(called.append)

        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            outcomes = threads.call([1, 2, 3])

        self.assertEqual(([1, 2, 3], [None] * 3), (called, outcomes))

    def test_more_items_than_threads_are_all_called(self) -> None:
        called: list[int] = []
        threads = SyncThreads(called.append)
        self.addCleanup(threads.close)

        threads.call(range(200))

        self.assertEqual(list(range(200)), sorted(called))
        self.assertLess(len(threads._threads), 16)
