"""Redaction of request targets and messages for the log: passwords, tokens and drop ids, in any encoding."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from urllib.parse import unquote_plus

HIDDEN = "***"

# A drop id has 32 hex digits; 30 to 34 digits may be one with a typing error. Digests of SHA-1 and of longer
# algorithms have at least 40 digits and are shown.
_LONG_HEX = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{30,34}(?![0-9A-Fa-f])")

# Makes "0" of each hex digit, and a space of all else; and the least of what _LONG_HEX finds.
_HEX = bytes(ord("0" if chr(each) in string.hexdigits else " ") for each in range(256))
_HEX_RUN = b"0" * 30

# In a parameter's name, also as a part of it (`access_token`, `password[]`).
_SECRET = re.compile(r"password|token", re.IGNORECASE)

# Separators of parameters, in the path too: where a client encodes the "?", the query is part of the path.
_SEPARATORS = re.compile(r"([/?&;])")

# Each proxy on the way may encode a target again; more than 3 levels are not decoded.
_MAX_DECODINGS = 3


def redact_target(target: str) -> str:
    """Return a path, a query or both with secrets replaced by HIDDEN."""
    if "%" not in target and not _LONG_HEX.search(target) and not _secret_of(target):
        return target
    shown: list[str] = []
    # A password continues after "&" up to the next "name=": the "&" in it may not have been encoded.
    in_secret = False
    for separator, piece in _pieces(target):
        text = _decoded(piece)
        secret = _secret_of(text)
        if in_secret and (separator != "&" or "=" not in text):
            continue
        in_secret = bool(secret)
        shown.append(f"{separator}{secret}={HIDDEN}" if secret else separator + _without_id(piece, text))
    return "".join(shown)


def may_show(text: str) -> bool:
    """Whether a Latin-1 text has nothing that `redact_target` hides."""
    # Most texts are found harmless like this, in a tenth of the time.
    data = text.encode("latin-1")
    words = data.lower()
    if b"%" not in data and b"password" not in words and b"token" not in words and _HEX_RUN not in data.translate(_HEX):
        return True
    return redact_target(text) == text


def redact_text(text: str) -> str:
    """Return a message with drop ids replaced by HIDDEN, for example in the path of an `OSError`."""
    return _LONG_HEX.sub(HIDDEN, text)


def _pieces(target: str) -> Iterator[tuple[str, str]]:
    """Return each piece of a target with the separator before it, which is "" for the first."""
    parts = ["", *_SEPARATORS.split(target)]
    return zip(parts[::2], parts[1::2])


def _without_id(piece: str, decoded: str) -> str:
    if piece == decoded:
        return _LONG_HEX.sub(HIDDEN, piece)
    # The decoded text is not logged: it may contain line breaks.
    return HIDDEN if _LONG_HEX.search(decoded) else piece


def _secret_of(text: str) -> str:
    """Return "password" or "token" where the name of a parameter contains that word, else "". Values do not count."""
    found = _SECRET.search(text, 0, max(0, text.rfind("=")))
    return found.group().lower() if found is not None else ""


def _decoded(text: str) -> str:
    for _ in range(_MAX_DECODINGS):
        if "%" not in text:
            break
        text = unquote_plus(text)
    return text
