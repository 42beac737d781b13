"""The file of tokens, and `filestoraged token`, which makes its lines: `NAME SCOPE[,SCOPE…] HASH`."""

from __future__ import annotations

import argparse
import logging
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence

from filestoraged.daemon.options import Parser, file_values
from filestoraged.daemon.values import INTERFACES, OPERATIONS, Config, join_mounts, parse_mount
from filestoraged.errors import StartError, UsageError
from filestoraged.web.auth import ACTIONS, Grant, Scope, Tokens, hashed

log = logging.getLogger(__name__)

_NAME = re.compile(r"[^\s#][^\s]{0,99}")
_SCOPE = re.compile(r"([a-z]+)(?::([A-Za-z0-9._~\-]+(?:/[A-Za-z0-9._~\-]+)*))?")
_HASH = re.compile(r"[0-9a-f]{64}")

# What a scope may be for wherever it is mounted.
_NAMES = (*INTERFACES, OPERATIONS)

# In place of a hash: whoever has no token may do that as well.
_NOBODYS = "-"

# What all tokens begin with, so that one that lies about somewhere is known for what it is.
_BEGINNING = "fsd_"


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
        for place in _unknown_places(grant.scopes, mounts):
            log.warning("the token of %s is for %s, where there is nothing", grant.name, place)

    def is_reserved(prefix: str) -> bool:
        """An interface that is mounted on the name of another, or of a repository, is not that."""
        return prefix in _NAMES or prefix.rpartition("/")[0] in areas

    return Tokens(grants, is_reserved)


def token(arguments: Sequence[str]) -> int:
    """Make a token: its line for the file on standard output, itself on standard error, this once."""
    given = _parser().parse_args(arguments)
    if not _NAME.fullmatch(given.name):
        raise UsageError(f"{given.name!r} is no name: 1 to 100 characters without white space, and no # in front.")
    if not _is_utf8(given.name):
        raise UsageError(f"The name {given.name!a} is not UTF-8.")
    _check_places(_parse_scopes(given.scope), given)
    made = _BEGINNING + secrets.token_urlsafe(32)
    line = f"{given.name} {given.scope} {hashed(made).hex()}\n"
    if given.tokens is None:
        # UTF-8, as the file is read, whatever the locale.
        sys.stdout.buffer.write(line.encode())
        sys.stdout.flush()
        sys.stderr.write(f"The token of {given.name}, shown this once: {made}\n")
    else:
        _append(given.tokens, line)
        sys.stdout.write(made + "\n")
    return 0


def _check_places(scopes: frozenset[Scope], given: argparse.Namespace) -> None:
    """Raises UsageError where a scope is for a place that the daemon will not have, as far as is known here."""
    mounts = _mounts(given)
    unknown = _unknown_places(scopes, [mounts or Config().mounts])
    if mounts is None:
        # It may be a repository below a prefix that only the daemon knows.
        unknown = [place for place in unknown if "/" not in place]
    if unknown:
        prefixes = ", ".join(sorted(prefix.strip("/") for prefix in mounts or Config().mounts if prefix != "/"))
        raise UsageError(
            f"There is nothing called {unknown[0]!r}: a scope is for an interface ({', '.join(_NAMES)}), a prefix"
            f" ({prefixes}; --mount or --config names others) or a repository (data/NAME)."
        )


def _mounts(given: argparse.Namespace) -> Mapping[str, str] | None:
    """What is mounted where, by the command line or the daemon's file; None where neither says so."""
    if given.mount is not None:
        return join_mounts([parse_mount(each) for each in given.mount])
    if given.config is None:
        return None
    values = file_values(given.config, ["mount"])
    return join_mounts(values["mount"]) if "mount" in values else Config().mounts


def _areas(mounts: Sequence[Mapping[str, str]]) -> set[str]:
    """What a repository's name may stand behind."""
    prefixes = {prefix.strip("/") for each in mounts for prefix, name in each.items() if name == "repositories"}
    return {"repositories", *prefixes}


def _unknown_places(scopes: frozenset[Scope], mounts: Sequence[Mapping[str, str]]) -> list[str]:
    """The places that are no interface, no prefix and no repository."""
    areas = _areas(mounts)
    known = {"", *_NAMES, *(prefix.strip("/") for each in mounts for prefix in each)}
    return sorted(place for place in {each.place for each in scopes} - known if place.rpartition("/")[0] not in areas)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _append(path: str, line: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as stream:
            before = stream.read()
            stream.write((b"\n" if before and not before.endswith(b"\n") else b"") + line.encode())
    except OSError as error:
        raise StartError(f"The tokens in {path} cannot be written: {error.strerror or error}.") from error


def _parse_grant(line: str) -> Grant:
    fields = line.split()
    if len(fields) != 3:
        raise UsageError("it is not NAME SCOPE HASH.")
    name, scopes, digest = fields
    if digest != _NOBODYS and not _HASH.fullmatch(digest):
        raise UsageError("its last word is no hash as `filestoraged token` makes it.")
    return Grant(name, _parse_scopes(scopes), None if digest == _NOBODYS else bytes.fromhex(digest))


def _parse_scopes(text: str) -> frozenset[Scope]:
    return frozenset(_parse_scope(each) for each in text.split(","))


def _parse_scope(text: str) -> Scope:
    matched = _SCOPE.fullmatch(text)
    if matched is None or matched.group(1) not in ACTIONS.values():
        raise UsageError(f"{text!r} is no scope: read, write or delete, or one of them for a place, write:data/pets.")
    return Scope(matched.group(1), matched.group(2) or "")


def _parser() -> Parser:
    parser = Parser(
        prog="filestoraged token",
        description="Make a token. Its line for the file of --tokens comes on standard output, the token itself on"
        " standard error: it is shown this once, and not kept.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="whose it is, for you to know")
    parser.add_argument(
        "scope",
        metavar="SCOPE",
        help="read, write, delete, or several of them with commas: each for everything, or for an interface"
        " (read:files) or a repository (write:data/pets)",
    )
    parser.add_argument("--tokens", metavar="FILE", help="append the line to this file, and print the token alone")
    parser.add_argument("--config", metavar="FILE", help="the daemon's file: scopes may be for what it mounts")
    parser.add_argument(
        "--mount", metavar="NAME=PREFIX", action="append", help="as the daemon's, in place of its file; repeatable"
    )
    return parser
