"""The command `filestoraged`: subcommands, and how it ends when it cannot begin."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from filestoraged.errors import CheckError, StartError, UsageError

# Who does it, by its name in the module of that name. Only what is asked for is loaded: a daemon runs for long, and
# needs no memory for what checks.
_COMMANDS: dict[str, str] = {
    "serve": "commands.serve.serve",
    "check": "commands.check.check",
    "token": "commands.token.token",
    "memcached-check": "commands.memcached_check.memcached_check",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit status: 0, 1 where it could not start, 2 where it was told nonsense.

    The checks have their own: 1 says that something was found.
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
    """Raises UsageError, with what may have been meant, where the word is no command."""
    if word in _COMMANDS:
        return word
    # Three letters: "serv" and "server" both mean serve.
    meant = [known for known in (*_COMMANDS, "--help", "--version") if word[:3] == known.lstrip("-")[:3]]
    hint = f"did you mean {meant[0]}?" if meant else f"there are {', '.join(_COMMANDS)}."
    raise UsageError(f"Unknown command {word!r}: {hint} See filestoraged --help.")


def _load(command: str) -> Callable[[Sequence[str]], int]:
    module, _, name = _COMMANDS[command].rpartition(".")
    loaded: Callable[[Sequence[str]], int] = getattr(importlib.import_module(f"filestoraged.daemon.{module}"), name)
    return loaded


def _complain(error: Exception, status: int) -> int:
    # What was given may have line breaks or orders to a terminal in it.
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(error))
    sys.stderr.write(f"filestoraged: {text}\n")
    return status
