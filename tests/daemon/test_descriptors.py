"""How many connections the descriptors are enough for."""

from __future__ import annotations

import unittest

from filestoraged.daemon.descriptors import connections


class EnoughTest(unittest.TestCase):
    def test_each_connection_takes_three_descriptors_and_256_are_reserved(self) -> None:
        self.assertEqual((65536 - 256) // 3, connections(65536))

    def test_quarter_of_few_descriptors_is_reserved(self) -> None:
        self.assertEqual(16, connections(64))

    def test_one_connection_is_always_allowed(self) -> None:
        self.assertEqual(1, connections(2))
