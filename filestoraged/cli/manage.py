"""`filestoraged rm` and `filestoraged list`: remove objects from a daemon, and list those of a repository."""

from __future__ import annotations

from collections.abc import Sequence

from filestoraged.cli.client_options import client_parser, make_client, run_client
from filestoraged.cli.client_output import ClientOutput
from filestoraged.cli.options import CommandParser
from filestoraged.client.location import parse_object
from filestoraged.client.names import is_name, parse_name
from filestoraged.command_errors import UsageError
from filestoraged.errors import NotFound, printable


def rm(arguments: Sequence[str]) -> int:
    """Print nothing, unless --json is given. Raises UsageError and StartError."""
    given = make_rm_parser().parse_args(arguments)
    for name in given.names:
        _check(name)
    if given.if_oid is not None and not all(map(is_name, given.names)):
        raise UsageError("--if-oid is for SPACE/NAME")
    output = ClientOutput(json=given.json)
    client = make_client(given, output)

    def remove(name: str) -> None:
        try:
            if is_name(name):
                client.delete_name(*parse_name(name), if_oid=given.if_oid)
            else:
                client.delete(name, given.repository)
        except NotFound:
            if not given.ignore_missing:
                raise
        output.add("", {"name": name, **({} if is_name(name) else {"hash": parse_object(name).digest})})

    return run_client(client, given.names, remove, output)


def _check(name: str) -> None:
    """Raises UsageError before anything is removed."""
    if is_name(name):
        parse_name(name)
    else:
        parse_object(name)


def make_rm_parser() -> CommandParser:
    parser = client_parser("rm", "Remove objects by their digests or URLs, and names.", "--from")
    parser.add_argument("names", metavar="NAME", nargs="+", help="a digest, the URL of an object, or SPACE/NAME")
    parser.add_argument("--repository", metavar="NAME", help="the repository that has the objects")
    parser.add_argument("--if-oid", metavar="OID", help="only if the name leads to the object with this oid")
    parser.add_argument("--ignore-missing", action="store_true", help="take what does not exist as removed")
    return parser


def list_(arguments: Sequence[str]) -> int:
    """Print a line for each repository, object, space or name. Raises UsageError and StartError."""
    given = make_list_parser().parse_args(arguments)
    output = ClientOutput(json=given.json)
    client = make_client(given, output)

    def list_objects(repository: str) -> None:
        for each in client.list(repository):
            output.add(f"{each.oid} {each.modified} {each.size}", each._asdict())

    def list_repositories(_: str) -> None:
        for name in client.repositories():
            output.add(name, {"repository": name})

    def list_names(place: str) -> None:
        space, _, prefix = place.partition("/")
        for each in client.names(space, prefix):
            output.add(f"{each.oid} {each.modified} {each.size} {printable(each.name)}", each._asdict())

    def list_spaces(_: str) -> None:
        for name in client.spaces():
            output.add(name, {"space": name})

    if given.names or "/" in (given.repository or ""):
        if given.repository is None:
            return run_client(client, ["spaces"], list_spaces, output)
        return run_client(client, [given.repository], list_names, output)
    if given.repository is None:
        return run_client(client, ["repositories"], list_repositories, output)
    return run_client(client, [given.repository], list_objects, output)


def make_list_parser() -> CommandParser:
    parser = client_parser(
        "list",
        "List the repositories, or the objects of one: oid, time and size in bytes, by oid. With a slash, SPACE/ or"
        " SPACE/PREFIX, list the names of a space.",
        "--from",
    )
    parser.add_argument("repository", metavar="REPOSITORY", nargs="?", help="a repository, SPACE/ or SPACE/PREFIX")
    parser.add_argument("--names", action="store_true", help="list the spaces, or the names of the space")
    return parser
