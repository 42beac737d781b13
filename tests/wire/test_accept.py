"""Content negotiation: which Accept fields prefer plain text to JSON, and which a page to both."""

from __future__ import annotations

import unittest

from filestoraged.wire.accept import prefers_html, prefers_text


class AcceptTest(unittest.TestCase):
    def assert_text(self, *fields: str) -> None:
        for field in fields:
            with self.subTest(field=field):
                self.assertTrue(prefers_text(field))

    def assert_json(self, *fields: str) -> None:
        for field in fields:
            with self.subTest(field=field):
                self.assertFalse(prefers_text(field))

    def test_no_preference_returns_false(self) -> None:
        self.assertFalse(prefers_text(None))
        self.assert_json("", " ", ",")

    def test_text_plain_returns_true(self) -> None:
        self.assert_text(
            "text/plain", "TEXT/Plain", " text/plain ", "text/plain; charset=utf-8", "text/plain;q=0.1", ",text/plain,"
        )

    def test_text_wildcard_returns_true(self) -> None:
        self.assert_text("text/*", "text/html, text/*;q=0.1")

    def test_json_returns_false(self) -> None:
        self.assert_json("application/json", "application/*", "application/json;q=0.1")

    def test_equal_weights_return_false(self) -> None:
        self.assert_json("*/*", "text/plain, application/json", "application/json, text/plain, */*", "text/plain, */*")
        self.assert_json("text/plain;q=0.5, application/json;q=0.5", "text/*, application/*")

    def test_larger_weight_decides_in_any_order(self) -> None:
        self.assert_text(
            "text/plain, application/json;q=0.9", "application/json;q=0.9, text/plain", "text/plain;q=0.2, */*;q=0.1"
        )
        self.assert_text(
            "text/plain;q=0.002, application/json;q=0.001", "*/*;q=0.1, text/plain", "text/plain;Q=1, */*;Q=0.5"
        )
        self.assert_json(
            "text/plain;q=0.9, application/json", "text/plain;q=0.1, */*;q=0.2", "text/plain;q=0.8, */*;q=0.9"
        )

    def test_most_specific_range_decides(self) -> None:
        # RFC 9110, section 12.5.1.
        self.assert_json(
            "text/*, text/plain;q=0.1, application/json;q=0.5",
            "*/*, text/plain;q=0.5",
            "text/plain;q=0.1, text/*, */*;q=0.5",
        )
        self.assert_text("*/*, application/json;q=0.5", "application/*;q=0.1, */*", "application/json;q=0, */*")

    def test_weight_zero_refuses_the_type(self) -> None:
        self.assert_json("text/plain;q=0", "text/plain;q=0.000", "text/plain;q=0, */*", "*/*;q=0")
        self.assert_text("application/json;q=0, text/plain;q=0.001")

    def test_other_types_return_false(self) -> None:
        self.assert_json(
            "text/html", "image/*", "text/html, application/xhtml+xml, */*;q=0.8", "text/plainer", "xtext/plain"
        )

    def test_malformed_range_matches_nothing(self) -> None:
        self.assert_json(
            "text",
            "text/plain/x",
            "/plain",
            "text plain",
            "text/plain;q",
            "text/plain;q=",
            "text/plain;q=x",
            '"text/plain"',
        )
        self.assert_text("nonsense;;=, text/plain", "text/plain, application/json;q=x")

    def test_range_with_malformed_weight_matches_nothing(self) -> None:
        # RFC 9110, section 12.4.2: from 0 to 1, and at most three digits after the point.
        for weight in (
            "2", "1.001", "10", "1e3", "1e-1", "inf", "infinity", "nan", "-1", "+1", "1_0", "0x1", ".5", "0.1234",
        ):  # fmt: skip
            with self.subTest(weight=weight):
                self.assertFalse(prefers_text(f"text/plain;q={weight}"))
                self.assertTrue(prefers_text(f"application/json;q={weight}, text/plain;q=0.5"))

    def test_weight_without_digits_after_the_point_is_valid(self) -> None:
        self.assert_text("text/plain;q=1.", "text/plain;q=1.000, application/json;q=0.999")
        self.assert_json("text/plain;q=0.")

    def test_field_that_no_browser_sends_prefers_nothing(self) -> None:
        self.assert_text("text/plain;q=1.0," + "," * 1000)
        self.assert_json("text/plain;q=1.0," + "," * 1010)


class PageTest(unittest.TestCase):
    def test_browsers_and_explicit_preferences_get_a_page(self) -> None:
        for field in (
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            *("text/html", "TEXT/HTML", "text/html;q=0.1", "text/html, application/json;q=0.9"),
            # Lynx.
            "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01",
        ):
            with self.subTest(field=field):
                self.assertTrue(prefers_html(field))

    def test_programs_get_none(self) -> None:
        for field in (
            *(None, "", "*/*", "application/json", "text/*", "application/json, */*;q=0.5", "text/plain"),
            *("text/html, application/json", "text/html, */*", "text/html;q=0.5, application/json;q=0.6"),
            *("text/html;q=0, */*;q=0", "text/html;q=0.5, text/plain", "text/html;q=2", "application/xhtml+xml, */*"),
        ):
            with self.subTest(field=field):
                self.assertFalse(prefers_html(field))
