"""The table of errors: each class has a meaning and a status, and its message quotes no more than it may."""

from __future__ import annotations

import unittest
from collections.abc import Iterator

from filestoraged import command_errors
from filestoraged.client import refusals
from filestoraged.errors import (
    ERROR_NAMES,
    MAX_QUOTED,
    Error,
    MethodNotAllowed,
    MisdirectedRequest,
    Overloaded,
    RangeNotSatisfiable,
    StoreUnavailable,
    TooLarge,
    Unavailable,
    quoted,
)


def subclasses(family: type[Error]) -> Iterator[type[Error]]:
    for each in family.__subclasses__():
        yield each
        yield from subclasses(each)


class ErrorsTest(unittest.TestCase):
    def test_each_class_has_a_status_and_a_docstring_of_its_own(self) -> None:
        for each in subclasses(Error):
            with self.subTest(name=each.__name__):
                self.assertIn(each.status, range(400, 600))
                self.assertIn("__doc__", vars(each))
                self.assertTrue(each.__doc__)

    def test_names_are_those_of_all_classes_that_a_daemon_answers(self) -> None:
        ours = {
            each for each in subclasses(Error) if each.__module__ not in (command_errors.__name__, refusals.__name__)
        }

        self.assertEqual(sorted({each.__name__ for each in ours}), sorted(ERROR_NAMES))

    def test_too_large_with_declared_size_has_both_numbers(self) -> None:
        self.assertEqual("Content of 7 bytes exceeds the limit of 5 bytes.", str(TooLarge(5, size=7)))

    def test_too_large_without_declared_size_has_the_limit(self) -> None:
        self.assertEqual("Content exceeds the limit of 5 bytes.", str(TooLarge(5)))

    def test_message_quotes_the_offending_value_and_what_is_expected(self) -> None:
        self.assertEqual(
            "Method 'PATCH' is not allowed; expected GET, DELETE.", str(MethodNotAllowed("PATCH", ("GET", "DELETE")))
        )
        self.assertEqual(
            "Range 'bytes=9-' selects no bytes of the object, which has 5 bytes.",
            str(RangeNotSatisfiable("bytes=9-", 5)),
        )

    def test_message_quotes_a_long_value_only_up_to_the_bound(self) -> None:
        for error in (MethodNotAllowed("a" * 30_000, ("GET",)), MisdirectedRequest("a" * 30_000)):
            with self.subTest(error=type(error).__name__):
                self.assertLess(len(str(error)), MAX_QUOTED + 100)

    def test_unavailable_asks_for_a_retry_after_5_s(self) -> None:
        for error in (Unavailable("Busy."), StoreUnavailable(), Overloaded("Full.")):
            with self.subTest(error=type(error).__name__):
                self.assertEqual((("Retry-After", "5"),), error.fields)


class QuotedTest(unittest.TestCase):
    def test_short_value_is_quoted_whole(self) -> None:
        self.assertEqual(repr("a" * MAX_QUOTED), quoted("a" * MAX_QUOTED))

    def test_long_value_is_cut_and_marked(self) -> None:
        self.assertEqual(repr("a" * MAX_QUOTED) + "...", quoted("a" * (MAX_QUOTED + 1)))

    def test_control_characters_are_escaped(self) -> None:
        self.assertTrue(quoted("".join(map(chr, [*range(160), 0x202E, 0xD800]))).isprintable())
