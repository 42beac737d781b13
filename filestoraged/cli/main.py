"""The command `filestoraged`: its subcommands, and its exit status when one of them cannot start.

The table of subcommands imports each when it is used: a command does not need the others, and a daemon has no memory
for what it does not use.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from filestoraged.command_errors import CheckError, StartError, UsageError
from filestoraged.errors import printable

if TYPE_CHECKING:
    from filestoraged.cli.options import CommandParser


class Command(NamedTuple):
    # Returns the exit status.
    run: Callable[[Sequence[str]], int]
    make_parser: Callable[[], CommandParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns its exit status: 1: cannot start; 2: usage or configuration error.

    The checks, `prune` and `migrate` have another meaning of 1: something was found, or moved. So have the commands of
    clients: something failed.
    """
    given: list[str] = list(sys.argv[1:] if arguments is None else arguments)
    try:
        name = _name(given.pop(0)) if given and not given[0].startswith("-") else "serve"
        return COMMANDS[name]().run(given)
    except (UsageError, CheckError) as error:
        return _complain(error, 2)
    except StartError as error:
        return _complain(error, 1)


def _name(word: str) -> str:
    """Raises UsageError, with a suggestion, where the word is not a subcommand."""
    if word in COMMANDS:
        return word
    # Three letters: "serv" and "server" both mean serve.
    similar = [known for known in (*COMMANDS, "--help", "--version", "--manual") if word[:3] == known.lstrip("-")[:3]]
    hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(COMMANDS)}; see --help"
    raise UsageError(f"unknown command {word!r}: {hint}")


def make_parsers() -> Mapping[str, CommandParser]:
    """Return the parsers of all subcommands, in the order of their table."""
    return {name: load().make_parser() for name, load in COMMANDS.items()}


def _serve() -> Command:
    # `http.server` imports `http.client` and `shutil`, which import these where they can. They take 1.3 MiB, and a
    # daemon neither sends requests nor makes archives by them. Modules that are loaded later find them.
    with hidden("ssl", "bz2", "lzma"):
        from filestoraged.cli.serve import make_parser, serve

    return Command(serve, make_parser)


def _check() -> Command:
    from filestoraged.cli.check import check, make_parser

    return Command(check, make_parser)


def _prune() -> Command:
    from filestoraged.cli.prune import make_parser, prune

    return Command(prune, make_parser)


def _usage() -> Command:
    from filestoraged.cli.usage import make_parser, usage

    return Command(usage, make_parser)


def _token() -> Command:
    from filestoraged.cli.token import make_parser, token

    return Command(token, make_parser)


def _memcached_check() -> Command:
    from filestoraged.cli.fitness import make_memcached_check_parser, memcached_check

    return Command(memcached_check, make_memcached_check_parser)


def _s3_check() -> Command:
    from filestoraged.cli.fitness import make_s3_check_parser, s3_check

    return Command(s3_check, make_s3_check_parser)


def _migrate() -> Command:
    from filestoraged.cli.migrate import make_parser, migrate

    return Command(migrate, make_parser)


def _put() -> Command:
    from filestoraged.cli.put import make_parser, put

    return Command(put, make_parser)


def _get() -> Command:
    from filestoraged.cli.get import get, make_parser

    return Command(get, make_parser)


def _rm() -> Command:
    from filestoraged.cli.manage import make_rm_parser, rm

    return Command(rm, make_rm_parser)


def _list() -> Command:
    from filestoraged.cli.manage import list_, make_list_parser

    return Command(list_, make_list_parser)


def _completion() -> Command:
    from filestoraged.cli.completion import completion, make_parser

    return Command(lambda arguments: completion(arguments, make_parsers()), make_parser)


def _complain(error: Exception, status: int) -> int:
    # Arguments may have line breaks, or control characters for a terminal.
    sys.stderr.write(f"filestoraged: {printable(str(error))}\n")
    return status


@contextlib.contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Make imports of modules fail within the block, except those that were imported before.

    It is for importers that can do without them.
    """
    missing = [name for name in modules if name not in sys.modules]
    try:
        for name in missing:
            # The import system's own way to block a module.
            sys.modules[name] = None  # type: ignore[assignment]
        yield
    finally:
        for name in missing:
            del sys.modules[name]


COMMANDS: Mapping[str, Callable[[], Command]] = {
    "serve": _serve,
    "check": _check,
    "prune": _prune,
    "usage": _usage,
    "token": _token,
    "memcached-check": _memcached_check,
    "s3-check": _s3_check,
    "migrate": _migrate,
    "put": _put,
    "get": _get,
    "rm": _rm,
    "list": _list,
    "completion": _completion,
}
