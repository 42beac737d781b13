"""The file of tokens, and `filestoraged token`, which makes its lines: `NAME SCOPE[,SCOPE…] HASH`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

from filestoraged.daemon.values import INTERFACES, OPERATIONS
from filestoraged.errors import StartError, UsageError
from filestoraged.web.auth import ACTIONS, Grant, Scope, Tokens

log = logging.getLogger(__name__)

NAME = re.compile(r"[^\s#][^\s]{0,99}")
_SCOPE = re.compile(r"([a-z]+)(?::([A-Za-z0-9._~\-]+(?:/[A-Za-z0-9._~\-]+)*))?")
_HASH = re.compile(r"[0-9a-f]{64}")

# What a scope may be for wherever it is mounted.
NAMES = (*INTERFACES, OPERATIONS)

# In place of a hash: whoever has no token may do that as well.
_NOBODYS = "-"


def read_tokens(path: str, mounts: Sequence[Mapping[str, str]]) -> Tokens:
    """Read the tokens for what is mounted. A scope for what is not is told of in the log.

    Raises StartError where the file cannot be read, and UsageError where a line cannot be understood.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except UnicodeDecodeError as error:
        raise StartError(f"The tokens in {path} cannot be read: they are not UTF-8.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartError(f"The tokens in {path!r} cannot be read: {reason}.") from error
    grants = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                grants.append(_parse_grant(line))
            except UsageError as error:
                # Not the line: it may hold a token by mistake.
                raise UsageError(f"Line {number} of the tokens in {path}: {error}") from error
    areas = _areas(mounts)
    for grant in grants:
        for place in unknown_places(grant.scopes, mounts):
            log.warning("the token of %s is for %s, where there is nothing", grant.name, place)

    def is_reserved(prefix: str) -> bool:
        """An interface that is mounted on the name of another, or of a repository, is not that."""
        return prefix in NAMES or prefix.rpartition("/")[0] in areas

    return Tokens(grants, is_reserved)


def _areas(mounts: Sequence[Mapping[str, str]]) -> set[str]:
    """What a repository's name may stand behind."""
    prefixes = {prefix.strip("/") for each in mounts for prefix, name in each.items() if name == "repositories"}
    return {"repositories", *prefixes}


def unknown_places(scopes: frozenset[Scope], mounts: Sequence[Mapping[str, str]]) -> list[str]:
    """The places that are no interface, no prefix and no repository."""
    areas = _areas(mounts)
    known = {"", *NAMES, *(prefix.strip("/") for each in mounts for prefix in each)}
    return sorted(place for place in {each.place for each in scopes} - known if place.rpartition("/")[0] not in areas)


def _parse_grant(line: str) -> Grant:
    fields = line.split()
    if len(fields) != 3:
        raise UsageError("it is not NAME SCOPE HASH.")
    name, scopes, digest = fields
    if digest != _NOBODYS and not _HASH.fullmatch(digest):
        raise UsageError("its last word is no hash as `filestoraged token` makes it.")
    return Grant(name, parse_scopes(scopes), None if digest == _NOBODYS else bytes.fromhex(digest))


def parse_scopes(text: str) -> frozenset[Scope]:
    return frozenset(_parse_scope(each) for each in text.split(","))


def _parse_scope(text: str) -> Scope:
    matched = _SCOPE.fullmatch(text)
    if matched is None or matched.group(1) not in ACTIONS.values():
        raise UsageError(f"{text!r} is no scope: read, write or delete, or one of them for a place, write:data/pets.")
    return Scope(matched.group(1), matched.group(2) or "")
