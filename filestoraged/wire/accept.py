"""Content negotiation (Accept, RFC 9110, section 12.5.1): between JSON, plain text and a page."""

from __future__ import annotations

import re

from filestoraged.errors import BadRequest
from filestoraged.wire.parameters import parse_parameters

# RFC 9110, section 12.4.2.
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def prefers_text(accept: str | None) -> bool:
    """Whether the client prefers plain text to JSON. Equal weights mean JSON."""
    # The most frequent values: other clients send no Accept, curl sends "*/*".
    if accept is None or accept == "*/*":
        return False
    return _quality(accept, "text/plain") > _quality(accept, "application/json")


def prefers_html(accept: str | None) -> bool:
    """Whether the client prefers a page, as browsers do. Equal weights mean JSON, and so does a wildcard alone."""
    # Other clients than browsers do not name the type, so most requests end here.
    if accept is None or "text/html" not in accept.lower():
        return False
    quality = _quality(accept, "text/html")
    return quality > _quality(accept, "application/json") and quality >= _quality(accept, "text/plain")


def _quality(accept: str, media_type: str) -> float:
    """Return the weight of the most specific media range that matches; a malformed range matches nothing."""
    precedence = {media_type: 3, media_type.partition("/")[0] + "/*": 2, "*/*": 1}
    best, quality = 0, 0.0
    for member in accept.split(","):
        try:
            media_range, parameters = parse_parameters(member)
        except BadRequest:
            continue
        weight = parameters.get("q", "1")
        if not _WEIGHT.fullmatch(weight):
            continue
        specificity = precedence.get(media_range, 0)
        if specificity > best:
            best, quality = specificity, float(weight)
    return quality
