"""Dates of HTTP (RFC 9110, section 5.6.7) and timestamps (RFC 3339).

Inside the package a date is whole seconds since 1970, UTC.

`strptime` and `strftime` are not used: their names of days and months are those of the process's locale. `formatdate`
has English names of its own.
"""

from __future__ import annotations

import calendar
import datetime
import functools
import re
import time
from email.utils import formatdate

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

# The end of the year 9999: later years have more digits than RFC 3339 allows.
_LAST_SECOND = 253_402_300_799

_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_TIME = "(?P<hour>[01][0-9]|2[0-3]):(?P<minute>[0-5][0-9]):(?P<second>[0-5][0-9]|60)"
# IMF-fixdate, and the two obsolete forms that a recipient must accept: of RFC 850, and of asctime.
_FORMATS = tuple(
    re.compile(form)
    for form in (
        rf"(?:{'|'.join(_DAYS)}), (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_TIME} GMT",
        rf"(?:{'|'.join(_LONG_DAYS)}), (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_TIME} GMT",
        rf"(?:{'|'.join(_DAYS)}) {_MONTH} (?P<day>[0-9 ][0-9]) {_TIME} (?P<year>[0-9]{{4}})",
    )
)

# RFC 3339, as S3 and this package write it: UTC, perhaps with a fraction.
_TIMESTAMP = re.compile(rf"(?P<year>[0-9]{{4}})-(?P<month>[0-9]{{2}})-(?P<day>[0-9]{{2}})T{_TIME}(?:\.[0-9]{{1,9}})?Z")


# 4,096 dates: each response has the current date, and popular objects share some thousand dates of storage.
@functools.lru_cache(4096)
def format_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def format_timestamp(seconds: int) -> str:
    """Return a time such as 2026-11-22T10:00:00Z (RFC 3339)."""
    year, month, day, hour, minute, second, *_ = time.gmtime(min(max(seconds, 0), _LAST_SECOND))
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"


def parse_date(field: str) -> int | None:
    """Return the seconds since 1970, or None for a malformed date: a condition with one is ignored."""
    for form in _FORMATS:
        matched = form.fullmatch(field)
        if matched is not None:
            return _seconds(matched, _MONTHS.index(matched["month"]) + 1)
    return None


def parse_timestamp(text: str) -> int | None:
    """Return the seconds since 1970 of a time such as 2026-11-22T10:00:00.000Z, or None."""
    matched = _TIMESTAMP.fullmatch(text)
    return None if matched is None else _seconds(matched, int(matched["month"]))


def _seconds(matched: re.Match[str], month: int) -> int | None:
    year, day, hour, minute, second = (int(matched[name]) for name in ("year", "day", "hour", "minute", "second"))
    if len(matched["year"]) == 2:
        # POSIX: 69 to 99 mean 1969 to 1999.
        year += 1900 if year >= 69 else 2000
    try:
        datetime.date(year, month, day)
    except ValueError:
        return None
    # A leap second is read as the first second of the next minute.
    return calendar.timegm((year, month, day, hour, minute, second))
