"""The file of tokens: its lines are `NAME SCOPE[,SCOPE…] HASH`. It does not know how a token is made."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from filestoraged.command_errors import UsageError
from filestoraged.daemon.fields import read_text
from filestoraged.daemon.interfaces import INTERFACES, OPERATIONS
from filestoraged.web.auth import ACTIONS, ANYBODY, Grant, Scope, Tokens

log = logging.getLogger(__name__)

_TOKEN_NAME = re.compile(r"[^\s#][^\s]{0,99}")
_SCOPE = re.compile(r"([a-z]+)(?::([A-Za-z0-9._~\-]+(?:/[A-Za-z0-9._~\-]+)*))?")
_HASH = re.compile(r"[0-9a-f]{64}")

# Places that a scope may name whatever prefixes they are mounted on.
PLACES = (*INTERFACES, OPERATIONS)

# Interfaces whose areas a scope may name, as that of a repository.
_WITH_AREAS = {name for name, row in INTERFACES.items() if row.has_areas}

# In place of a hash: requests without a token have these scopes as well.
_ANONYMOUS = "-"


def read_tokens(path: str, mounts: Sequence[Mapping[str, str]]) -> Tokens:
    """Read the tokens for the interfaces that are mounted. A scope for any other place is logged.

    Raises StartError where the file cannot be read, and UsageError where a line is invalid.
    """
    grants = []
    for number, line in enumerate(read_text(path, "tokens file").splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                grants.append(_parse_grant(line))
            except UsageError as error:
                # Without the line, which may hold a token by mistake.
                raise UsageError(f"line {number} of the tokens file {path!r}: {error}") from error
    for grant in grants:
        for place in unknown_places(grant.scopes, mounts):
            log.warning("the token of %s has a scope for %r, where nothing is mounted", grant.name, place)
    areas = _areas(mounts)

    def is_reserved(prefix: str) -> bool:
        """Whether a scope for that place means something else than an interface that is mounted there."""
        return prefix in PLACES or prefix.rpartition("/")[0] in areas

    return Tokens(grants, is_reserved)


def check_token_name(name: str) -> None:
    """Raises UsageError where a token cannot have that name."""
    _check_not_anybody(name)
    if not _TOKEN_NAME.fullmatch(name):
        expected = "1 to 100 characters without white space, the first one not #"
        raise UsageError(f"invalid name {name!r}: expected {expected}")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"invalid name {name!a}: expected UTF-8") from error


def parse_scopes(text: str) -> frozenset[Scope]:
    """Return the scopes of `ACTION[:PLACE],…`."""
    return frozenset(_parse_scope(each) for each in text.split(","))


def unknown_places(scopes: frozenset[Scope], mounts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the places that are neither an interface nor a prefix nor a repository."""
    areas = _areas(mounts)
    known = {"", *PLACES, *(prefix.strip("/") for each in mounts for prefix in each)}
    return sorted(place for place in {each.place for each in scopes} - known if place.rpartition("/")[0] not in areas)


def _areas(mounts: Sequence[Mapping[str, str]]) -> set[str]:
    """Return the places that a repository's name may follow."""
    prefixes = {prefix.strip("/") for each in mounts for prefix, name in each.items() if name in _WITH_AREAS}
    return _WITH_AREAS | prefixes


def _parse_grant(line: str) -> Grant:
    fields = line.split()
    if len(fields) != 3:
        raise UsageError(f"expected NAME SCOPE HASH, found {len(fields)} words")
    name, scopes, digest = fields
    if digest != _ANONYMOUS:
        _check_not_anybody(name)
    if digest != _ANONYMOUS and not _HASH.fullmatch(digest):
        raise UsageError("invalid hash: expected 64 hexadecimal digits, as `filestoraged token` prints them, or -")
    return Grant(name, parse_scopes(scopes), None if digest == _ANONYMOUS else bytes.fromhex(digest))


def _check_not_anybody(name: str) -> None:
    if name == ANYBODY:
        raise UsageError(f"invalid name {name!r}: it stands for requests without a token")


def _parse_scope(text: str) -> Scope:
    matched = _SCOPE.fullmatch(text)
    if matched is None or matched.group(1) not in ACTIONS.values():
        expected = "read, write or delete, or one of them for a place, such as write:data/pets"
        raise UsageError(f"invalid scope {text!r}: expected {expected}")
    return Scope(matched.group(1), matched.group(2) or "")
