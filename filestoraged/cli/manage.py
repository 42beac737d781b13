"""`filestoraged rm` and `filestoraged list`: remove objects from a daemon, and list those of a repository."""

from __future__ import annotations

from collections.abc import Sequence

from filestoraged.cli.client_options import client_parser, make_client, run_client
from filestoraged.cli.client_output import ClientOutput
from filestoraged.cli.options import CommandParser
from filestoraged.client.reference import parse_object
from filestoraged.errors import NotFound


def rm(arguments: Sequence[str]) -> int:
    """Print nothing, unless --json is given. Raises UsageError and StartError."""
    given = make_rm_parser().parse_args(arguments)
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


def make_rm_parser() -> CommandParser:
    parser = client_parser("rm", "Remove objects by their digests or URLs.", "--from")
    parser.add_argument("names", metavar="NAME", nargs="+", help="a digest, or the URL of an object")
    parser.add_argument("--repository", metavar="NAME", help="the repository that has the objects")
    parser.add_argument("--ignore-missing", action="store_true", help="take what does not exist as removed")
    return parser


def list_(arguments: Sequence[str]) -> int:
    """Print a line for each repository, or for each object. Raises UsageError and StartError."""
    given = make_list_parser().parse_args(arguments)
    output = ClientOutput(json=given.json)
    client = make_client(given, output)

    def list_objects(repository: str) -> None:
        for each in client.list(repository):
            output.add(f"{each.oid} {each.modified} {each.size}", each._asdict())

    def list_repositories(_: str) -> None:
        for name in client.repositories():
            output.add(name, {"repository": name})

    if given.repository is None:
        return run_client(client, ["repositories"], list_repositories, output)
    return run_client(client, [given.repository], list_objects, output)


def make_list_parser() -> CommandParser:
    parser = client_parser(
        "list",
        "List the repositories, or the objects of one: oid, time and size in bytes, by oid.",
        "--from",
    )
    parser.add_argument("repository", metavar="REPOSITORY", nargs="?", help="list the objects of this repository")
    return parser
