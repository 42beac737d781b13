"""Byte ranges: the Range field against the size of an object (RFC 9110, section 14)."""

from __future__ import annotations

import re

from filestoraged.errors import RangeNotSatisfiable

_UNIT = re.compile(r"bytes=(.*)", re.IGNORECASE | re.ASCII)
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")

# Larger than any object; 19 digits convert to int in constant time.
_MAX_POSITION = 10**18
_MAX_DIGITS = 19


def parse_range(field: str, size: int) -> tuple[int, int] | None:
    """Resolve a Range field against an object of `size` bytes.

    Returns a half-open (start, stop) in bytes, or None where the field is ignored and the whole object sent: malformed,
    another unit, or several ranges.

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
    first, last = (_position(digits) for digits in matched.groups())
    if first is None:
        return None if last is None else _resolve_suffix(field, last, size)
    if last is not None and last < first:
        return None
    if first >= size:
        raise RangeNotSatisfiable(field, size)
    return first, size if last is None else min(last + 1, size)


def _resolve_suffix(field: str, length: int, size: int) -> tuple[int, int] | None:
    if length == 0:
        raise RangeNotSatisfiable(field, size)
    # A suffix of an empty object is satisfiable, but no Content-Range can express zero bytes.
    return (max(0, size - length), size) if size else None


def _position(digits: str) -> int | None:
    """Return the number, at most _MAX_POSITION, or None for no digits."""
    return min(int(digits.lstrip("0")[:_MAX_DIGITS] or "0"), _MAX_POSITION) if digits else None
