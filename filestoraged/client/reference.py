"""What names an object or a drop for a client: a digest, an id, or the URL that the daemon has answered."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qs

from filestoraged.client.location import DaemonURL, split_url
from filestoraged.command_errors import UsageError
from filestoraged.digest import Digest, parse_digest
from filestoraged.errors import quoted

# A drop's link, for programs and for people.
_DROP = re.compile(r"(/.*)?/(?:file|drop)/([0-9a-f]{32})")
_ID = re.compile(r"[0-9a-f]{32}")


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
