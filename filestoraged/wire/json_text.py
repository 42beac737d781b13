"""JSON, validated strictly; as text, it is passed on as received, so that no digit of a number is lost.

RFC 8259, with the choices that it leaves to a parser: no duplicate names in an object, no lone surrogates, no byte
order mark, at most 100 levels of nesting.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import accumulate
from typing import Any, NoReturn

from filestoraged.errors import BadRequest, quoted

# The decoder recurses once per level: 100 are far below Python's recursion limit and far above a document's needs.
_MAX_DEPTH = 100

# `parse_object` replaces integers of more characters, which no protocol needs, by this one or its negative: to convert
# a million digits takes minutes.
_MAX_DIGITS = 30
_HUGE_INTEGER: int = 10**_MAX_DIGITS

_SPACE = r"[ \t\n\r]*"
_BEGIN_STRING = re.compile(rf'{_SPACE}(?=")')
_BEGIN_PAIR = re.compile(rf'{_SPACE}\{{{_SPACE}(?=")')
_COLON = re.compile(rf"{_SPACE}:{_SPACE}")
_END_STRING = re.compile(_SPACE)
_END_PAIR = re.compile(rf"{_SPACE}\}}{_SPACE}")

# Most bodies: a string without escapes as the name, and a value without escapes or parts.
_CHARACTERS = r'"[^"\\\x00-\x1f]*"'
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_PLAIN_PAIR = re.compile(
    rf"{_SPACE}\{{{_SPACE}({_CHARACTERS}){_SPACE}:{_SPACE}({_CHARACTERS}|{_NUMBER}|true|false|null){_SPACE}\}}{_SPACE}"
)

_NO_BRACKETS = re.compile(r"[^\[{\]}]+")


def parse_pair(data: bytes) -> tuple[str, bytes]:
    """Parse an object of exactly one pair. Returns the name, and the value as JSON text. Raises BadRequest."""
    try:
        text = data.decode()
        plain = _PLAIN_PAIR.fullmatch(text)
        if plain is not None:
            return plain[1][1:-1], plain[2].encode()
        _check_depth(text)
        name, stop = _DECODER.raw_decode(text, _match(_BEGIN_PAIR, text, 0))
        start = _match(_COLON, text, stop)
        value, stop = _DECODER.raw_decode(text, start)
        _check_end(_END_PAIR, text, stop)
        _check_surrogates(text, [name, value])
    except ValueError as error:
        raise BadRequest(f"Invalid body, {_reason(error)}: expected a JSON object of exactly one pair.") from error
    return name, text[start:stop].encode()


def parse_string(data: bytes) -> str:
    """Parse a string. Raises BadRequest."""
    try:
        text = data.decode()
        value, stop = _DECODER.raw_decode(text, _match(_BEGIN_STRING, text, 0))
        _check_end(_END_STRING, text, stop)
        _check_surrogates(text, value)
    except ValueError as error:
        raise BadRequest(f"Invalid body, {_reason(error)}: expected a JSON string.") from error
    return str(value)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object into Python's values. Integers are exact up to 30 characters. Raises BadRequest."""
    try:
        text = data.decode()
        _check_depth(text)
        value = _VALUES.decode(text)
        _check_surrogates(text, value)
    except ValueError as error:
        raise BadRequest(f"Invalid body, {_reason(error)}: expected a JSON object.") from error
    if not isinstance(value, dict):
        raise BadRequest("Invalid body: expected a JSON object.")
    return value


def encode_pair(name: str, value: bytes) -> bytes:
    """Return an object of one pair; `value` is JSON text."""
    return b"{%b: %b}" % (json.dumps(name, ensure_ascii=False).encode(), value)


def _match(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where the match of `pattern` at `start` ends. Raises ValueError."""
    found = pattern.match(text, start)
    if found is None:
        raise ValueError(f"syntax error at offset {start}")
    return found.end()


def _check_end(pattern: re.Pattern[str], text: str, start: int) -> None:
    end = _match(pattern, text, start)
    if end != len(text):
        raise ValueError(f"unexpected text at offset {end}")


def _check_depth(text: str) -> None:
    """Raise ValueError for too many levels of nesting, before the recursive decoder sees the text.

    Each step is one linear pass over the text. A regular expression for strings is not linear: where a closing quote is
    missing, it may search to the end from each quote, and it stores a position for each escape.
    """
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    # Every other piece is the content of a string, whose brackets do not count.
    brackets = _NO_BRACKETS.sub("", "".join(unescaped.split('"')[::2]))
    if max(accumulate(map(_LEVELS.__getitem__, brackets)), default=0) > _MAX_DEPTH:
        raise ValueError(f"nesting exceeds the limit of {_MAX_DEPTH} levels")


def _check_surrogates(text: str, value: Any) -> None:
    """Raise ValueError for a lone surrogate. UTF-8 contains none, so only an escape can be one."""
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError(f"duplicate name {quoted(_first_duplicate(pairs))} in an object")
    return members


def _first_duplicate(pairs: list[tuple[str, Any]]) -> str:
    counts = Counter(name for name, _ in pairs)
    return next(name for name, count in counts.items() if count > 1)


def _parse_integer(text: str) -> int:
    if len(text) <= _MAX_DIGITS:
        return int(text)
    return -_HUGE_INTEGER if text.startswith("-") else _HUGE_INTEGER


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"syntax error at offset {error.pos}"
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at offset {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return "a string has a lone surrogate"
    return str(error)


_LEVELS = {"[": 1, "{": 1, "]": -1, "}": -1}

# Numbers stay text: a number of a million digits needs no conversion, and a large one does not become infinity.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=str, parse_float=str, parse_constant=_refuse)
_VALUES = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_parse_integer, parse_constant=_refuse)
