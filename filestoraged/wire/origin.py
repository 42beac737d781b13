"""Hosts and origins as requests name them: `localhost:8080`, `https://files.example.org` (RFC 9110, RFC 6454)."""

from __future__ import annotations

import re
from typing import NamedTuple

from filestoraged.wire.grammar import MAX_PORT

_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s]+)(?::([0-9]{0,5}))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.\-]*)://{_HOST}")


class Host(NamedTuple):
    """`name` is in lower case, an IPv6 address in brackets. `port` is None where the field has none."""

    name: str
    port: int | None


class Origin(NamedTuple):
    """`scheme` and `host` are in lower case. `port` defaults to the scheme's, None for an unknown scheme."""

    scheme: str
    host: str
    port: int | None


def parse_host(field: str) -> Host | None:
    """Parse a Host field. Returns None for a malformed one."""
    matched = _AUTHORITY.fullmatch(field)
    if matched is None or not _is_port(matched.group(2)):
        return None
    return Host(matched.group(1).lower(), _port(matched.group(2)))


def parse_origin(field: str) -> Origin | None:
    """Parse an Origin field. Returns None for `null`, for a list of origins and for a malformed field.

    RFC 6454, section 7.
    """
    matched = _ORIGIN.fullmatch(field)
    if matched is None or not _is_port(matched.group(3)):
        return None
    scheme = matched.group(1).lower()
    return Origin(scheme, matched.group(2).lower(), _port(matched.group(3)) or _DEFAULT_PORTS.get(scheme))


def origin_at(host: Host, scheme: str) -> Origin:
    """Return the origin of a page at `host`, fetched by `scheme`."""
    return Origin(scheme, host.name, host.port or _DEFAULT_PORTS.get(scheme))


def _is_port(digits: str | None) -> bool:
    return int(digits or 0) <= MAX_PORT


def _port(digits: str | None) -> int | None:
    return int(digits) if digits else None
