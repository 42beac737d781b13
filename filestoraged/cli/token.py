"""`filestoraged token`: makes a token, and its line for the tokens file."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Mapping, Sequence

from filestoraged.cli.options import CommandParser
from filestoraged.command_errors import StartError, UsageError
from filestoraged.daemon.config import file_values
from filestoraged.daemon.interfaces import default_mounts, join_mounts, parse_mount
from filestoraged.daemon.tokens_file import PLACES, check_token_name, parse_scopes, unknown_places
from filestoraged.web.auth import Scope, hashed

# The beginning of every token, by which people and secret scanners recognize one.
_TOKEN_PREFIX = "fsd_"


def token(arguments: Sequence[str]) -> int:
    """Print the line for the file on standard output, the token on standard error. Raises UsageError or StartError."""
    given = make_parser().parse_args(arguments)
    check_token_name(given.name)
    _check_places(parse_scopes(given.scope), given)
    made = _TOKEN_PREFIX + secrets.token_urlsafe(32)
    line = f"{given.name} {given.scope} {hashed(made).hex()}\n"
    if given.tokens is None:
        # UTF-8 whatever the locale, as the file is read.
        sys.stdout.buffer.write(line.encode())
        sys.stdout.flush()
        sys.stderr.write(f"The token of {given.name}, shown only once: {made}\n")
    else:
        _append(given.tokens, line)
        sys.stdout.write(made + "\n")
    return 0


def _check_places(scopes: frozenset[Scope], given: argparse.Namespace) -> None:
    """Raises UsageError where a scope names a place that the daemon does not have, where its mounts are known here."""
    mounts = _mounts(given)
    unknown = unknown_places(scopes, [mounts or default_mounts()])
    if mounts is None:
        # It may be a repository below a prefix that only the daemon's configuration has.
        unknown = [place for place in unknown if "/" not in place]
    if unknown:
        prefixes = ", ".join(sorted(prefix.strip("/") for prefix in mounts or default_mounts() if prefix != "/"))
        raise UsageError(
            f"unknown place {unknown[0]!r} in a scope: expected an interface ({', '.join(PLACES)}), a prefix"
            f" ({prefixes}; --mount or --config names others) or a repository (data/NAME)"
        )


def _mounts(given: argparse.Namespace) -> Mapping[str, str] | None:
    """Return the interfaces by their prefixes, as flags or the daemon's file say; None where neither is given."""
    if given.mount is not None:
        return join_mounts(map(parse_mount, given.mount))
    if given.config is None:
        return None
    mounts: Mapping[str, str] = file_values(given.config, ["mounts"]).get("mounts", default_mounts())
    return mounts


def _append(path: str, line: str) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "r+b") as stream:
            before = stream.read()
            stream.write((b"\n" if before and not before.endswith(b"\n") else b"") + line.encode())
    except OSError as error:
        raise StartError(f"cannot write the tokens file {path!r}: {error.strerror or error}") from error


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged token",
        description="Make a token. Its line for the tokens file goes to standard output, the token itself to standard"
        " error: it is shown only once, and not stored.",
        epilog="Exit status: 0: made; 1: the tokens file cannot be written; 2: usage or configuration error.",
    )
    parser.add_argument("name", metavar="NAME", help="name of its owner, which the log shows")
    parser.add_argument(
        "scope",
        metavar="SCOPE",
        help="read, write or delete, or several of them with commas: each for everything, for an interface"
        " (read:files) or for a repository (write:data/pets)",
    )
    parser.add_argument("--tokens", metavar="FILE", help="append the line to this file, and print only the token")
    parser.add_argument("--config", metavar="FILE", help="the daemon's configuration: scopes may name its mounts")
    parser.add_argument(
        "--mount", metavar="NAME=PREFIX", action="append", help="a mount of the daemon, instead of --config; repeatable"
    )
    return parser
