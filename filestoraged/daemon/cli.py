"""The command `filestoraged`: its subcommands, and its exit status when one of them cannot start."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from filestoraged.errors import CheckError, StartError, UsageError

# The function of each subcommand, by its module and name. Only that module is imported: a daemon runs for long, and
# needs no memory for checks.
_COMMANDS: dict[str, str] = {
    "serve": "commands.serve.serve",
    "check": "commands.check.check",
    "token": "commands.token.token",
    "memcached-check": "commands.memcached_check.memcached_check",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns its exit status: 1: cannot start; 2: usage or configuration error.

    The checks have another meaning of 1: something was found.
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
    if word in _COMMANDS:
        return word
    # Three letters: "serv" and "server" both mean serve.
    similar = [known for known in (*_COMMANDS, "--help", "--version") if word[:3] == known.lstrip("-")[:3]]
    hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(_COMMANDS)}; see --help"
    raise UsageError(f"unknown command {word!r}: {hint}")


def _load(command: str) -> Callable[[Sequence[str]], int]:
    module, _, name = _COMMANDS[command].rpartition(".")
    loaded: Callable[[Sequence[str]], int] = getattr(importlib.import_module(f"filestoraged.daemon.{module}"), name)
    return loaded


def _complain(error: Exception, status: int) -> int:
    # Arguments may have line breaks, or control characters for a terminal.
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(error))
    sys.stderr.write(f"filestoraged: {text}\n")
    return status
