"""Where a daemon is: `http://HOST:PORT/PREFIX`, `https://…` or `unix:/path`."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from filestoraged.command_errors import UsageError
from filestoraged.errors import quoted
from filestoraged.net.connection import PORTS, ServerAddress

# Characters of a URL's path that are not encoded (RFC 3986, section 3.3), and the percent sign of those that are.
_PATH_CHARS = "/%:@!$&'()*+,;=~"

_HOST = re.compile(r"[A-Za-z0-9._\-]+|[0-9A-Fa-f:.]+")

_EXPECTED = "expected http://HOST[:PORT][/PREFIX], https://... or unix:/path"


class DaemonURL(NamedTuple):
    """A daemon, and what precedes its paths: `prefix` is empty, or begins with a slash and does not end with one."""

    endpoint: ServerAddress
    prefix: str

    def __str__(self) -> str:
        return f"{self.endpoint}{self.prefix}"


def parse_location(text: str) -> DaemonURL:
    """Read the URL of a daemon. Raises UsageError; its message repeats no user name and no password."""
    if text.startswith("unix:/"):
        return DaemonURL(ServerAddress("http", "localhost", 0, text.removeprefix("unix:")), "")
    location, query = split_url(text)
    if query:
        raise UsageError(f"invalid URL of a daemon {quoted(text)}: it has a query; {_EXPECTED}")
    return location


def split_url(text: str) -> tuple[DaemonURL, str]:
    """Read a URL. Returns the origin and path as a location, and the query. Raises UsageError."""
    if "@" in text.partition("?")[0].partition("//")[2].partition("/")[0]:
        raise UsageError(f"invalid URL with a user name: tokens are set by FILESTORAGED_TOKEN; {_EXPECTED}")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"invalid URL {quoted(text)}: {error}; {_EXPECTED}") from error
    host = parts.hostname or ""
    if not text.isprintable() or " " in text or parts.scheme not in PORTS or not _HOST.fullmatch(host):
        raise UsageError(f"invalid URL {quoted(text)}: {_EXPECTED}")
    path = quote(parts.path.rstrip("/"), safe=_PATH_CHARS)
    endpoint = ServerAddress(parts.scheme, host, PORTS[parts.scheme] if port is None else port)
    return DaemonURL(endpoint, path), parts.query
