"""`filestoraged completion`: the completion of commands and options for a shell.

The parsers of all subcommands are read into a table, which `shells` writes in the language of each shell.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence

from filestoraged.cli.options import CommandParser
from filestoraged.cli.shells import SHELLS, CommandSyntax, Option, Words
from filestoraged.daemon.values import LOG_LEVELS
from filestoraged.digest import ALGORITHMS

# The values of options whose parsers leave them as they are given.
_VALUES = {"hash": tuple(ALGORITHMS), "log-level": LOG_LEVELS}

_WORDS = {"FILE": Words.FILES, "DIR": Words.DIRECTORIES}


def completion(arguments: Sequence[str], parsers: Mapping[str, argparse.ArgumentParser]) -> int:
    """Print the completion for a shell. Raises UsageError."""
    given = make_parser().parse_args(arguments)
    sys.stdout.write(SHELLS[given.shell](commands(parsers)))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="filestoraged completion",
        description="Print the completion of commands and options for a shell.",
        epilog="Exit status: 0: printed; 2: usage error.",
    )
    parser.add_argument("shell", metavar="bash|zsh|fish", choices=list(SHELLS), help="the shell")
    return parser


def commands(parsers: Mapping[str, argparse.ArgumentParser]) -> list[CommandSyntax]:
    """Return the subcommands, which are by their names, with the options of their parsers."""
    return [_command(name, parser) for name, parser in parsers.items()]


def _command(name: str, parser: argparse.ArgumentParser) -> CommandSyntax:
    actions = parser._actions
    options = [option for action in actions for option in _options(action)]
    arguments = [_words(action, action.dest) for action in actions if not action.option_strings]
    return CommandSyntax(name, _brief(parser.description or ""), options, arguments)


def _options(action: argparse.Action) -> list[Option]:
    """The long forms of an option: the short ones are not worth a completion."""
    names = [name.removeprefix("--") for name in action.option_strings if name.startswith("--")]
    repeatable = isinstance(action, argparse._AppendAction)
    value = None if action.nargs == 0 else str(action.metavar or action.dest.upper())
    return [Option(name, _brief(action.help or ""), value, _words(action, name), repeatable) for name in names]


def _words(action: argparse.Action, name: str) -> Words:
    """What can be completed of a value."""
    if action.choices is not None or name in _VALUES:
        return Words(values=tuple(map(str, action.choices or _VALUES[name])))
    return _WORDS.get(str(action.metavar), Words.NONE)


def _brief(text: str) -> str:
    """Shorten a help text, which argparse formats by %, to its first statement, without the default."""
    first = re.split(r"; |\. |\.$", text.replace("%%", "%"), maxsplit=1)[0]
    # Of a default with a semicolon, the parenthesis is still open.
    return re.sub(r" \([^()]*\)?$", "", first)
