"""JSON as text: it is checked, strictly, and handed on as it came, so that no digit of a number is lost.

RFC 8259, and what it leaves open decided: no name twice in an object, no lone surrogates, no byte-order mark, and no
deeper nesting than anybody means.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, NoReturn

from filestoraged.errors import BadRequest

_MAX_DEPTH = 100

_SPACE = r"[ \t\n\r]*"
_BEGIN_STRING = re.compile(rf'{_SPACE}(?=")')
_BEGIN_PAIR = re.compile(rf'{_SPACE}\{{{_SPACE}(?=")')
_COLON = re.compile(rf"{_SPACE}:{_SPACE}")
_END_STRING = re.compile(_SPACE)
_END_PAIR = re.compile(rf"{_SPACE}\}}{_SPACE}")

_NO_BRACKETS = re.compile(r"[^\[{\]}]+")


def parse_pair(data: bytes) -> tuple[str, bytes]:
    """Read an object of exactly one pair. Returns its name, and the text of its value. Raises BadRequest."""
    try:
        text = data.decode()
        _check_depth(text)
        name, stop = _DECODER.raw_decode(text, _match(_BEGIN_PAIR, text, 0))
        start = _match(_COLON, text, stop)
        value, stop = _DECODER.raw_decode(text, start)
        _check_end(_END_PAIR, text, stop)
        _check_surrogates(text, [name, value])
    except ValueError as error:
        raise BadRequest("The body is not a JSON object of exactly one pair.") from error
    return name, text[start:stop].encode()


def parse_string(data: bytes) -> str:
    """Read a string. Raises BadRequest."""
    try:
        text = data.decode()
        value, stop = _DECODER.raw_decode(text, _match(_BEGIN_STRING, text, 0))
        _check_end(_END_STRING, text, stop)
        _check_surrogates(text, value)
    except ValueError as error:
        raise BadRequest("The body is not a JSON string.") from error
    return str(value)


def encode_pair(name: str, value: bytes) -> bytes:
    """The object of one pair whose value has that text."""
    return b"{%b: %b}" % (json.dumps(name, ensure_ascii=False).encode(), value)


def _match(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where the `pattern` that begins at `start` ends. Raises ValueError."""
    found = pattern.match(text, start)
    if found is None:
        raise ValueError("something else is expected here")
    return found.end()


def _check_end(pattern: re.Pattern[str], text: str, start: int) -> None:
    if _match(pattern, text, start) != len(text):
        raise ValueError("something follows")


def _check_depth(text: str) -> None:
    """Before it is parsed: parsing uses the stack.

    By whole passes over the text, each linear. A regular expression for strings is not: where a quote is missing it may
    read on to the end from each quote there is, and it keeps a place to come back to for each escape.
    """
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    # Every other piece is a string, whose brackets are none.
    brackets = _NO_BRACKETS.sub("", "".join(unescaped.split('"')[::2]))
    if max(accumulate(map(_DEEPER.__getitem__, brackets)), default=0) > _MAX_DEPTH:
        raise ValueError("it is nested too deep")


def _check_surrogates(text: str, value: Any) -> None:
    """What came as UTF-8 has none, so only an escape can make one. Encoding it raises a ValueError."""
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name comes twice in an object")
    return members


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DEEPER = {"[": 1, "{": 1, "]": -1, "}": -1}

# Numbers stay text: one of a million digits takes no time, and one beyond a float's range is no infinity.
_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_int=str, parse_float=str, parse_constant=_refuse)
