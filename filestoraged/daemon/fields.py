"""Fields of a configuration, each declared once: in a dataclass, by `declare`.

A declaration holds everything that flags, the configuration file, `--help` and the manual need to know of a field.
This module reads texts into values by these declarations; it does not know which fields there are.
"""

from __future__ import annotations

import argparse
import configparser
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from filestoraged.errors import StartError, UsageError

_SECTION = "filestoraged"

_DECLARATION = "declaration"


class ConfigField(NamedTuple):
    """`parse` turns the text of one value into the value, or raises UsageError."""

    # As a flag without its dashes, and as an option of the file.
    name: str
    metavar: str
    # As `--help` and the manual show it.
    default: str
    help: str
    parse: Callable[[str], Any]
    # Turns the parsed values of a repeatable option into the value of the dataclass; None for an option given once.
    join: Callable[[list[Any]], Any] | None
    # The name in the dataclass.
    attribute: str

    def value(self, text: str | Sequence[str]) -> Any:
        """Parse the text, or the texts where the option is repeatable. Raises UsageError, which names the option."""
        try:
            return self.parse(str(text)) if self.join is None else self.join([self.parse(each) for each in text])
        except UsageError as error:
            raise UsageError(f"--{self.name}: {error}") from error


def declare(
    parse: Callable[[str], Any],
    metavar: str,
    help_: str,
    *,
    default: Any = None,
    make_default: Callable[[], Any] | None = None,
    shown: str | None = None,
    name: str | None = None,
    join: Callable[[list[Any]], Any] | None = None,
) -> Any:
    """Declare a field of a dataclass.

    The default is `default`, or what `make_default` returns when the dataclass is made; documents show it as `shown`.
    The option is called as the field unless it has a `name`. One with `join` may be given several times.
    """
    metadata = {_DECLARATION: (parse, metavar, help_, str(default) if shown is None else shown, name, join)}
    if make_default is not None:
        return dataclasses.field(default_factory=make_default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def declared(record: type) -> tuple[ConfigField, ...]:
    """Return the declarations of a dataclass, in their order."""
    return tuple(_declared(each) for each in dataclasses.fields(record))


def _declared(field: dataclasses.Field[Any]) -> ConfigField:
    parse, metavar, help_, shown, name, join = field.metadata[_DECLARATION]
    return ConfigField(name or field.name.replace("_", "-"), metavar, shown, help_, parse, join, field.name)


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
        self.add_argument(
            f"--{field.name}",
            dest=field.name,
            metavar=field.metavar,
            action="store" if field.join is None else "append",
            # argparse formats help by %.
            help=f"{field.help}{repeatable} ({field.default})".replace("%", "%%"),
        )


def read_file(path: str, fields: Collection[ConfigField]) -> dict[str, Any]:
    """Return the texts of the options in an INI file, by their names. A repeatable option has a value on each line.

    Raises StartError where the file cannot be read, and UsageError where it sets an option that is none of `fields`.
    """
    known = {field.name: field for field in fields}
    texts: dict[str, Any] = {}
    for name, text in _read_section(path):
        if name not in known:
            raise UsageError(f"configuration {path!r}: unknown option {name!r}")
        if "\0" in text:
            raise UsageError(f"configuration {path!r}: the value of {name!r} has a NUL character")
        texts[name] = text if known[name].join is None else text.split()
        if not texts[name]:
            raise UsageError(f"configuration {path!r}: the option {name!r} has no value")
    return texts


def parse_values(texts: Mapping[str, Any], fields: Collection[ConfigField]) -> dict[str, Any]:
    """Return the values of those of the fields that have a text, by their attributes. Raises UsageError."""
    return {field.attribute: field.value(texts[field.name]) for field in fields if field.name in texts}


def read_text(path: str, description: str) -> str:
    """Return the text of an operator's file, which errors call by its description. Raises StartError."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise StartError(f"cannot read the {description} {path!r}: it is not UTF-8") from error
    except (OSError, ValueError) as error:
        # ValueError: the path has a null byte.
        raise StartError(
            f"cannot read the {description} {path!r}: {getattr(error, 'strerror', None) or error}"
        ) from error


def _read_section(path: str) -> list[tuple[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    try:
        parser.read_string(read_text(path, "configuration"), source=path)
    except configparser.Error as error:
        raise UsageError(f"configuration {path!r} is not an INI file: {' '.join(str(error).split())}") from error
    if not parser.has_section(_SECTION):
        raise UsageError(f"configuration {path!r} has no section [{_SECTION}]")
    return parser.items(_SECTION)
