"""Origins and hosts as requests name them: `https://files.example.org`, `localhost:8080` (RFC 6454, RFC 9110)."""

from __future__ import annotations

import re
from typing import NamedTuple

_DEFAULT_PORTS = {"http": 80, "https": 443}

_HOST = r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@\\\s]+)(?::([0-9]{0,5}))?"
_AUTHORITY = re.compile(_HOST)
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.\-]*)://{_HOST}")


class Host(NamedTuple):
    """`name` is in lower case, an IPv6 address in brackets. `port` is None where none is named."""

    name: str
    port: int | None


class Origin(NamedTuple):
    """`scheme` and `host` are in lower case. `port` is the scheme's default where none is named."""

    scheme: str
    host: str
    port: int | None


def parse_host(field: str) -> Host | None:
    """Read a Host field. Returns None where it names no host."""
    matched = _AUTHORITY.fullmatch(field)
    if matched is None or not _is_port(matched.group(2)):
        return None
    return Host(matched.group(1).lower(), _port(matched.group(2)))


def parse_origin(field: str) -> Origin | None:
    """Read an Origin field. Returns None for `null`, a list of origins or anything else.

    RFC 6454, section 7.
    """
    matched = _ORIGIN.fullmatch(field)
    if matched is None or not _is_port(matched.group(3)):
        return None
    scheme = matched.group(1).lower()
    return Origin(scheme, matched.group(2).lower(), _port(matched.group(3)) or _DEFAULT_PORTS.get(scheme))


def origin_at(host: Host, scheme: str) -> Origin:
    """The origin of a page that was fetched from `host` by `scheme`."""
    return Origin(scheme, host.name, host.port or _DEFAULT_PORTS.get(scheme))


def _is_port(digits: str | None) -> bool:
    return int(digits or 0) <= 65535


def _port(digits: str | None) -> int | None:
    return int(digits) if digits else None
