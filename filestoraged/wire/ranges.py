"""Ranges of bytes: the Range field against an object's size. RFC 9110, section 14."""

from __future__ import annotations

import re

from filestoraged.errors import RangeNotSatisfiable

_UNIT = re.compile(r"bytes=(.*)", re.IGNORECASE | re.ASCII)
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")


def parse_range(field: str, size: int) -> tuple[int, int] | None:
    """Resolve a Range header against an object of `size` bytes.

    Returns a half-open (start, stop) in bytes, or None where the header is to be ignored: malformed,
    another unit, or several ranges, which we answer whole.

    Raises RangeNotSatisfiable when it starts at or past the end.
    RFC 9110, sections 14.1.2 and 14.2.
    """
    unit = _UNIT.fullmatch(field)
    if unit is None:
        return None
    ranges = [each for each in (part.strip(" \t") for part in unit.group(1).split(",")) if each]
    matched = _RANGE.fullmatch(ranges[0]) if len(ranges) == 1 else None
    if matched is None:
        return None
    first, last = (_number(digits) for digits in matched.groups())
    if first is None:
        return _suffix(last, size)
    if last is not None and last < first:
        return None
    if first >= size:
        raise RangeNotSatisfiable(size)
    return first, size if last is None else min(last + 1, size)


def _suffix(length: int | None, size: int) -> tuple[int, int] | None:
    if length is None:
        return None
    if length == 0:
        raise RangeNotSatisfiable(size)
    # The last bytes of an empty object are all of it, which no 206 can say.
    return (max(0, size - length), size) if size else None


def _number(digits: str) -> int | None:
    # No object has 10^18 bytes: from there on, all numbers are as good as one, and none needs a long conversion.
    return min(int(digits.lstrip("0")[:19] or "0"), 10**18) if digits else None
