"""Origins as requests name them: `https://files.example.org`, `http://localhost:8080` (RFC 6454)."""

from __future__ import annotations

import re
from typing import NamedTuple

from filestoraged.wire.grammar import MAX_PORT

_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s]+)(?::([0-9]{0,5}))?"
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.\-]*)://{_HOST}")


class Origin(NamedTuple):
    """`scheme` and `host` are in lower case, an IPv6 address in brackets.

    `port` defaults to the scheme's, None for an unknown scheme.
    """

    scheme: str
    host: str
    port: int | None


def parse_origin(field: str) -> Origin | None:
    """Parse an Origin field. Returns None for `null`, for a list of origins and for a malformed field.

    RFC 6454, section 7.
    """
    matched = _ORIGIN.fullmatch(field)
    port = 0 if matched is None else int(matched.group(3) or 0)
    if matched is None or port > MAX_PORT:
        return None
    scheme = matched.group(1).lower()
    return Origin(scheme, matched.group(2).lower(), port or _DEFAULT_PORTS.get(scheme))
