"""What of a request must not stand in a log: passwords, tokens and the ids of drops, however they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote_plus

HIDDEN = "***"

# A drop's id has 32 hexadecimal digits; with two more or fewer it may be one with a typing error. Digests of SHA-1 and
# of all that are longer have 40 and more, and are shown.
_ID = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{30,34}(?![0-9A-Fa-f])")

# In the name of a parameter, perhaps within another word (`access_token`, `password[]`).
_SECRET = re.compile(r"password|token", re.IGNORECASE)

# What separates parameters, in a query as in a path: those whom a "?" was encoded for have none.
_SEPARATORS = re.compile(r"([/?&;])")

# A target may be encoded again by each program that it passes through.
_DECODINGS = 3


def redact_target(target: str) -> str:
    """Return a path with its query, or either of them, without what must not stand in a log."""
    if "%" not in target and not _ID.search(target) and not _secret_of(target):
        return target
    shown: list[str] = []
    # A password goes on up to the next parameter; and beyond, where an "&" in it should have been encoded.
    in_secret = False
    for separator, piece in _pieces(target):
        text = _decoded(piece)
        secret = _secret_of(text)
        if in_secret and (separator != "&" or "=" not in text):
            continue
        in_secret = bool(secret)
        shown.append(f"{separator}{secret}={HIDDEN}" if secret else separator + _without_id(piece, text))
    return "".join(shown)


def _pieces(target: str) -> Iterator[tuple[str, str]]:
    """Each piece of a target with the separator before it, "" for the first."""
    parts = ["", *_SEPARATORS.split(target)]
    return zip(parts[::2], parts[1::2])


def _without_id(piece: str, decoded: str) -> str:
    if piece == decoded:
        return _ID.sub(HIDDEN, piece)
    # What it is decoded may have line ends, which must not stand in a log either.
    return HIDDEN if _ID.search(decoded) else piece


def redact_text(text: str) -> str:
    """Return a text of ours, such as an error's, without the ids that a path in it may have."""
    return _ID.sub(HIDDEN, text)


def has_secret(query: str) -> bool:
    """Whether a query holds a password or a token."""
    return bool(_secret_of(_decoded(query)))


def _secret_of(text: str) -> str:
    """The secret that a parameter is named after, "" for none. A value that has such a word in it is none."""
    found = _SECRET.search(text, 0, max(0, text.rfind("=")))
    return found.group().lower() if found is not None else ""


def _decoded(text: str) -> str:
    for _ in range(_DECODINGS):
        if "%" not in text:
            break
        text = unquote_plus(text)
    return text
