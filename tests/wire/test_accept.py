"""Content negotiation: which Accept fields prefer plain text to JSON, and which a page to both."""

from __future__ import annotations

import unittest

from filestoraged.wire.accept import names_type, prefers_html, prefers_text

TEXT = {
    "it is named": (
        "text/plain", "TEXT/Plain", " text/plain ", "text/plain; charset=utf-8", "text/plain;q=0.1", ",text/plain,",
    ),
    "its wildcard is named": ("text/*", "text/html, text/*;q=0.1"),
    "its weight is larger, in any order": (
        "text/plain, application/json;q=0.9", "application/json;q=0.9, text/plain", "text/plain;q=0.2, */*;q=0.1",
        "text/plain;q=0.002, application/json;q=0.001", "*/*;q=0.1, text/plain", "text/plain;Q=1, */*;Q=0.5",
    ),
    # RFC 9110, section 12.5.1.
    "the most specific range decides": (
        "*/*, application/json;q=0.5", "application/*;q=0.1, */*", "application/json;q=0, */*",
    ),
    "weight 0 refuses JSON": ("application/json;q=0, text/plain;q=0.001",),
    "a malformed range matches nothing": ("nonsense;;=, text/plain", "text/plain, application/json;q=x"),
    "a weight may have no digits after the point": (
        "text/plain;q=1.", "text/plain;q=1.000, application/json;q=0.999",
    ),
    "the field is as long as one that a browser sends": ("text/plain;q=1.0," + "," * 1000,),
}  # fmt: skip
JSON = {
    "nothing is preferred": (None, "", " ", ","),
    "it is named": ("application/json", "application/*", "application/json;q=0.1"),
    "weights are equal": (
        "*/*", "text/plain, application/json", "application/json, text/plain, */*", "text/plain, */*",
        "text/plain;q=0.5, application/json;q=0.5", "text/*, application/*",
    ),
    "its weight is larger": (
        "text/plain;q=0.9, application/json", "text/plain;q=0.1, */*;q=0.2", "text/plain;q=0.8, */*;q=0.9",
    ),
    "the most specific range decides": (
        "text/*, text/plain;q=0.1, application/json;q=0.5", "*/*, text/plain;q=0.5",
        "text/plain;q=0.1, text/*, */*;q=0.5",
    ),
    "weight 0 refuses text": (
        "text/plain;q=0", "text/plain;q=0.", "text/plain;q=0.000", "text/plain;q=0, */*", "*/*;q=0",
    ),
    "other types are named": (
        "text/html", "image/*", "text/html, application/xhtml+xml, */*;q=0.8", "text/plainer", "xtext/plain",
    ),
    "a malformed range matches nothing": (
        "text", "text/plain/x", "/plain", "text plain", "text/plain;q", "text/plain;q=", "text/plain;q=x",
        '"text/plain"',
    ),
    "the field is longer than one that a browser sends": ("text/plain;q=1.0," + "," * 1010,),
}  # fmt: skip


class AcceptTest(unittest.TestCase):
    def test_plain_text_is_sent_where_it_is_preferred_to_json_and_nowhere_else(self) -> None:
        for expected, rules in ((True, TEXT), (False, JSON)):
            for rule, fields in rules.items():
                for field in fields:
                    with self.subTest(rule, field=field):
                        self.assertIs(expected, prefers_text(field))

    def test_range_with_malformed_weight_matches_nothing(self) -> None:
        # RFC 9110, section 12.4.2: from 0 to 1, and at most three digits after the point.
        for weight in (
            "2", "1.001", "10", "1e3", "1e-1", "inf", "infinity", "nan", "-1", "+1", "1_0", "0x1", ".5", "0.1234",
        ):  # fmt: skip
            with self.subTest(weight=weight):
                self.assertFalse(prefers_text(f"text/plain;q={weight}"))
                self.assertTrue(prefers_text(f"application/json;q={weight}, text/plain;q=0.5"))


class PageTest(unittest.TestCase):
    def test_browsers_and_explicit_preferences_get_a_page_and_programs_get_none(self) -> None:
        pages = (
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "text/html", "TEXT/HTML", "text/html;q=0.1", "text/html, application/json;q=0.9",
            # Lynx.
            "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01",
        )  # fmt: skip
        none = (
            None, "", "*/*", "application/json", "text/*", "application/json, */*;q=0.5", "text/plain",
            "text/html, application/json", "text/html, */*", "text/html;q=0.5, application/json;q=0.6",
            "text/html;q=0, */*;q=0", "text/html;q=0.5, text/plain", "text/html;q=2", "application/xhtml+xml, */*",
        )  # fmt: skip
        for expected, fields in ((True, pages), (False, none)):
            for field in fields:
                with self.subTest(field=field):
                    self.assertIs(expected, prefers_html(field))


class NamedTypeTest(unittest.TestCase):
    def test_type_is_named_by_itself_with_any_weight_but_0(self) -> None:
        named = ("a/b.v2", "A/B.V2", "a/b.v2;q=1", "a/b.v2; q=0.1", "a/b.v1, a/b.v2;q=0.5", "a/b.v2;charset=utf-8")
        others = (None, "", "*/*", "a/*", "a/b.v1", "a/b.v20", "a/b.v2;q=0", "a/b.v2; q=0.000, */*", "a/b.v2;q=2")
        for expected, fields in ((True, named), (False, others)):
            for field in fields:
                with self.subTest(field=field):
                    self.assertIs(expected, names_type(field, "a/b.v2"))
