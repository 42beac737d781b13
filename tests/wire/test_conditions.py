"""Conditional requests: each field of RFC 9110, section 13, alone, and their precedence."""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Mapping

from filestoraged.errors import PreconditionFailed
from filestoraged.wire.conditions import (
    check_preconditions,
    forbids_overwrite,
    if_range_holds,
    matches_if_none_match,
    must_send,
)
from filestoraged.wire.dates import format_date

TAG = "abcdef"
MODIFIED = 784111777
SAME = format_date(MODIFIED)
BEFORE = format_date(MODIFIED - 1)
AFTER = format_date(MODIFIED + 1)

# If-None-Match and If-Match: lists that match the tag by strong comparison, by weak comparison alone, and not at all.
STRONG = (
    '"abcdef"', '"x", "abcdef"', '"abcdef","x"', 'W/"x" ,\t"abcdef" , "y"', ', ,"abcdef",', '"a,b", "abcdef"',
    '"", "abcdef"',
)  # fmt: skip
WEAK = ('W/"abcdef"', '"x", W/"abcdef"', 'W/"abcdef", W/"x"')
OTHERS = (
    '"x"', '""', 'W/"x"', '"ABCDEF"', '"abcde"', '"abcdefg"', '"abc,def"', '"*"', "", ",", '"x", "y"', '"x,abcdef"',
)  # fmt: skip
MALFORMED = (
    "abcdef", '"abcdef', 'abcdef"', "'abcdef'", 'w/"abcdef"', 'W"abcdef"', 'W/ "abcdef"', "**", '* "x"', '"abcdef"x',
)  # fmt: skip


class ConditionsCase(unittest.TestCase):
    def status_of(self, **fields: str) -> str:
        """Return the status of a GET with these conditions of an object with TAG, stored at MODIFIED."""
        try:
            named = {name.replace("_", "-"): value for name, value in fields.items()}
            return "200" if must_send(named, TAG, MODIFIED) else "304"
        except PreconditionFailed as error:
            return str(error.status)


class FieldsTest(ConditionsCase):
    def assert_status(self, status: str, name: str, rules: Mapping[str, tuple[str, ...]]) -> None:
        for rule, fields in rules.items():
            for field in fields:
                with self.subTest(rule, field=field):
                    self.assertEqual(status, self.status_of(**{name: field}))

    def test_if_none_match_answers_304_for_the_current_copy_alone(self) -> None:
        # Section 13.1.2: the comparison is weak. Section 8.8.3: etagc.
        tagged = tuple(f'"{chr(code)}", "abcdef"' for code in (0x21, *range(0x23, 0x7F), *range(0x80, 0x100)))
        known = {"current copy": (*STRONG, *WEAK, "*", " * "), "every character of etagc": tagged}
        lists = ('"abcdef" "x"', '"abcdef", x', 'x, "abcdef"', '*, "abcdef"', '"abcdef", *', '"a bcdef", "abcdef"')

        self.assert_status("304", "if_none_match", known)
        self.assert_status("200", "if_none_match", {"other copy": OTHERS, "malformed list": (*MALFORMED, *lists)})

    def test_if_match_answers_412_for_all_but_the_current_copy(self) -> None:
        # Section 13.1.1: the comparison is strong.
        self.assert_status("200", "if_match", {"current copy": (*STRONG, "*")})
        self.assert_status("412", "if_match", {"weak": WEAK, "other copy": OTHERS, "malformed": MALFORMED})

    def test_if_modified_since_answers_304_for_an_object_that_is_not_newer(self) -> None:
        obsolete = ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
        malformed = ("", "0", "now", '"abcdef"', f"{AFTER}, {AFTER}", AFTER.replace("GMT", "CET"))

        self.assert_status("304", "if_modified_since", {"stored earlier": (SAME, AFTER), "obsolete form": obsolete})
        newer = {"stored later": (BEFORE, "Sun Nov  6 08:49:36 1994"), "a malformed date is ignored": malformed}
        self.assert_status("200", "if_modified_since", newer)

    def test_if_unmodified_since_answers_412_for_a_newer_object(self) -> None:
        malformed = ("", "0", "long ago", BEFORE.replace("GMT", "+0000"))

        kept = {"stored earlier": (SAME, AFTER), "a malformed date is ignored": malformed}
        self.assert_status("200", "if_unmodified_since", kept)
        self.assert_status("412", "if_unmodified_since", {"stored later": (BEFORE,)})

    def test_empty_list_members_are_ignored_in_any_place(self) -> None:
        # RFC 9110, section 5.6.1.2. A second, empty field is joined to the first, so that the list ends with a blank.
        members = {"empty": ('"abcdef", ', '"abcdef",\t', '"abcdef", , ', ' , "abcdef"', '"abcdef" , ,"x"')}

        self.assert_status("304", "if_none_match", members)
        self.assert_status("200", "if_match", members)


