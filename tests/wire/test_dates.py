"""HTTP dates, parsed and formatted."""

from __future__ import annotations

import datetime
import os
import time
import unittest
from unittest import mock

from filestoraged.wire.dates import format_date, format_timestamp, parse_date

# The example of RFC 9110, section 5.6.7, in its three forms.
MOMENT = 784111777
DATES = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")


class FormatTest(unittest.TestCase):
    def test_date_is_formatted_as_imf_fixdate(self) -> None:
        self.assertEqual("Sun, 06 Nov 1994 08:49:37 GMT", format_date(MOMENT))
        self.assertEqual("Thu, 01 Jan 1970 00:00:00 GMT", format_date(0))
        self.assertEqual("Thu, 29 Feb 2024 23:59:59 GMT", format_date(1709251199))
        self.assertEqual("Tue, 19 Jan 2038 03:14:08 GMT", format_date(2**31))

    def test_timestamp_is_formatted_as_rfc_3339_and_one_out_of_range_as_the_nearest(self) -> None:
        self.assertEqual("1994-11-06T08:49:37Z", format_timestamp(MOMENT))
        self.assertEqual(["1970-01-01T00:00:00Z"] * 2, [format_timestamp(seconds) for seconds in (0, -1)])
        self.assertEqual("9999-12-31T23:59:59Z", format_timestamp(2**62))

    def test_formatted_date_is_parsed_to_the_same_seconds(self) -> None:
        for seconds in (0, 1, MOMENT, 951782400, 1709251199, 2**31, 2**32, 253402300799):
            with self.subTest(seconds=seconds):
                self.assertEqual(seconds, parse_date(format_date(seconds)))


class ParseTest(unittest.TestCase):
    def test_all_three_forms_are_parsed(self) -> None:
        for field in DATES:
            self.assertEqual(MOMENT, parse_date(field))
        self.assertEqual(MOMENT + 10 * 86400, parse_date("Wed Nov 16 08:49:37 1994"))

    def test_all_months_are_parsed(self) -> None:
        months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

        read = [parse_date(f"Sun, 01 {month} 2023 00:00:00 GMT") for month in months]

        self.assertEqual(sorted(date for date in read if date is not None), read)
        self.assertEqual((1672531200, 1701388800), (read[0], read[-1]))

    def test_year_of_two_digits_is_between_1969_and_2068(self) -> None:
        self.assertEqual(parse_date("Fri, 01 Jan 1999 00:00:00 GMT"), parse_date("Friday, 01-Jan-99 00:00:00 GMT"))
        self.assertEqual(parse_date("Sat, 01 Jan 2022 00:00:00 GMT"), parse_date("Saturday, 01-Jan-22 00:00:00 GMT"))

    def test_leap_second_is_valid_and_a_leap_day_in_a_leap_year_alone(self) -> None:
        self.assertEqual(1709164800, parse_date("Thu, 29 Feb 2024 00:00:00 GMT"))
        self.assertIsNone(parse_date("Wed, 29 Feb 2023 00:00:00 GMT"))
        # RFC 9110, section 5.6.7: second = 2DIGIT, including 60.
        self.assertEqual(1483228800, parse_date("Sat, 31 Dec 2016 23:59:60 GMT"))

    def test_dates_do_not_depend_on_the_time_zone(self) -> None:
        self.addCleanup(time.tzset)
        with mock.patch.dict(os.environ, TZ="Pacific/Auckland"):
            time.tzset()

            self.assertEqual(MOMENT, parse_date("Sun, 06 Nov 1994 08:49:37 GMT"))
            self.assertEqual("Sun, 06 Nov 1994 08:49:37 GMT", format_date(MOMENT))

    def test_dates_are_parsed_and_formatted_without_the_names_of_the_locale(self) -> None:
        # `time.strptime` and `datetime.strptime` both call `_strptime`, and both `strftime` the one of `time`. Under
        # de_DE, they know "So" and "Mai" in place of "Sun" and "May"; installed locales depend on the machine.
        with (
            mock.patch("_strptime._strptime", side_effect=AssertionError),
            mock.patch("time.strftime", side_effect=AssertionError),
        ):
            self.assertRaises(AssertionError, datetime.datetime.strptime, "Sun", "%a")
            self.assertRaises(AssertionError, time.strptime, "Sun", "%a")
            self.assertRaises(AssertionError, datetime.date(1994, 11, 6).strftime, "%a")

            for field in DATES:
                self.assertEqual(MOMENT, parse_date(field))
            format_date.cache_clear()
            self.assertEqual("Sun, 06 Nov 1994 08:49:37 GMT", format_date(MOMENT))

    def test_malformed_date_returns_none(self) -> None:
        fields = (
            "", " ", "0", "784111777", "yesterday", "Sun, 06 Nov 1994", "08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC", "Sun, 06 Nov 1994 08:49:37 +0000", "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 08:49:37 GMT+1", "Sun, 06 Nov 1994 08:49:37 GMT x", "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT", "Sun, 06-Nov-1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 31 Nov 1994 08:49:37 GMT", "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:60:37 GMT", "Sun, 06 Nov 1994 08:49:99 GMT", "Sun, 06 Now 1994 08:49:37 GMT",
            "Son, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT", "Sun, 06 Nov -994 08:49:37 GMT",
            "Sun, 06 Nov 19940 08:49:37 GMT", "1994-11-06T08:49:37Z", "1994-11-06 08:49:37",
            '"Sun, 06 Nov 1994 08:49:37 GMT"', "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, \xb2 Nov 1994 08:49:37 GMT", "\x00", "%d", "9" * 30000, " " * 30000,
            "Sun," + " " * 32000 + "x", "Sun, 06" + " " * 32000, "Sun Nov" + " " * 32000 + "x",
        )  # fmt: skip
        for field in fields:
            with self.subTest(field=field[:60]):
                self.assertIsNone(parse_date(field))
