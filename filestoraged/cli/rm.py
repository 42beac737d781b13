"""`filestoraged rm`: removes objects from a daemon."""

from __future__ import annotations

from collections.abc import Sequence

from filestoraged.cli.client_options import client_parser, make_client, run_client
from filestoraged.cli.client_output import ClientOutput
from filestoraged.cli.options import CommandParser
from filestoraged.client.reference import parse_object
from filestoraged.errors import NotFound


def rm(arguments: Sequence[str]) -> int:
    """Print nothing, unless --json is given. Raises UsageError and StartError."""
    given = make_parser().parse_args(arguments)
    for name in given.names:
        parse_object(name)
    output = ClientOutput(json=given.json)
    client = make_client(given, output)

    def remove(name: str) -> None:
        try:
            client.delete(name, given.repository)
        except NotFound:
            if not given.ignore_missing:
                raise
        output.add("", {"name": name, "hash": parse_object(name).digest})

    return run_client(client, given.names, remove, output)


def make_parser() -> CommandParser:
    parser = client_parser("rm", "Remove objects by their digests or URLs.", "--from")
    parser.add_argument("names", metavar="NAME", nargs="+", help="a digest, or the URL of an object")
    parser.add_argument("--repository", metavar="NAME", help="the repository that has the objects")
    parser.add_argument("--ignore-missing", action="store_true", help="take what does not exist as removed")
    return parser
