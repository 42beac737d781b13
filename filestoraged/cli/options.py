"""The parser of a command's options."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from filestoraged.command_errors import UsageError
from filestoraged.daemon.fields import ConfigField


class CommandParser(argparse.ArgumentParser):
    """Raises UsageError where argparse would end the program. Options cannot be abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            word = unknown.split(" ")[0]
            message = f"unknown option {word!r}" if word.startswith("-") else f"unexpected argument {word!r}"
        raise UsageError(message)

    def add_field(self, field: ConfigField) -> None:
        """Add an option whose text is kept as it is: values are parsed when the file has been read, too."""
        repeatable = "" if field.join is None else "; repeatable"
        # argparse formats help by %.
        help_ = f"{field.help}{repeatable} ({field.default})".replace("%", "%%")
        if field.is_switch:
            self.add_argument(f"--{field.name}", dest=field.name, action="store_const", const="yes", help=help_)
            return
        action = "store" if field.join is None else "append"
        self.add_argument(f"--{field.name}", dest=field.name, metavar=field.metavar, action=action, help=help_)
