"""`filestoraged list`: the repositories of a daemon, or the objects of one."""

from __future__ import annotations

from collections.abc import Sequence

from filestoraged.cli.client_options import client_parser, make_client, run_client
from filestoraged.cli.client_output import ClientOutput
from filestoraged.cli.options import CommandParser


def listing(arguments: Sequence[str]) -> int:
    """Print a line for each repository, or for each object. Raises UsageError and StartError."""
    given = make_parser().parse_args(arguments)
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


def make_parser() -> CommandParser:
    parser = client_parser(
        "list",
        "List the repositories, or the objects of one: oid, time and size in bytes, by oid.",
        "--from",
    )
    parser.add_argument("repository", metavar="REPOSITORY", nargs="?", help="list the objects of this repository")
    return parser
