"""The header fields of tus."""

from __future__ import annotations

import base64
import unittest

from filestoraged.errors import BadRequest, TooLarge
from filestoraged.wire import tus


class MetadataTest(unittest.TestCase):
    def test_values_come_back_as_they_were(self) -> None:
        values = {"filename": "tee-ü.txt", "empty": "", "Key.2!": "a b"}

        self.assertEqual(values, tus.parse_metadata({"upload-metadata": tus.format_metadata(values)}))

    def test_value_may_be_missing_and_white_space_may_follow_commas(self) -> None:
        self.assertEqual({"a": "", "b": "x"}, tus.parse_metadata({"upload-metadata": "a, b eA=="}))

    def test_no_field_has_no_values(self) -> None:
        self.assertEqual({}, tus.parse_metadata({}))

    def test_error_quotes_no_value(self) -> None:
        for field in (
            "password c2VjcmV0!",
            "password c2VjcmV0 x",
            f"password {base64.b64encode(bytes([255])).decode()}",
        ):
            with self.assertRaises(BadRequest) as raised:
                tus.parse_metadata({"upload-metadata": field})
            self.assertNotIn("c2V", str(raised.exception))


class NumbersTest(unittest.TestCase):
    def test_largest_number_has_63_bits(self) -> None:
        self.assertEqual(2**63 - 1, tus.parse_offset({"upload-offset": str(2**63 - 1)}))

    def test_length_of_64_bits_and_more_is_too_large(self) -> None:
        self.assertEqual(2**63 - 1, tus.parse_length({"upload-length": str(2**63 - 1)}))
        for text in (str(2**63), "9" * 10_000):
            for parse in (tus.parse_length, tus.parse_late_length):
                with self.subTest(text=text[:20]), self.assertRaises(TooLarge):
                    parse({"upload-length": text})

    def test_other_texts_are_refused(self) -> None:
        for text in ("", "-1", "+1", " 1", "1 ", "1.0", "1e3", "0x1", "²", str(2**63), "9" * 10_000):
            with self.subTest(text=text[:20]), self.assertRaises(BadRequest):
                tus.parse_offset({"upload-offset": text})
