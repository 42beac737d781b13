"""The bounded cache: its bounds hold, and what replaces or leaves an entry is counted once."""

from __future__ import annotations

import unittest

from filestoraged.bounded_cache import BoundedCache


def size_of(key: str, value: str) -> int:
    return len(key) + len(value)


class BoundedCacheTest(unittest.TestCase):
    def setUp(self) -> None:
        self.cache: BoundedCache[str, str] = BoundedCache(entries=3, size=10, size_of=size_of)

    def test_value_is_found_by_its_key(self) -> None:
        self.cache.put("a", "tea")

        self.assertEqual("tea", self.cache.get("a"))
        self.assertIsNone(self.cache.get("b"))

    def test_replaced_value_is_counted_once(self) -> None:
        for value in ("tea", "coffee", "coffee"):
            self.cache.put("a", value)

        self.assertEqual((1, 7), (len(self.cache), self.cache.size))

    def test_replacement_that_fits_forgets_no_other(self) -> None:
        self.cache.put("a", "coffee")
        self.cache.put("b", "ox")

        self.cache.put("a", "coffee")

        self.assertEqual(("coffee", "ox"), (self.cache.get("a"), self.cache.get("b")))

    def test_discarded_value_is_not_counted(self) -> None:
        self.cache.put("a", "tea")

        self.cache.discard("a")
        self.cache.discard("a")

        self.assertIsNone(self.cache.get("a"))
        self.assertEqual((0, 0), (len(self.cache), self.cache.size))

    def test_value_that_exceeds_the_size_forgets_all_others(self) -> None:
        self.cache.put("a", "coffee")

        self.cache.put("b", "tea")

        self.assertIsNone(self.cache.get("a"))
        self.assertEqual((1, 4), (len(self.cache), self.cache.size))

    def test_value_that_exceeds_the_number_of_entries_forgets_all_others(self) -> None:
        for key in "abcd":
            self.cache.put(key, "")

        self.assertEqual(1, len(self.cache))
        self.assertEqual("", self.cache.get("d"))

    def test_cache_without_a_size_bounds_entries_alone(self) -> None:
        cache: BoundedCache[int, str] = BoundedCache(entries=2)

        for key in (1, 2):
            cache.put(key, "x" * 1000)

        self.assertEqual(2, len(cache))
