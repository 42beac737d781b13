"""Dates as HTTP writes them (RFC 9110, section 5.6.7). Inside, a date is whole seconds since 1970."""

from __future__ import annotations

import calendar
import functools
import time
from email.utils import formatdate
from typing import Optional

# What is written today, and the two obsolete forms that must still be read.
_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


# Objects asked for often were stored in a few thousand seconds, and every answer has the present one.
@functools.lru_cache(4096)
def format_date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def parse_date(field: str) -> Optional[int]:
    """Return the seconds that `field` names, or None where it is no date: such a condition is to be ignored."""
    for each in _FORMATS:
        try:
            return calendar.timegm(time.strptime(field, each))
        except ValueError:
            continue
    return None
