"""Conditional requests: RFC 9110's section 13, one row of a table at a time."""

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

# If-None-Match and If-Match: lists that name the tag by a strong comparison, by a weak one alone, and not at all.
STRONG = (
    '"abcdef"',
    '"x", "abcdef"',
    '"abcdef","x"',
    'W/"x" ,\t"abcdef" , "y"',
    ', ,"abcdef",',
    '"a,b", "abcdef"',
    '"", "abcdef"',
)
WEAK = ('W/"abcdef"', '"x", W/"abcdef"', 'W/"abcdef", W/"x"')
OTHERS = (
    '"x"',
    '""',
    'W/"x"',
    '"ABCDEF"',
    '"abcde"',
    '"abcdefg"',
    '"abc,def"',
    '"*"',
    "",
    ",",
    '"x", "y"',
    '"x,abcdef"',
)
MALFORMED = (
    "abcdef",
    '"abcdef',
    'abcdef"',
    "'abcdef'",
    'w/"abcdef"',
    'W"abcdef"',
    'W/ "abcdef"',
    "**",
    '* "x"',
    '"abcdef"x',
)


class CaseOfConditions(unittest.TestCase):
    def judge(self, **fields: str) -> str:
        """What a GET with these conditions is answered, for an object with TAG stored at MODIFIED."""
        try:
            named = {name.replace("_", "-"): value for name, value in fields.items()}
            return "200" if must_send(named, TAG, MODIFIED) else "304"
        except PreconditionFailed as error:
            return str(error.status)


class IfNoneMatchTest(CaseOfConditions):
    def test_who_has_the_object_is_not_sent_it(self) -> None:
        # The comparison is weak: section 13.1.2.
        for field in (*STRONG, *WEAK, "*", " * "):
            with self.subTest(field=field):
                self.assertEqual("304", self.judge(if_none_match=field))

    def test_who_has_another_is_sent_it(self) -> None:
        for field in OTHERS:
            with self.subTest(field=field):
                self.assertEqual("200", self.judge(if_none_match=field))

    def test_every_character_that_a_tag_may_have_is_read(self) -> None:
        # Section 8.8.3: etagc.
        for code in (0x21, *range(0x23, 0x7F), *range(0x80, 0x100)):
            with self.subTest(code=code):
                self.assertEqual("304", self.judge(if_none_match=f'"{chr(code)}", "abcdef"'))

    def test_a_malformed_list_names_nothing(self) -> None:
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
                self.assertEqual("200", self.judge(if_none_match=field))

    def test_a_date_beside_it_is_ignored(self) -> None:
        # Section 13.1.3.
        self.assertEqual("200", self.judge(if_none_match='"x"', if_modified_since=AFTER))
        self.assertEqual("304", self.judge(if_none_match='"abcdef"', if_modified_since=BEFORE))


class EmptyMembersTest(CaseOfConditions):
    def test_empty_members_of_a_list_change_nothing_wherever_they_stand(self) -> None:
        # RFC 9110, section 5.6.1.2. A head joins a second field that is empty so that the list ends with a blank.
        for field in ('"abcdef", ', '"abcdef",\t', '"abcdef", , ', ' , "abcdef"', '"abcdef" , ,"x"'):
            with self.subTest(field=field):
                self.assertEqual("304", self.judge(if_none_match=field))
                self.assertEqual("200", self.judge(if_match=field))


class IfModifiedSinceTest(CaseOfConditions):
    def test_what_was_stored_later_is_sent(self) -> None:
        self.assertEqual("200", self.judge(if_modified_since=BEFORE))

    def test_what_was_stored_by_then_is_not_sent(self) -> None:
        self.assertEqual("304", self.judge(if_modified_since=SAME))
        self.assertEqual("304", self.judge(if_modified_since=AFTER))

    def test_the_obsolete_forms_of_a_date_are_understood(self) -> None:
        self.assertEqual("304", self.judge(if_modified_since="Sunday, 06-Nov-94 08:49:37 GMT"))
        self.assertEqual("304", self.judge(if_modified_since="Sun Nov  6 08:49:37 1994"))
        self.assertEqual("200", self.judge(if_modified_since="Sun Nov  6 08:49:36 1994"))

    def test_what_is_no_date_is_ignored(self) -> None:
        for field in ("", "0", "now", '"abcdef"', f"{AFTER}, {AFTER}", AFTER.replace("GMT", "CET")):
            with self.subTest(field=field):
                self.assertEqual("200", self.judge(if_modified_since=field))


class IfMatchTest(CaseOfConditions):
    def test_who_means_the_object_is_sent_it(self) -> None:
        for field in (*STRONG, "*"):
            with self.subTest(field=field):
                self.assertEqual("200", self.judge(if_match=field))

    def test_who_means_another_is_refused(self) -> None:
        # The comparison is strong: section 13.1.1.
        for field in (*WEAK, *OTHERS, *MALFORMED):
            with self.subTest(field=field):
                self.assertEqual("412", self.judge(if_match=field))

    def test_a_date_beside_it_is_ignored(self) -> None:
        # Section 13.1.4.
        self.assertEqual("200", self.judge(if_match='"abcdef"', if_unmodified_since=BEFORE))
        self.assertEqual("412", self.judge(if_match='"x"', if_unmodified_since=AFTER))


