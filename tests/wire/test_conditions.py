"""Conditional requests: each field of RFC 9110, section 13, alone, and their precedence."""

from __future__ import annotations

import itertools
import unittest

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


class IfNoneMatchTest(ConditionsCase):
    def test_current_copy_answers_304(self) -> None:
        # The comparison is weak: section 13.1.2.
        for field in (*STRONG, *WEAK, "*", " * "):
            with self.subTest(field=field):
                self.assertEqual("304", self.status_of(if_none_match=field))

    def test_other_copy_answers_200(self) -> None:
        for field in OTHERS:
            with self.subTest(field=field):
                self.assertEqual("200", self.status_of(if_none_match=field))

    def test_every_character_of_etagc_is_parsed(self) -> None:
        # Section 8.8.3: etagc.
        for code in (0x21, *range(0x23, 0x7F), *range(0x80, 0x100)):
            with self.subTest(code=code):
                self.assertEqual("304", self.status_of(if_none_match=f'"{chr(code)}", "abcdef"'))

    def test_malformed_list_matches_nothing(self) -> None:
        for field in (
            *MALFORMED,
            '"abcdef" "x"',
            '"abcdef", x',
            'x, "abcdef"',
            '*, "abcdef"',
            '"abcdef", *',
            '"a bcdef", "abcdef"',
        ):
            with self.subTest(field=field):
                self.assertEqual("200", self.status_of(if_none_match=field))

    def test_date_beside_the_tags_is_ignored(self) -> None:
        # Section 13.1.3.
        self.assertEqual("200", self.status_of(if_none_match='"x"', if_modified_since=AFTER))
        self.assertEqual("304", self.status_of(if_none_match='"abcdef"', if_modified_since=BEFORE))


class EmptyMembersTest(ConditionsCase):
    def test_empty_list_members_are_ignored_in_any_place(self) -> None:
        # RFC 9110, section 5.6.1.2. A second, empty field is joined to the first, so that the list ends with a blank.
        for field in ('"abcdef", ', '"abcdef",\t', '"abcdef", , ', ' , "abcdef"', '"abcdef" , ,"x"'):
            with self.subTest(field=field):
                self.assertEqual("304", self.status_of(if_none_match=field))
                self.assertEqual("200", self.status_of(if_match=field))


class IfModifiedSinceTest(ConditionsCase):
    def test_object_stored_later_answers_200(self) -> None:
        self.assertEqual("200", self.status_of(if_modified_since=BEFORE))

    def test_object_stored_earlier_answers_304(self) -> None:
        self.assertEqual("304", self.status_of(if_modified_since=SAME))
        self.assertEqual("304", self.status_of(if_modified_since=AFTER))

    def test_obsolete_date_forms_are_parsed(self) -> None:
        self.assertEqual("304", self.status_of(if_modified_since="Sunday, 06-Nov-94 08:49:37 GMT"))
        self.assertEqual("304", self.status_of(if_modified_since="Sun Nov  6 08:49:37 1994"))
        self.assertEqual("200", self.status_of(if_modified_since="Sun Nov  6 08:49:36 1994"))

    def test_malformed_date_is_ignored(self) -> None:
        for field in ("", "0", "now", '"abcdef"', f"{AFTER}, {AFTER}", AFTER.replace("GMT", "CET")):
            with self.subTest(field=field):
                self.assertEqual("200", self.status_of(if_modified_since=field))


class IfMatchTest(ConditionsCase):
    def test_matching_tag_answers_200(self) -> None:
        for field in (*STRONG, "*"):
            with self.subTest(field=field):
                self.assertEqual("200", self.status_of(if_match=field))

    def test_other_tag_answers_412(self) -> None:
        # The comparison is strong: section 13.1.1.
        for field in (*WEAK, *OTHERS, *MALFORMED):
            with self.subTest(field=field):
                self.assertEqual("412", self.status_of(if_match=field))

    def test_date_beside_the_tags_is_ignored(self) -> None:
        # Section 13.1.4.
        self.assertEqual("200", self.status_of(if_match='"abcdef"', if_unmodified_since=BEFORE))
        self.assertEqual("412", self.status_of(if_match='"x"', if_unmodified_since=AFTER))


class IfUnmodifiedSinceTest(ConditionsCase):
    def test_object_stored_earlier_answers_200(self) -> None:
        self.assertEqual("200", self.status_of(if_unmodified_since=SAME))
        self.assertEqual("200", self.status_of(if_unmodified_since=AFTER))

    def test_object_stored_later_answers_412(self) -> None:
        self.assertEqual("412", self.status_of(if_unmodified_since=BEFORE))

    def test_malformed_date_is_ignored(self) -> None:
        for field in ("", "0", "long ago", BEFORE.replace("GMT", "+0000")):
            with self.subTest(field=field):
                self.assertEqual("200", self.status_of(if_unmodified_since=field))


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
    def assert_holds(self, expected: bool, *fields: str) -> None:
        for field in fields:
            with self.subTest(field=field):
                self.assertIs(expected, if_range_holds({"if-range": field}, TAG, MODIFIED))

    def test_range_without_if_range_applies(self) -> None:
        self.assertTrue(if_range_holds({}, TAG, MODIFIED))

    def test_range_with_the_current_tag_applies(self) -> None:
        self.assert_holds(True, '"abcdef"')

    def test_range_with_another_tag_is_ignored(self) -> None:
        self.assert_holds(False, '"x"', '""', '"ABCDEF"', '"abcdefg"')

    def test_range_with_a_weak_tag_is_ignored(self) -> None:
        # Section 13.1.5: the comparison is strong.
        self.assert_holds(False, 'W/"abcdef"', 'W/"x"')

    def test_range_with_the_exact_date_applies(self) -> None:
        self.assert_holds(True, SAME, "Sunday, 06-Nov-94 08:49:37 GMT")
        self.assert_holds(False, BEFORE, AFTER)

    def test_range_with_a_malformed_condition_is_ignored(self) -> None:
        self.assert_holds(False, "", "*", "abcdef", '"abcdef', '"abcdef", "x"', f'{SAME} "abcdef"', "now", "0")


class UploadTest(unittest.TestCase):
    def test_if_none_match_asterisk_forbids_overwrite(self) -> None:
        self.assertTrue(forbids_overwrite({"if-none-match": "*"}))

    def test_other_conditions_allow_overwrite(self) -> None:
        for fields in (
            {},
            {"if-none-match": '"abcdef"'},
            {"if-none-match": ""},
            {"if-none-match": '"*"'},
            {"if-match": "*"},
        ):
            with self.subTest(fields=fields):
                self.assertFalse(forbids_overwrite(fields))

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
