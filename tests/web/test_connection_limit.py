"""How workers share the room: one limit for all, and turns at the door."""

from __future__ import annotations

import os
import select
import unittest

from filestoraged.web.connection_limit import ConnectionLimit


class RoomTest(unittest.TestCase):
    def room(self, limit: int, workers: int = 1) -> ConnectionLimit:
        room = ConnectionLimit(limit, workers)
        self.addCleanup(room.close)
        return room

    def test_what_is_above_the_limit_is_told(self) -> None:
        room = self.room(2)

        self.assertEqual([-1, 0, 1], [room.enter() for _ in range(3)])
        room.leave()
        self.assertEqual(1, room.enter())

    def test_all_workers_count_against_one_limit(self) -> None:
        room = self.room(3, workers=2)
        pid = os.fork()
        if not pid:
            room.take_slot(1)
            room.enter()
            room.enter()
            os._exit(0)
        os.waitpid(pid, 0)

        room.take_slot(0)

        self.assertEqual([0, 1], [room.enter(), room.enter()])

    def test_who_takes_a_slot_anew_begins_at_nought(self) -> None:
        room = self.room(3, workers=2)
        room.take_slot(1)
        room.enter()

        room.take_slot(1)

        self.assertEqual(0, room.count)

    def test_one_alone_is_never_ahead(self) -> None:
        room = self.room(100)
        for _ in range(50):
            room.enter()

        self.assertFalse(room.is_ahead)

    def test_one_with_a_good_many_more_is_ahead(self) -> None:
        room = self.room(100, workers=2)

        said = []
        for _ in range(5):
            room.enter()
            said.append(room.is_ahead)

        self.assertEqual([False, False, True, True, True], said)

    def test_the_bell_is_heard_by_the_others_alone(self) -> None:
        room = self.room(100, workers=2)
        for _ in range(100_000):
            room.wake_others()
        own = room.wake_descriptor
        room.take_slot(1)

        readable = select.select([own, room.wake_descriptor], [], [], 0)[0]
        while select.select([room.wake_descriptor], [], [], 0)[0]:
            room.take_wakes()

        self.assertEqual([room.wake_descriptor], readable)
