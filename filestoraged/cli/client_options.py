"""What the commands of clients share: their options, the client that these make, and their exit statuses."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from filestoraged.cli.client_output import ClientOutput, OutputFailed
from filestoraged.cli.options import CommandParser
from filestoraged.cli.stopping import run_with_output
from filestoraged.client.client import Client
from filestoraged.client.refusals import ServerUnreachable
from filestoraged.client.retries import Retries
from filestoraged.client.upload_state import default_directory
from filestoraged.command_errors import UsageError
from filestoraged.daemon.fields import read_text
from filestoraged.daemon.values import parse_count, parse_prefix
from filestoraged.errors import Error

# Exit statuses; the last one is that of shells for a program that SIGINT has ended.
_DONE, _FAILED = range(2)
_UNREACHABLE = 3
_INTERRUPTED = 130

_DEFAULT_URL = "http://localhost:8080"

_EPILOG = (
    f"FILESTORAGED_URL names the daemon ({_DEFAULT_URL}), FILESTORAGED_TOKEN is the token. Exit status: 0: done;"
    " 1: something failed; 2: usage error, or the output was closed; 3: the daemon cannot be reached; 130: interrupted."
)

_Item = TypeVar("_Item")


def client_parser(command: str, description: str, daemon: str) -> CommandParser:
    """Return a parser with the options of all these commands; the option `daemon` names the daemon."""
    parser = CommandParser(prog=f"filestoraged {command}", description=description, epilog=_EPILOG)
    parser.add_argument(
        daemon, dest="url", metavar="URL", help="the daemon: http://HOST[:PORT][/PREFIX], https://... or unix:/path"
    )
    parser.add_argument("--token-file", metavar="FILE", help="file with the token, instead of FILESTORAGED_TOKEN")
    parser.add_argument("--cacert", metavar="FILE", help="certificates to trust with https (the system's)")
    parser.add_argument(
        "--mount", metavar="NAME=PREFIX", action="append", default=[], help="a mount of the daemon; repeatable"
    )
    parser.add_argument("--retries", metavar="N", default="5", help="retries after a failure that may pass (5)")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each result")
    return parser


def add_password_options(parser: CommandParser) -> None:
    parser.add_argument(
        "--password",
        action="store_true",
        help="the drop has a password: FILESTORAGED_PASSWORD, or what is typed at the terminal",
    )
    parser.add_argument("--password-file", metavar="FILE", help="file with the password of the drop")


def make_client(given: argparse.Namespace, output: ClientOutput) -> Client:
    """Raises UsageError and StartError."""
    token = os.environ.get("FILESTORAGED_TOKEN") or None
    if given.token_file is not None:
        token = _first_line(given.token_file, "token file")
    return Client(
        given.url or os.environ.get("FILESTORAGED_URL") or _DEFAULT_URL,
        token=token,
        mounts=dict(map(_parse_mount, given.mount)),
        cacert=given.cacert,
        retries=Retries(0 if given.retries == "0" else parse_count(given.retries), notify=output.note_retry),
        state_directory=default_directory(),
    )


def password_of(given: argparse.Namespace) -> str | None:
    """Return the password that the options ask for. Raises UsageError and StartError."""
    if given.password_file is not None:
        return _first_line(given.password_file, "password file")
    if not given.password:
        return None
    password = os.environ.get("FILESTORAGED_PASSWORD") or _typed_password()
    if not password:
        raise UsageError("the password is empty")
    return password


def run_client(client: Client, items: Iterable[_Item], work: Callable[[_Item], None], output: ClientOutput) -> int:
    """Do the work for each item, and report those that fail by their names. Returns the exit status.

    Where the daemon cannot be reached, the rest is not tried: it would fail in the same way, after as many attempts.
    """

    def run() -> int:
        status = _DONE
        for item in items:
            try:
                work(item)
            except UsageError:
                raise
            except OutputFailed as failure:
                raise failure.error from failure
            except (Error, OSError) as error:
                output.report_failure(str(item), error)
                status = _FAILED
                if isinstance(error, ServerUnreachable):
                    return _UNREACHABLE
        return status

    try:
        with client:
            return run_with_output(run, "the results")
    except KeyboardInterrupt:
        # What has begun is continued by the same command. The terminal shows ^C.
        sys.stderr.write("\nfilestoraged: interrupted\n")
        return _INTERRUPTED


def _parse_mount(text: str) -> tuple[str, str]:
    """Read NAME=PREFIX. The client knows the names; the daemon's own parser would load all of its interfaces."""
    name, separator, prefix = text.partition("=")
    if not separator:
        raise UsageError(f"invalid mount {text!r}: expected NAME=PREFIX, such as repositories=/data")
    return name, parse_prefix(prefix)


def _first_line(path: str, description: str) -> str:
    line = read_text(path, description).partition("\n")[0].rstrip("\r")
    if not line:
        raise UsageError(f"the {description} {path!r} has no text in its first line")
    return line


def _typed_password() -> str:
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("no terminal to type the password at: set FILESTORAGED_PASSWORD, or use --password-file")
    try:
        return getpass.getpass()
    except EOFError as error:
        raise UsageError("no password was typed") from error
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
