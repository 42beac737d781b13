"""What a log line looks like, also where a record has many."""

from __future__ import annotations

import logging
import sys
import unittest

from filestoraged.daemon.logs import JournalFormatter, LineFormatter


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("filestoraged", level, "file", 1, message, (), None)


class LineFormatterTest(unittest.TestCase):
    formatter = LineFormatter("%(levelname)s %(message)s")

    def test_each_line_of_a_message_has_the_prefix(self) -> None:
        self.assertEqual("INFO one\nINFO two", self.formatter.format(record("one\ntwo")))
        self.assertEqual("INFO one", self.formatter.format(record("one")))

    def test_traceback_follows_its_message(self) -> None:
        failed = record("it failed", logging.ERROR)
        try:
            raise ValueError("why")
        except ValueError:
            failed.exc_info = sys.exc_info()

        lines = self.formatter.format(failed).splitlines()

        self.assertEqual(["ERROR it failed", "Traceback (most recent call last):"], lines[:2])
        self.assertEqual("ValueError: why", lines[-1])

    def test_traceback_has_no_drop_id(self) -> None:
        failed = record("it failed", logging.ERROR)
        try:
            raise FileNotFoundError(2, "No such file", "/drops/01/" + "0123456789abcdef" * 2)
        except FileNotFoundError:
            failed.exc_info = sys.exc_info()

        self.assertTrue(self.formatter.format(failed).endswith("'/drops/01/***'"))


class JournalFormatterTest(unittest.TestCase):
    def test_each_line_for_the_journal_has_a_priority(self) -> None:
        formatter = JournalFormatter("%(message)s")

        self.assertEqual("<6>one\n<6>two", formatter.format(record("one\ntwo")))
        self.assertEqual("<3>bad", formatter.format(record("bad", logging.ERROR)))
