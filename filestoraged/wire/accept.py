"""Which of two types a client would rather have (Accept, RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re

from filestoraged.errors import BadRequest
from filestoraged.wire.parameters import parse_parameters

# RFC 9110, section 12.4.2.
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def prefers_text(accept: str | None) -> bool:
    """Whether plain text is wanted more than JSON. Where both are as welcome, JSON it is."""
    # What curl says where it was told nothing, and the answer to it.
    if accept is None or accept == "*/*":
        return False
    return _quality(accept, "text/plain") > _quality(accept, "application/json")


def _quality(accept: str, wanted: str) -> float:
    """The weight of the most specific range that covers the type `wanted`; a malformed range covers nothing."""
    precedence = {wanted: 3, wanted.partition("/")[0] + "/*": 2, "*/*": 1}
    best, quality = 0, 0.0
    for member in accept.split(","):
        try:
            media_range, parameters = parse_parameters(member)
        except BadRequest:
            continue
        weight = parameters.get("q", "1")
        if not _WEIGHT.fullmatch(weight):
            continue
        specific = precedence.get(media_range, 0)
        if specific > best:
            best, quality = specific, float(weight)
    return quality
