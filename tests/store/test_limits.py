"""Patterns of areas, and which limit of several an area has."""

from __future__ import annotations

import unittest

from filestoraged.store.limits import KINDS, AreaLimits, Limit, Rules, is_area, kinds_of


class LimitsTest(unittest.TestCase):
    def test_first_limit_that_fits_decides(self) -> None:
        limits = AreaLimits(
            [
                Limit("data/pets", Rules(quota=1)),
                Limit("data/p*s", Rules(quota=2)),
                Limit("*/ci", Rules(quota=3)),
                Limit("data/*", Rules(quota=4)),
            ]
        )

        found = [limits.find(area) for area in ("data/pets", "data/pots", "names/ci", "data/ci", "data/x", "files")]

        self.assertEqual([1, 2, 3, 3, 4, None], [None if each is None else each.quota for each in found])

    def test_more_areas_than_are_remembered_have_their_limits(self) -> None:
        limits = AreaLimits([Limit("data/1*", Rules(quota=1))])

        for _ in range(2):
            found = [limits.find(f"data/{number}") is not None for number in range(3000)]
            self.assertEqual([str(number).startswith("1") for number in range(3000)], found)

    def test_kinds_are_those_that_a_pattern_may_fit(self) -> None:
        for pattern, kinds in (
            ("files", ["files"]),
            ("drops", ["drops"]),
            ("data/pets", ["data"]),
            ("data/*", ["data"]),
            ("names/ci-*", ["names"]),
            ("*", list(KINDS)),
            ("*/*", ["data", "names", "restic"]),
            ("*/ci", ["data", "names", "restic"]),
            ("*s", list(KINDS)),
            ("*s/ci", ["names"]),
            ("d*", ["data", "drops"]),
            ("d*a/x*y", ["data"]),
            ("data*", ["data"]),
            ("data", []),
            ("data/", []),
            ("data/a/b", []),
            ("data/a b*", []),
            ("files/*", []),
            ("kv", []),
            ("", []),
        ):
            with self.subTest(pattern=pattern):
                self.assertEqual(kinds, kinds_of(pattern))

    def test_areas_have_the_names_of_repositories(self) -> None:
        areas = ("files", "drops", "data/a.b-c_D", "names/x", "restic/x")
        others = ("data", "data/", "data/a/b", "data/..", "names/a b", "kv", "kv/x", "files/x", "")

        self.assertEqual([True] * len(areas), list(map(is_area, areas)))
        self.assertEqual([False] * len(others), list(map(is_area, others)))
