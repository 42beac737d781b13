"""What requests to the `names` interface say: the name in a path, parameters, conditions, and fields that come back."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from filestoraged.api import listing
from filestoraged.errors import BadRequest, PreconditionFailed, quoted
from filestoraged.store.name_listing import Name
from filestoraged.store.names import Condition, unconditional
from filestoraged.web.request import Request
from filestoraged.web.response import Fields
from filestoraged.wire import conditions

# In bytes of UTF-8. A path of S3 and an index of PostgreSQL have room for more.
_MAX_NAME = 1024
# Of characters that mean themselves in a path: most names need no decoding.
_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,;=:@-]+"
_PLAIN_NAME = re.compile(f"{_SEGMENT}(?:/{_SEGMENT})*")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Seconds, a hundred years.
_MAX_TTL = 3_153_600_000
_TTL = re.compile(r"[0-9]{1,10}")

# Characters of a media type, and of a field of an upload that comes back. They are in memory for a whole page.
_MAX_TYPE = 255
_MAX_FIELD = 600

# Fields of Turborepo: a signature of the bytes, and how long the task took.
_RETURNED_FIELDS = ("x-artifact-tag", "x-artifact-duration")

# Fields that make a change depend on what the name leads to.
_CONDITIONS = frozenset(("if-match", "if-none-match", "if-unmodified-since"))


def parse_name(segments: str) -> str:
    """Return the name that the rest of a path stands for. Raises BadRequest for an invalid one."""
    if len(segments) <= _MAX_NAME and _PLAIN_NAME.fullmatch(segments):
        return segments
    try:
        name = unquote_to_bytes(segments).decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"Invalid name {quoted(segments)}: expected UTF-8.") from error
    if len(name.encode()) > _MAX_NAME:
        raise BadRequest(f"Invalid name {quoted(name)}: it has more than {_MAX_NAME} bytes.")
    if _CONTROLS.search(name):
        raise BadRequest(f"Invalid name {quoted(name)}: control characters are not allowed.")
    for segment in name.split("/"):
        if segment in ("", ".", ".."):
            raise BadRequest(f"Invalid name {quoted(name)}: expected segments that are neither empty nor . nor ..")
    return name


def media_type(request: Request) -> str:
    type_ = request.fields.get("content-type", "")
    if len(type_) > _MAX_TYPE:
        raise BadRequest(f"Invalid Content-Type {quoted(type_)}: expected {_MAX_TYPE} characters at most.")
    return type_


def returned_fields(request: Request) -> Fields:
    fields = ""
    for name in _RETURNED_FIELDS:
        value = request.fields.get(name)
        if value is not None:
            if len(value) > _MAX_FIELD:
                raise BadRequest(f"Invalid {name} {quoted(value)}: expected {_MAX_FIELD} characters at most.")
            fields += f"{name}: {value}\r\n"
    return fields


def ttl_of(request: Request) -> int | None:
    text = listing.parameter(request, "ttl")
    if text is None:
        return None
    if not _TTL.fullmatch(text) or not 1 <= int(text) <= _MAX_TTL:
        raise BadRequest(f"Invalid ttl {quoted(text)}: expected 1 to {_MAX_TTL} seconds.")
    return int(text)


def by_folder(request: Request) -> bool:
    delimiter = listing.parameter(request, "delimiter")
    if delimiter not in (None, "/"):
        raise BadRequest(f"Invalid delimiter {quoted(delimiter)}: expected /.")
    return delimiter is not None


def condition_of(request: Request) -> Condition:
    if _CONDITIONS.isdisjoint(request.fields):
        return unconditional
    return functools.partial(_require, request.fields)


def _require(fields: Mapping[str, str], current: Name | None) -> None:
    """Raise PreconditionFailed where a name that leads to `current` must not be changed."""
    if current is None:
        if "if-match" in fields:
            raise PreconditionFailed("If-Match requires a name that exists.")
        return
    conditions.check_preconditions(fields, current.oid, current.modified)
    if conditions.matches_if_none_match(fields, current.oid):
        raise PreconditionFailed(f'If-None-Match names the object that the name leads to: "{current.oid}".')
