"""Credentials in the Authorization field (RFC 9110, section 11.6.2)."""

from __future__ import annotations

import base64


def parse_basic(field: str) -> tuple[str, str]:
    """Return the user name and the password of Basic credentials (RFC 7617), each "" for none."""
    scheme, credentials = _split(field)
    if scheme != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        # Invalid base64 or UTF-8.
        return "", ""
    return user, password


def parse_token(field: str) -> str:
    """Return a Bearer token (RFC 6750), a token sent as the Basic password, or "" for none."""
    scheme, credentials = _split(field)
    return credentials if scheme == "bearer" else parse_basic(field)[1]


def is_bearer(field: str) -> bool:
    """Whether the field has a Bearer token, and nothing else could be meant."""
    return _split(field)[0] == "bearer"


def _split(field: str) -> tuple[str, str]:
    scheme, _, credentials = field.partition(" ")
    return scheme.lower(), credentials.strip()
