"""Conditional requests: the preconditions of RFC 9110, section 13, against the entity tag and date of an object.

`tag` is the entity tag without its quotes, `modified` the value of Last-Modified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from filestoraged.errors import PreconditionFailed, quoted
from filestoraged.wire.dates import format_date, parse_date

_ENTITY_TAG = re.compile(r'[ \t]*(W/)?"([!#-~\x80-\xff]*)"[ \t]*(?:,|$)|[ \t]*,|[ \t]+$')


def must_send(fields: Mapping[str, str], tag: str, modified: int) -> bool:
    """Evaluate the preconditions of a GET in their order. False means `304`: the client's copy is current.

    Raises PreconditionFailed. RFC 9110, section 13.2.2.
    """
    check_preconditions(fields, tag, modified)
    if "if-none-match" in fields:
        return not matches_if_none_match(fields, tag)
    since = _parse_date(fields, "if-modified-since")
    return since is None or modified > since


def check_preconditions(fields: Mapping[str, str], tag: str, modified: int) -> None:
    """Raise PreconditionFailed where If-Match or, without it, If-Unmodified-Since does not hold."""
    match = fields.get("if-match")
    if match is not None:
        if not _is_any(match) and tag not in _strong_tags(match):
            raise PreconditionFailed(f'If-Match {quoted(match)} does not match the object\'s entity tag "{tag}".')
        return
    since = _parse_date(fields, "if-unmodified-since")
    if since is not None and modified > since:
        shown = quoted(fields["if-unmodified-since"])
        raise PreconditionFailed(
            f"The object was stored at {format_date(modified)}, after If-Unmodified-Since {shown}."
        )


def matches_if_none_match(fields: Mapping[str, str], tag: str) -> bool:
    """Whether If-None-Match names the object."""
    field = fields.get("if-none-match")
    return field is not None and (_is_any(field) or tag in _weak_tags(field))


def if_range_holds(fields: Mapping[str, str], tag: str, modified: int | None) -> bool:
    """Whether Range applies: If-Range is absent, or the client's part is of this object (section 13.1.5).

    Without `modified`, no date says so: other bytes may have come within the same second (section 8.8.2.2).
    """
    condition = fields.get("if-range")
    if condition is None:
        return True
    if '"' in condition:
        return condition == f'"{tag}"'
    return modified is not None and parse_date(condition) == modified


def forbids_overwrite(fields: Mapping[str, str]) -> bool:
    """Whether an upload must not replace an existing object (If-None-Match: *, if only once too often)."""
    field = fields.get("if-none-match")
    return field is not None and all(member.strip() == "*" for member in field.split(","))


def _is_any(field: str) -> bool:
    return field.strip(" \t") == "*"


def _strong_tags(field: str) -> list[str]:
    # A weak tag equals nothing in the strong comparison (section 8.8.3.2).
    return [tag for weak, tag in _entity_tags(field) if not weak]


def _weak_tags(field: str) -> list[str]:
    return [tag for _, tag in _entity_tags(field)]


def _entity_tags(field: str) -> list[tuple[str | None, str]]:
    """Return the prefix and the tag of each list member; a malformed list has no members and so matches nothing."""
    tags: list[tuple[str | None, str]] = []
    position = 0
    while position < len(field):
        matched = _ENTITY_TAG.match(field, position)
        if matched is None:
            return []
        position = matched.end()
        prefix, tag = matched.groups()
        if tag is not None:
            tags.append((prefix, tag))
    return tags


def _parse_date(fields: Mapping[str, str], name: str) -> int | None:
    field = fields.get(name)
    return None if field is None else parse_date(field)
