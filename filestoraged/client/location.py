"""Where a daemon is: `http://HOST:PORT/PREFIX`, `https://…` or `unix:/path`; and what names an object or a drop there.

An object is named by its digest, a drop by its id, and both by the URL that the daemon has answered.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from filestoraged.command_errors import UsageError
from filestoraged.digest import Digest, parse_digest
from filestoraged.errors import quoted
from filestoraged.net.connection import PORTS, ServerAddress

# Characters of a URL's path that are not encoded (RFC 3986, section 3.3), and the percent sign of those that are.
_PATH_CHARS = "/%:@!$&'()*+,;=~"

_HOST = re.compile(r"[A-Za-z0-9._\-]+|[0-9A-Fa-f:.]+")

_EXPECTED = "expected http://HOST[:PORT][/PREFIX], https://... or unix:/path"

# A drop's link, for programs and for people.
_DROP = re.compile(r"(/.*)?/(?:file|drop)/([0-9a-f]{32})")
_ID = re.compile(r"[0-9a-f]{32}")


class DaemonURL(NamedTuple):
    """A daemon, and what precedes its paths: `prefix` is empty, or begins with a slash and does not end with one."""

    endpoint: ServerAddress
    prefix: str

    def __str__(self) -> str:
        return f"{self.endpoint}{self.prefix}"


class ObjectReference(NamedTuple):
    """`location` is the URL's origin, and None for a mere digest. `path` has the query, too."""

    digest: Digest
    location: DaemonURL | None = None
    path: str = ""
    # The `name` of the query.
    name: str | None = None


class DropReference(NamedTuple):
    """`location` is the URL's origin, and None for a mere id. `path` is the one for programs."""

    id: str
    location: DaemonURL | None = None
    path: str = ""


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


def parse_object(text: str) -> ObjectReference:
    """Raises UsageError."""
    if "://" not in text:
        digest = parse_digest(text)
        if digest is None:
            raise UsageError(f"invalid digest {quoted(text)}: expected hexadecimal digits, or a URL")
        return ObjectReference(digest)
    location, query = split_url(text)
    parameters = parse_qs(query)
    hashes = parameters.get("hash", []) + parameters.get("file_hash", [])
    digest = parse_digest(hashes[0] if hashes else location.prefix.rpartition("/")[2])
    if digest is None:
        raise UsageError(f"invalid URL {quoted(text)}: it has no digest at its end, nor as ?hash=")
    path = (location.prefix or "/") + (f"?{query}" if query else "")
    name = parameters.get("name", [None])[0]
    return ObjectReference(digest, location._replace(prefix=""), path, name)


def parse_drop(text: str) -> DropReference:
    """Raises UsageError, whose message does not repeat the link: it is a secret."""
    if _ID.fullmatch(text):
        return DropReference(text)
    location, _ = split_url(text) if "://" in text else (None, "")
    matched = None if location is None else _DROP.fullmatch(location.prefix)
    if location is None or matched is None:
        raise UsageError("invalid link of a drop: expected a URL that ends in /file/ID or /drop/ID")
    start, id_ = matched.groups(default="")
    return DropReference(id_, location._replace(prefix=""), f"{start}/file/{id_}")


def is_drop(text: str) -> bool:
    """Whether a text is the link of a drop."""
    try:
        return "://" in text and parse_drop(text).location is not None
    except UsageError:
        return False
