"""Dates as HTTP writes them (RFC 9110, section 5.6.7). Inside, a date is whole seconds since 1970."""

from __future__ import annotations

import calendar
import datetime
import functools
import re
from email.utils import formatdate

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# What is written today, and the two obsolete forms that must still be read. Not by `strptime`, whose names of days and
# months are those of the process's locale.
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
_FORMATS = tuple(
    re.compile(form)
    for form in (
        rf"(?:{'|'.join(_DAYS)}), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"(?:{'|'.join(_LONG_DAYS)}), (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"(?:{'|'.join(_DAYS)}) {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)


# Objects asked for often were stored in a few thousand seconds, and every answer has the present one.
@functools.lru_cache(4096)
def format_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def parse_date(field: str) -> int | None:
    """Return the seconds that `field` names, or None where it is no date: such a condition is to be ignored."""
    for form in _FORMATS:
        matched = form.fullmatch(field)
        if matched is not None:
            return _seconds(matched)
    return None


def _seconds(matched: re.Match[str]) -> int | None:
    year, day, hour, minute, second = (int(matched[name]) for name in ("year", "day", "hour", "minute", "second"))
    month = _MONTHS.index(matched["month"]) + 1
    if len(matched["year"]) == 2:
        # As POSIX has it: 69 to 99 are of the last century.
        year += 1900 if year >= 69 else 2000
    try:
        datetime.date(year, month, day)
    except ValueError:
        return None
    # A leap second is the first of the next minute.
    return calendar.timegm((year, month, day, hour, minute, second))
