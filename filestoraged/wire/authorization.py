"""What a client says in `Authorization` (RFC 9110, section 11.6.2)."""

from __future__ import annotations

import base64


def parse_basic(field: str) -> str:
    """Return the password of Basic authentication, whoever the user (RFC 7617); "" where there is none."""
    scheme, credentials = _split(field)
    if scheme != "basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        # No base64, or no UTF-8 in it.
        return ""


def parse_token(field: str) -> str:
    """Return the token of Bearer authentication (RFC 6750), or that in place of a password; "" where there is none."""
    scheme, credentials = _split(field)
    return credentials if scheme == "bearer" else parse_basic(field)


def _split(field: str) -> tuple[str, str]:
    scheme, _, credentials = field.partition(" ")
    return scheme.lower(), credentials.strip()
