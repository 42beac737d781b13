"""The connection limit, and which worker accepts the next connection."""

from __future__ import annotations

import os
import select
import unittest

from filestoraged.web.connection_limit import ConnectionLimit


class ConnectionLimitTest(unittest.TestCase):
    def make_limit(self, size: int, workers: int = 1) -> ConnectionLimit:
        limit = ConnectionLimit(size, workers)
        self.addCleanup(limit.close)
        return limit

    def test_excess_over_the_limit_is_returned(self) -> None:
        limit = self.make_limit(2)

        self.assertEqual([-1, 0, 1], [limit.enter() for _ in range(3)])
        limit.leave()
        self.assertEqual(1, limit.enter())

    def test_all_workers_count_against_one_limit(self) -> None:
        limit = self.make_limit(3, workers=2)
        pid = os.fork()
        if not pid:
            limit.take_slot(1)
            limit.enter()
            limit.enter()
            os._exit(0)
        os.waitpid(pid, 0)

        limit.take_slot(0)

        self.assertEqual([0, 1], [limit.enter(), limit.enter()])

    def test_slot_taken_again_begins_at_zero(self) -> None:
        limit = self.make_limit(3, workers=2)
        limit.take_slot(1)
        limit.enter()

        limit.take_slot(1)

        self.assertEqual(0, limit.count)

    def test_single_worker_is_never_ahead(self) -> None:
        limit = self.make_limit(100)
        for _ in range(50):
            limit.enter()

        self.assertFalse(limit.is_ahead)

    def test_worker_with_many_more_connections_is_ahead(self) -> None:
        limit = self.make_limit(100, workers=2)

        said = []
        for _ in range(5):
            limit.enter()
            said.append(limit.is_ahead)

        self.assertEqual([False, False, True, True, True], said)

    def test_wake_reaches_the_other_workers_alone(self) -> None:
        limit = self.make_limit(100, workers=2)
        for _ in range(100_000):
            limit.wake_others()
        own = limit.wake_descriptor
        limit.take_slot(1)

        readable = select.select([own, limit.wake_descriptor], [], [], 0)[0]
        while select.select([limit.wake_descriptor], [], [], 0)[0]:
            limit.take_wakes()

        self.assertEqual([limit.wake_descriptor], readable)