class PrecedenceTest(ConditionsCase):
    def test_request_without_conditions_answers_200(self) -> None:
        self.assertEqual("200", self.status_of())

    def test_conditions_are_evaluated_in_the_order_of_section_13_2_2(self) -> None:
        matches = {None: None, '"abcdef"': True, '"x"': False}
        dates = {None: None, AFTER: True, BEFORE: False}
        rows = itertools.product(matches.items(), dates.items(), matches.items(), dates.items())
        for (match, matched), (unmodified, unchanged), (none_match, known), (modified, current) in rows:
            given = {
                "if_match": match,
                "if_unmodified_since": unmodified,
                "if_none_match": none_match,
                "if_modified_since": modified,
            }
            # Steps 1 and 2, then steps 3 and 4; the date of each pair counts only without a tag.
            precondition = unchanged if matched is None else matched
            cached = current if known is None else known
            expected = "412" if precondition is False else "304" if cached else "200"

            with self.subTest(**given):
                self.assertEqual(expected, self.status_of(**{name: value for name, value in given.items() if value}))

    def test_check_preconditions_evaluates_if_match_and_if_unmodified_since_alone(self) -> None:
        check_preconditions({"if-none-match": "*", "if-modified-since": AFTER}, TAG, MODIFIED)
        check_preconditions({"if-match": '"abcdef"'}, TAG, MODIFIED)

        self.assertRaises(PreconditionFailed, check_preconditions, {"if-match": '"x"'}, TAG, MODIFIED)
        self.assertRaises(PreconditionFailed, check_preconditions, {"if-unmodified-since": BEFORE}, TAG, MODIFIED)


class IfRangeTest(unittest.TestCase):
    def test_range_applies_with_the_current_tag_or_the_exact_date_alone(self) -> None:
        applies = {"current tag": ('"abcdef"',), "exact date": (SAME, "Sunday, 06-Nov-94 08:49:37 GMT")}
        ignored = {
            "another tag": ('"x"', '""', '"ABCDEF"', '"abcdefg"'),
            # Section 13.1.5: the comparison is strong.
            "weak tag": ('W/"abcdef"', 'W/"x"'),
            "another date": (BEFORE, AFTER),
            "malformed": ("", "*", "abcdef", '"abcdef', '"abcdef", "x"', f'{SAME} "abcdef"', "now", "0"),
        }

        self.assertTrue(if_range_holds({}, TAG, MODIFIED))
        for expected, rules in ((True, applies), (False, ignored)):
            for rule, fields in rules.items():
                for field in fields:
                    with self.subTest(rule, field=field):
                        self.assertIs(expected, if_range_holds({"if-range": field}, TAG, MODIFIED))


class UploadTest(unittest.TestCase):
    def test_if_none_match_asterisk_alone_forbids_overwrite(self) -> None:
        self.assertTrue(forbids_overwrite({"if-none-match": "*"}))
        for field in ('"abcdef"', "", '"*"'):
            self.assertFalse(forbids_overwrite({"if-none-match": field}))
        self.assertEqual([False] * 2, [forbids_overwrite({}), forbids_overwrite({"if-match": "*"})])

    def test_weak_tag_matches_if_none_match(self) -> None:
        self.assertTrue(matches_if_none_match({"if-none-match": 'W/"abcdef"'}, TAG))
        self.assertFalse(matches_if_none_match({"if-none-match": '"x"'}, TAG))
        self.assertFalse(matches_if_none_match({}, TAG))


class LongFieldTest(unittest.TestCase):
    def test_long_field_of_other_or_malformed_tags_does_not_match(self) -> None:
        # As long as a head may be.
        fields = (
            '"a",' * 8000, "," * 32000, " " * 32000 + "x", '"' + "a" * 32000, '"a"' + " " * 32000 + "x", 'W/"' * 10000,
        )  # fmt: skip
        for field in fields:
            with self.subTest(field=field[:10]):
                self.assertTrue(must_send({"if-none-match": field}, TAG, MODIFIED))
                self.assertFalse(if_range_holds({"if-range": field}, TAG, MODIFIED))
