"""The command `filestoraged`: its subcommands, and its exit status when one of them cannot start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from filestoraged.daemon.loading import hidden, load
from filestoraged.errors import CheckError, StartError, UsageError, printable

# The function of each subcommand, by its module and name. `make_parser` of the module has its options.
COMMANDS: dict[str, str] = {
    "serve": "serve.serve",
    "check": "check.check",
    "prune": "prune.prune",
    "token": "token.token",
    "memcached-check": "memcached_check.memcached_check",
    "s3-check": "s3_check.s3_check",
    "migrate": "migrate.migrate",
    "put": "put.put",
    "get": "get.get",
    "rm": "rm.rm",
    "list": "listing.listing",
    "completion": "completion.completion",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns its exit status: 1: cannot start; 2: usage or configuration error.

    The checks, `prune` and `migrate` have another meaning of 1: something was found, or moved. So have the commands of
    clients: something failed.
    """
    given: list[str] = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = _command(given.pop(0)) if given and not given[0].startswith("-") else "serve"
        return _load(command)(given)
    except (UsageError, CheckError) as error:
        return _complain(error, 2)
    except StartError as error:
        return _complain(error, 1)


def _command(word: str) -> str:
    """Raises UsageError, with a suggestion, where the word is not a subcommand."""
    if word in COMMANDS:
        return word
    # Three letters: "serv" and "server" both mean serve.
    similar = [known for known in (*COMMANDS, "--help", "--version", "--manual") if word[:3] == known.lstrip("-")[:3]]
    hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(COMMANDS)}; see --help"
    raise UsageError(f"unknown command {word!r}: {hint}")


def _load(command: str) -> Callable[[Sequence[str]], int]:
    module, _, name = COMMANDS[command].rpartition(".")
    if command != "serve":
        return _load_function(module, name)
    # `http.server` imports `http.client` and `shutil`, which import these where they can. They take 1.3 MiB, and a
    # daemon neither sends requests nor makes archives by them. Modules that are loaded later find them.
    with hidden("ssl", "bz2", "lzma"):
        return _load_function(module, name)


def _load_function(module: str, name: str) -> Callable[[Sequence[str]], int]:
    loaded: Callable[[Sequence[str]], int] = load(f"cli.{module}", name)
    return loaded


def _complain(error: Exception, status: int) -> int:
    # Arguments may have line breaks, or control characters for a terminal.
    sys.stderr.write(f"filestoraged: {printable(str(error))}\n")
    return status
