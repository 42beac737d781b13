"""The caches: their bounds hold, what replaces or leaves an entry is counted once, and what is in demand stays."""

from __future__ import annotations

import unittest

from filestoraged.bounded_cache import ADMITTED_ONE_OF, BoundedCache, ClockCache


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


class Value:
    """A value of a ClockCache."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.is_used = False


class ClockCacheTest(unittest.TestCase):
    def setUp(self) -> None:
        self.cache: ClockCache[int, Value] = ClockCache(10, lambda _, value: value.size)

    def request(self, key: int) -> bool:
        """Request a value of one byte. Returns whether the cache had it."""
        value = self.cache.get(key)
        if value is None:
            self.cache.put(key, Value())
            return False
        value.is_used = True
        return True

    def insist(self, key: int, value: Value) -> None:
        """Put a value until a full cache considers it."""
        for _ in range(ADMITTED_ONE_OF):
            self.cache.put(key, value)

    def keys(self) -> set[int]:
        return {key for key in range(1000) if self.cache.get(key) is not None}

    def test_replaced_value_is_counted_once(self) -> None:
        for size in (3, 6, 6):
            self.cache.put(1, Value(size))

        self.assertEqual((1, 6), (len(self.cache), self.cache.size))

    def test_discarded_value_is_not_counted(self) -> None:
        self.cache.put(1, Value(3))

        self.cache.discard(1)
        self.cache.discard(1)

        self.assertIsNone(self.cache.get(1))
        self.assertEqual((0, 0), (len(self.cache), self.cache.size))

    def test_value_larger_than_the_cache_is_not_kept(self) -> None:
        self.insist(1, Value(11))

        self.assertEqual((0, 0), (len(self.cache), self.cache.size))

    def test_full_cache_evicts_the_oldest_values_that_were_not_used(self) -> None:
        for key in range(10):
            self.cache.put(key, Value())

        self.insist(10, Value(3))

        self.assertEqual({3, 4, 5, 6, 7, 8, 9, 10}, self.keys())
        self.assertEqual(10, self.cache.size)

    def test_value_that_was_used_stays_in_place_of_a_new_one(self) -> None:
        for key in range(10):
            self.cache.put(key, Value())
        self.request(0)

        self.insist(10, Value())

        self.assertEqual(set(range(10)), self.keys())

    def test_value_that_is_no_longer_used_is_evicted_when_it_is_considered_again(self) -> None:
        for key in [*range(10)] * 2:
            self.request(key)

        for key in range(10, 40):
            self.insist(key, Value())

        self.assertTrue(self.keys().isdisjoint(range(10)))

    def test_values_requested_in_turn_are_found_even_if_they_exceed_the_size(self) -> None:
        for count in (15, 30, 70):
            with self.subTest(count=count):
                found = [self.request(key) for _ in range(100) for key in range(count)]

                # Eviction of the least recently used, or of all, would find none.
                self.assertGreater(sum(found), 80 * 10)

    def test_value_in_demand_survives_requests_for_many_others(self) -> None:
        for key in range(100, 1000):
            self.request(7)
            self.request(key)

        self.assertTrue(self.request(7))
