"""Which framing a request's body has, by what its head says. Where two readings are possible, none is taken."""

from __future__ import annotations

import re

from filestoraged.errors import MalformedRequest, TooLarge, UnknownCoding
from filestoraged.wire.body import Chunked, Framing, Sized
from filestoraged.wire.grammar import members
from filestoraged.wire.head import Head

# Above this a Content-Length is no size of anything; int() must not be given a megabyte of digits.
_MAX_LENGTH_DIGITS = 18

# Most requests have none. It is never decoded, so all of them may share it.
NO_BODY: Framing = Sized(0)

_LENGTH = re.compile(r"[0-9]+")


def body_framing(head: Head) -> Framing:
    """Return how the body behind `head` is framed. RFC 9112, section 6.3.

    Raises MalformedRequest, UnknownCoding or TooLarge.
    """
    length = head.fields.get("content-length")
    coding = head.fields.get("transfer-encoding")
    if coding is None:
        return NO_BODY if length is None else Sized(_parse_length(length))
    if length is not None:
        raise MalformedRequest("Content-Length and Transfer-Encoding exclude each other.")
    if head.version < (1, 1):
        raise MalformedRequest("HTTP/1.0 has no Transfer-Encoding.")
    codings = members(coding.lower())
    if any(each != "chunked" for each in codings):
        raise UnknownCoding("The only transfer coding known here is chunked.")
    if len(codings) != 1:
        raise MalformedRequest("A body is chunked once.")
    return Chunked()


def _parse_length(value: str) -> int:
    lengths = {each.strip(" \t") for each in value.split(",")}
    length = lengths.pop()
    if lengths or not _LENGTH.fullmatch(length):
        raise MalformedRequest("Content-Length is one decimal number.")
    digits = length.lstrip("0") or "0"
    if len(digits) > _MAX_LENGTH_DIGITS:
        raise TooLarge(10**_MAX_LENGTH_DIGITS)
    return int(digits)