class IfUnmodifiedSinceTest(CaseOfConditions):
    def test_what_was_stored_by_then_is_sent(self) -> None:
        self.assertEqual("200", self.judge(if_unmodified_since=SAME))
        self.assertEqual("200", self.judge(if_unmodified_since=AFTER))

    def test_what_was_stored_later_is_refused(self) -> None:
        self.assertEqual("412", self.judge(if_unmodified_since=BEFORE))

    def test_what_is_no_date_is_ignored(self) -> None:
        for field in ("", "0", "long ago", BEFORE.replace("GMT", "+0000")):
            with self.subTest(field=field):
                self.assertEqual("200", self.judge(if_unmodified_since=field))


class PrecedenceTest(CaseOfConditions):
    def test_no_condition_is_a_plain_request(self) -> None:
        self.assertEqual("200", self.judge())

    def test_conditions_are_judged_in_the_order_of_section_13_2_2(self) -> None:
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
            # Steps 1 and 2, then steps 3 and 4; the date of each pair is asked only where there is no tag.
            precondition = unchanged if matched is None else matched
            cached = current if known is None else known
            expected = "412" if precondition is False else "304" if cached else "200"

            with self.subTest(**given):
                self.assertEqual(expected, self.judge(**{name: value for name, value in given.items() if value}))

    def test_a_change_is_judged_by_the_same_two_conditions_alone(self) -> None:
        check_preconditions({"if-none-match": "*", "if-modified-since": AFTER}, TAG, MODIFIED)
        check_preconditions({"if-match": '"abcdef"'}, TAG, MODIFIED)

        self.assertRaises(PreconditionFailed, check_preconditions, {"if-match": '"x"'}, TAG, MODIFIED)
        self.assertRaises(PreconditionFailed, check_preconditions, {"if-unmodified-since": BEFORE}, TAG, MODIFIED)


class IfRangeTest(unittest.TestCase):
    def assert_holds(self, expected: bool, *fields: str) -> None:
        for field in fields:
            with self.subTest(field=field):
                self.assertIs(expected, if_range_holds({"if-range": field}, TAG, MODIFIED))

    def test_without_it_a_range_is_honoured(self) -> None:
        self.assertTrue(if_range_holds({}, TAG, MODIFIED))

    def test_the_tag_of_what_is_here_holds(self) -> None:
        self.assert_holds(True, '"abcdef"')

    def test_another_tag_does_not_hold(self) -> None:
        self.assert_holds(False, '"x"', '""', '"ABCDEF"', '"abcdefg"')

    def test_a_weak_tag_does_not_hold(self) -> None:
        # Section 13.1.5: the comparison is strong.
        self.assert_holds(False, 'W/"abcdef"', 'W/"x"')

    def test_the_very_date_holds_and_no_other(self) -> None:
        self.assert_holds(True, SAME, "Sunday, 06-Nov-94 08:49:37 GMT")
        self.assert_holds(False, BEFORE, AFTER)

    def test_anything_else_does_not_hold(self) -> None:
        self.assert_holds(False, "", "*", "abcdef", '"abcdef', '"abcdef", "x"', f'{SAME} "abcdef"', "now", "0")


class UploadTest(unittest.TestCase):
    def test_an_asterisk_asks_for_a_new_object(self) -> None:
        self.assertTrue(forbids_overwrite({"if-none-match": "*"}))

    def test_anything_else_does_not(self) -> None:
        for fields in (
            {},
            {"if-none-match": '"abcdef"'},
            {"if-none-match": ""},
            {"if-none-match": '"*"'},
            {"if-match": "*"},
        ):
            with self.subTest(fields=fields):
                self.assertFalse(forbids_overwrite(fields))

    def test_a_tag_may_be_known_beforehand(self) -> None:
        self.assertTrue(matches_if_none_match({"if-none-match": 'W/"abcdef"'}, TAG))
        self.assertFalse(matches_if_none_match({"if-none-match": '"x"'}, TAG))
        self.assertFalse(matches_if_none_match({}, TAG))


class LongFieldTest(unittest.TestCase):
    def test_long_field_of_other_or_malformed_tags_does_not_match(self) -> None:
        # As long as a head may be.
        fields = (
            '"a",' * 8000,
            "," * 32000,
            " " * 32000 + "x",
            '"' + "a" * 32000,
            '"a"' + " " * 32000 + "x",
            'W/"' * 10000,
        )
        for field in fields:
            with self.subTest(field=field[:10]):
                self.assertTrue(must_send({"if-none-match": field}, TAG, MODIFIED))
                self.assertFalse(if_range_holds({"if-range": field}, TAG, MODIFIED))
