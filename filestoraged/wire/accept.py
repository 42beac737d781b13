"""Content negotiation (Accept, RFC 9110, section 12.5.1): JSON, plain text or a page, and versions of lists."""

from __future__ import annotations

import re

from filestoraged.errors import BadRequest
from filestoraged.wire.grammar import members
from filestoraged.wire.parameters import parse_parameters

# RFC 9110, section 12.4.2.
_WEIGHT = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")

# Characters. Browsers send some 150. A longer field prefers nothing: it is parsed between the requests of others.
_MAX_LENGTH = 1024


def prefers_text(accept: str | None) -> bool:
    """Whether the client prefers plain text to JSON. Equal weights mean JSON."""
    # The most frequent values: other clients send no Accept, curl sends "*/*".
    if accept is None or accept == "*/*":
        return False
    weights = _weights(accept)
    return _quality(weights, "text/plain") > _quality(weights, "application/json")


def prefers_html(accept: str | None) -> bool:
    """Whether the client prefers a page, as browsers do. Equal weights mean JSON, and so does a wildcard alone."""
    # Other clients than browsers do not name the type, so most requests end here.
    if accept is None or "text/html" not in accept.lower():
        return False
    weights = _weights(accept)
    quality = _quality(weights, "text/html")
    return quality > _quality(weights, "application/json") and quality >= _quality(weights, "text/plain")


def names_type(accept: str | None, media_type: str) -> bool:
    """Whether the client names a media type, in lower case, and does not refuse it. A wildcard does not name it."""
    return accept is not None and _weights(accept).get(media_type, 0.0) > 0


def _weights(accept: str) -> dict[str, float]:
    """Return the weights by media range, of which the first counts; a malformed range matches nothing."""
    weights: dict[str, float] = {}
    if len(accept) > _MAX_LENGTH:
        return weights
    for member in members(accept):
        try:
            media_range, parameters = parse_parameters(member)
        except BadRequest:
            continue
        weight = parameters.get("q", "1")
        if _WEIGHT.fullmatch(weight):
            weights.setdefault(media_range, float(weight))
    return weights


def _quality(weights: dict[str, float], media_type: str) -> float:
    """Return the weight of the most specific media range that matches."""
    for media_range in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if media_range in weights:
            return weights[media_range]
    return 0.0
