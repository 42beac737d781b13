"""The configuration file. It is loaded where there is one: `configparser` takes 0.4 MiB."""

from __future__ import annotations

import configparser
from collections.abc import Collection
from typing import Any

from filestoraged.daemon.fields import ConfigField, read_text
from filestoraged.errors import UsageError

_SECTION = "filestoraged"


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


def _read_section(path: str) -> list[tuple[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), default_section="")
    try:
        parser.read_string(read_text(path, "configuration"), source=path)
    except configparser.Error as error:
        raise UsageError(f"configuration {path!r} is not an INI file: {' '.join(str(error).split())}") from error
    if not parser.has_section(_SECTION):
        raise UsageError(f"configuration {path!r} has no section [{_SECTION}]")
    return parser.items(_SECTION)
