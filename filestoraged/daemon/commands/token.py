"""`filestoraged token`: makes a token, and its line for the file of tokens."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Mapping, Sequence

from filestoraged.daemon.config import Parser, file_values
from filestoraged.daemon.tokens_file import NAME, NAMES, parse_scopes, unknown_places
from filestoraged.daemon.values import Config, join_mounts, parse_mount
from filestoraged.errors import StartError, UsageError
from filestoraged.web.auth import Scope, hashed

# What all tokens begin with, so that one that lies about somewhere is known for what it is.
_BEGINNING = "fsd_"


def token(arguments: Sequence[str]) -> int:
    """Make a token: its line for the file on standard output, itself on standard error, this once."""
    given = _parser().parse_args(arguments)
    if not NAME.fullmatch(given.name):
        raise UsageError(f"{given.name!r} is no name: 1 to 100 characters without white space, and no # in front.")
    if not _is_utf8(given.name):
        raise UsageError(f"The name {given.name!a} is not UTF-8.")
    _check_places(parse_scopes(given.scope), given)
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
    unknown = unknown_places(scopes, [mounts or Config().mounts])
    if mounts is None:
        # It may be a repository below a prefix that only the daemon knows.
        unknown = [place for place in unknown if "/" not in place]
    if unknown:
        prefixes = ", ".join(sorted(prefix.strip("/") for prefix in mounts or Config().mounts if prefix != "/"))
        raise UsageError(
            f"There is nothing called {unknown[0]!r}: a scope is for an interface ({', '.join(NAMES)}), a prefix"
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
