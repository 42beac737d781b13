"""How many connections the descriptors are enough for."""

from __future__ import annotations

import unittest

from filestoraged.daemon.descriptors import connections


class EnoughTest(unittest.TestCase):
    def test_each_connection_has_two_and_some_are_left(self) -> None:
        self.assertEqual((65536 - 256) // 2, connections(65536))

    def test_of_few_a_quarter_is_left(self) -> None:
        self.assertEqual(24, connections(64))

    def test_there_is_always_one(self) -> None:
        self.assertEqual(1, connections(2))
