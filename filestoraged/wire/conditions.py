"""Conditional requests: whether a client's copy, or its idea of what is here, still holds. RFC 9110, section 13."""

from __future__ import annotations

import re
from collections.abc import Mapping

from filestoraged.errors import PreconditionFailed
from filestoraged.wire.dates import parse_date

_ENTITY_TAG = re.compile(r'[ \t]*(W/)?"([!#-~\x80-\xff]*)"[ \t]*(?:,|$)|[ \t]*,|[ \t]+$')


def must_send(fields: Mapping[str, str], tag: str, modified: int) -> bool:
    """Judge the conditions of a GET in their order. False means `304`: what the client has is current.

    `tag` is what stands between an ETag's quotes, `modified` what Last-Modified says.
    Raises PreconditionFailed. RFC 9110, section 13.2.2.
    """
    check_preconditions(fields, tag, modified)
    if "if-none-match" in fields:
        return not matches_if_none_match(fields, tag)
    since = _date(fields, "if-modified-since")
    return since is None or modified > since


def check_preconditions(fields: Mapping[str, str], tag: str, modified: int) -> None:
    """Raise PreconditionFailed where the client means another state of what is here."""
    match = fields.get("if-match")
    if match is not None:
        if not _matches(match, tag, weak=False):
            raise PreconditionFailed("No entity tag of If-Match is the object's.")
        return
    since = _date(fields, "if-unmodified-since")
    if since is not None and modified > since:
        raise PreconditionFailed("The object was stored after If-Unmodified-Since.")


def matches_if_none_match(fields: Mapping[str, str], tag: str) -> bool:
    """Whether If-None-Match names what is here."""
    none_match = fields.get("if-none-match")
    return none_match is not None and _matches(none_match, tag, weak=True)


def if_range_holds(fields: Mapping[str, str], tag: str, modified: int) -> bool:
    """Whether Range is to be honoured: the part that the client has is of what is here (If-Range, section 13.1.5)."""
    condition = fields.get("if-range")
    if condition is None:
        return True
    if '"' in condition:
        return condition == f'"{tag}"'
    return parse_date(condition) == modified


def forbids_overwrite(fields: Mapping[str, str]) -> bool:
    """Whether an upload is only to be kept where nothing is there yet."""
    return fields.get("if-none-match", "").strip() == "*"


def _matches(field: str, tag: str, *, weak: bool) -> bool:
    if field.strip(" \t") == "*":
        return True
    return tag in _entity_tags(field, weak=weak)


def _entity_tags(field: str, *, weak: bool) -> list[str]:
    """The tags that a list names. One that is malformed names nothing, and so matches nothing."""
    tags: list[str] = []
    position = 0
    while position < len(field):
        matched = _ENTITY_TAG.match(field, position)
        if matched is None:
            return []
        position = matched.end()
        prefix, tag = matched.groups()
        # A weak tag is never equal to anything in the strong comparison (section 8.8.3.2).
        if tag is not None and (weak or not prefix):
            tags.append(tag)
    return tags


def _date(fields: Mapping[str, str], name: str) -> int | None:
    field = fields.get(name)
    return None if field is None else parse_date(field)
