"""Byte ranges: the part of an object that a Range field selects, and the fields that are ignored."""

from __future__ import annotations

import unittest

from filestoraged.errors import RangeNotSatisfiable
from filestoraged.wire.ranges import parse_range


class RangesTest(unittest.TestCase):
    def assert_unsatisfiable(self, field: str, size: int) -> None:
        with self.assertRaises(RangeNotSatisfiable) as caught:
            parse_range(field, size)

        self.assertEqual(416, caught.exception.status)
        self.assertEqual((("Content-Range", f"bytes */{size}"),), caught.exception.fields)

    def assert_ignored(self, *fields: str) -> None:
        for field in fields:
            with self.subTest(field=field):
                self.assertIsNone(parse_range(field, 10))

    def test_every_small_range_selects_the_bytes_of_rfc_9110(self) -> None:
        # Section 14.1.2, by lists of positions instead of the module's arithmetic.
        for size in range(5):
            positions = range(size)
            for first in range(7):
                for last in range(7):
                    selected = [position for position in positions if first <= position <= last]
                    with self.subTest(size=size, first=first, last=last):
                        self.assert_selects(selected, f"bytes={first}-{last}", size, valid=first <= last)
                with self.subTest(size=size, first=first):
                    self.assert_selects(
                        [position for position in positions if first <= position], f"bytes={first}-", size
                    )

    def assert_selects(self, selected: list[int], field: str, size: int, *, valid: bool = True) -> None:
        if not valid:
            self.assertIsNone(parse_range(field, size))
        elif selected:
            self.assertEqual((selected[0], selected[-1] + 1), parse_range(field, size))
        else:
            self.assert_unsatisfiable(field, size)

    def test_suffix_selects_the_last_bytes(self) -> None:
        self.assertEqual((9, 10), parse_range("bytes=-1", 10))
        self.assertEqual((1, 10), parse_range("bytes=-9", 10))
        self.assertEqual((0, 10), parse_range("bytes=-10", 10))

    def test_suffix_longer_than_the_object_selects_all(self) -> None:
        self.assertEqual((0, 10), parse_range("bytes=-11", 10))
        self.assertEqual((0, 10), parse_range("bytes=-" + "9" * 30000, 10))

    def test_suffix_of_0_bytes_is_not_satisfiable(self) -> None:
        self.assert_unsatisfiable("bytes=-0", 10)
        self.assert_unsatisfiable("bytes=-000", 10)
        self.assert_unsatisfiable("bytes=-0", 0)

    def test_suffix_of_an_empty_object_is_ignored(self) -> None:
        # It is satisfiable, but no Content-Range can express zero bytes.
        self.assertIsNone(parse_range("bytes=-5", 0))

    def test_range_past_the_end_is_not_satisfiable(self) -> None:
        for field in (
            "bytes=10-", "bytes=10-10", "bytes=11-20", "bytes=99999999999999999999-", "bytes=" + "9" * 30000 + "-",
        ):  # fmt: skip
            with self.subTest(field=field[:30]):
                self.assert_unsatisfiable(field, 10)

    def test_range_of_an_empty_object_is_not_satisfiable(self) -> None:
        self.assert_unsatisfiable("bytes=0-", 0)
        self.assert_unsatisfiable("bytes=0-0", 0)

    def test_range_with_a_huge_last_position_ends_with_the_object(self) -> None:
        for last in ("10", "99", "9" * 18, "9" * 19, "9" * 20, "1" + "0" * 18, "1" + "0" * 19, "9" * 30000):
            with self.subTest(digits=len(last)):
                self.assertEqual((3, 10), parse_range("bytes=3-" + last, 10))

    def test_range_between_two_huge_positions_is_not_satisfiable(self) -> None:
        # The larger number begins with the smaller digit.
        self.assert_unsatisfiable("bytes=20000000000000000000-100000000000000000000", 10)
        self.assert_unsatisfiable("bytes=" + "9" * 100 + "-" + "1" * 101, 10)

    def test_leading_zeros_are_ignored(self) -> None:
        self.assertEqual((3, 6), parse_range("bytes=0003-005", 10))
        self.assertEqual((3, 6), parse_range("bytes=" + "0" * 5000 + "3-" + "0" * 5000 + "5", 10))
        self.assertEqual((0, 1), parse_range("bytes=00-00", 10))

    def test_unit_is_accepted_in_any_case(self) -> None:
        for unit in ("bytes", "Bytes", "BYTES"):
            with self.subTest(unit=unit):
                self.assertEqual((0, 5), parse_range(f"{unit}=0-4", 10))

    def test_empty_list_members_are_ignored(self) -> None:
        # RFC 9110, section 5.6.1.2.
        for field in ("bytes=0-4,", "bytes=,0-4", "bytes=, ,0-4 ,\t,"):
            with self.subTest(field=field):
                self.assertEqual((0, 5), parse_range(field, 10))

    def test_other_unit_is_ignored(self) -> None:
        self.assert_ignored(
            "lines=0-4",
            "byte=0-4",
            "bytes2=0-4",
            "xbytes=0-4",
            "=0-4",
            "none",
            "seconds=0-",
        )

    def test_unit_with_a_letter_that_folds_to_ascii_is_ignored(self) -> None:
        self.assert_ignored("byte\u017f=0-4")

    def test_several_ranges_are_ignored(self) -> None:
        self.assert_ignored(
            "bytes=0-1,3-4", "bytes=0-1, 3-4", "bytes=0-,-1", "bytes=-1,-2,-3", "bytes=99-,0-1", "bytes=0-0,0-0"
        )

    def test_malformed_range_is_ignored(self) -> None:
        self.assert_ignored(
            "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=--", "bytes=5", "bytes=5-4", "bytes=99-98"
        )
        self.assert_ignored(
            "bytes=--5", "bytes=-5-", "bytes=1-2-3", "bytes=+1-2", "bytes=1-+2", "bytes=-+2", "bytes=0x0-4"
        )
        self.assert_ignored(
            "bytes=a-b", "bytes=0-b", "bytes=a-4", "bytes=0.0-4", "bytes=1_0-", "bytes=0:4", "bytes 0-4"
        )
        self.assert_ignored(
            "bytes=0 - 4", "bytes=0- 4", "bytes=0 -4", "bytes==0-4", "bytes=0-4;", "bytes=0-4 x", "bytes: 0-4"
        )
        self.assert_ignored(
            "bytes=0-4, x", "bytes=x, 0-4", "bytes=0-4/10", "bytes=*", "bytes=*-4", "bytes=\u0660-\u0664", "bytes=\xb2-"
        )

    def test_long_malformed_field_is_ignored(self) -> None:
        hostile = (
            "bytes" + " " * 32000 + "x",
            "bytes=" + "," * 32000,
            "bytes=" + "0-," * 10000,
            "bytes=" + "1" * 32000 + "x",
        )
        for field in hostile:
            with self.subTest(field=field[:10]):
                self.assertIsNone(parse_range(field, 10))
