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

    def test_range_selects_the_bytes_of_an_object_of_10(self) -> None:
        nines, zeros = "9" * 30000, "0" * 5000
        for rule, selected, fields in (
            ("the last bytes", (9, 10), ("-1",)),
            ("the last bytes", (1, 10), ("-9",)),
            ("a suffix that is as long or longer selects all", (0, 10), ("-10", "-11", "-" + nines)),
            ("a huge last position is the end", (3, 10), (
                "3-10", "3-99", "3-" + "9" * 18, "3-" + "9" * 19, "3-" + "9" * 20, "3-1" + "0" * 18, "3-1" + "0" * 19,
                "3-" + nines,
            )),
            ("leading zeros are ignored", (3, 6), ("0003-005", f"{zeros}3-{zeros}5")),
            ("leading zeros are ignored", (0, 1), ("00-00",)),
            # RFC 9110, section 5.6.1.2.
            ("empty list members are ignored", (0, 5), ("0-4,", ",0-4", ", ,0-4 ,\t,")),
        ):  # fmt: skip
            for field in fields:
                with self.subTest(rule, field=field[:30]):
                    self.assertEqual(selected, parse_range(f"bytes={field}", 10))

    def test_unit_is_accepted_in_any_case(self) -> None:
        self.assertEqual([(0, 5)] * 3, [parse_range(f"{unit}=0-4", 10) for unit in ("bytes", "Bytes", "BYTES")])

    def test_range_that_selects_no_byte_is_not_satisfiable(self) -> None:
        for rule, size, fields in (
            ("a suffix of 0 bytes", 10, ("-0", "-000")),
            ("an empty object", 0, ("-0", "0-", "0-0")),
            ("past the end", 10, ("10-", "10-10", "11-20", "99999999999999999999-", "9" * 30000 + "-")),
            # The larger number begins with the smaller digit.
            ("huge", 10, ("20000000000000000000-100000000000000000000", "9" * 100 + "-" + "1" * 101)),
        ):
            for field in fields:
                with self.subTest(rule, field=field[:30]):
                    self.assert_unsatisfiable(f"bytes={field}", size)

    def test_suffix_of_an_empty_object_is_ignored(self) -> None:
        # It is satisfiable, but no Content-Range can express zero bytes.
        self.assertIsNone(parse_range("bytes=-5", 0))

    def test_other_units_and_malformed_or_several_ranges_are_ignored(self) -> None:
        for rule, fields in {
            "other unit": (
                "lines=0-4", "byte=0-4", "bytes2=0-4", "xbytes=0-4", "=0-4", "none", "seconds=0-",
                # It folds to an ASCII letter.
                "byte\u017f=0-4",
            ),
            "several ranges": (
                "bytes=0-1,3-4", "bytes=0-1, 3-4", "bytes=0-,-1", "bytes=-1,-2,-3", "bytes=99-,0-1", "bytes=0-0,0-0",
            ),
            "malformed": (
                "", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=--", "bytes=5", "bytes=5-4", "bytes=99-98",
                "bytes=--5", "bytes=-5-", "bytes=1-2-3", "bytes=+1-2", "bytes=1-+2", "bytes=-+2", "bytes=0x0-4",
                "bytes=a-b", "bytes=0-b", "bytes=a-4", "bytes=0.0-4", "bytes=1_0-", "bytes=0:4", "bytes 0-4",
                "bytes=0 - 4", "bytes=0- 4", "bytes=0 -4", "bytes==0-4", "bytes=0-4;", "bytes=0-4 x", "bytes: 0-4",
                "bytes=0-4, x", "bytes=x, 0-4", "bytes=0-4/10", "bytes=*", "bytes=*-4", "bytes=\u0660-\u0664",
                "bytes=\xb2-",
            ),
            "long and malformed": (
                "bytes" + " " * 32000 + "x", "bytes=" + "," * 32000, "bytes=" + "0-," * 10000,
                "bytes=" + "1" * 32000 + "x",
            ),
        }.items():  # fmt: skip
            for field in fields:
                with self.subTest(rule, field=field[:20]):
                    self.assertIsNone(parse_range(field, 10))
