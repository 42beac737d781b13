"""Which framing a request's body has, by what its head says. Where two readings are possible, none is taken."""

from __future__ import annotations

import re

from filestoraged.errors import MalformedRequest, TooLarge, UnknownCoding
from filestoraged.wire.body import Chunked, Framing, Sized
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
    codings = [each.strip(" \t") for each in coding.lower().split(",")]
    if "" in codings:
        # Whoever in front drops empty members reads another list than one who does not.
        raise MalformedRequest("Transfer-Encoding has an empty member.")
    if any(each != "chunked" for each in codings):
        raise UnknownCoding("The only transfer coding known here is chunked.")
    if len(codings) != 1:
        raise MalformedRequest("A body is chunked once.")
    return Chunked()


def _parse_length(value: str) -> int:
    # RFC 9110, section 8.6, lets a server take "5, 5" for 5 or refuse it; who is in front may read it otherwise.
    if not _LENGTH.fullmatch(value):
        raise MalformedRequest("Content-Length is one decimal number.")
    digits = value.lstrip("0") or "0"
    if len(digits) > _MAX_LENGTH_DIGITS:
        raise TooLarge(10**_MAX_LENGTH_DIGITS)
    return int(digits)
