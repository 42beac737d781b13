"""Fields of a configuration, each declared once: in a class of options, by `declare`.

A declaration holds everything that flags, the configuration file, `--help` and the manual need to know of a field.
This module reads texts into values by these declarations; it does not know which fields there are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

from filestoraged.command_errors import StartError, UsageError
from filestoraged.store.permissions import write_fault, write_warning

log = logging.getLogger(__name__)


class ConfigField(NamedTuple):
    """`parse` turns the text of one value into the value, or raises UsageError."""

    # As a flag without its dashes, and as an option of the file.
    name: str
    metavar: str
    # As `--help` and the manual show it.
    default: str
    help: str
    parse: Callable[[str], Any]
    # Turns the parsed values of a repeatable option into the value of the attribute; None for an option given once.
    join: Callable[[list[Any]], Any] | None
    # The name in the class of options.
    attribute: str
    make_default: Callable[[], Any]
    # As a flag it has no value, and means `yes`.
    is_switch: bool = False

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
    is_switch: bool = False,
) -> Any:
    """Declare a field of a class of options.

    The default is `default`, or what `make_default` returns when the options are made; documents show it as `shown`.
    The option is called as the field unless it has a `name`. One with `join` may be given several times.
    """
    text = str(default) if shown is None else shown
    make = make_default or (lambda: default)
    # The class gives the field its attribute.
    return ConfigField(name or "", metavar, text, help_, parse, join, "", make, is_switch)


class Options:
    """Base of a class of options. The attributes of its instances are its declared fields, and cannot be set.

    Not a dataclass: `dataclasses` imports `inspect`, and with that takes 1.3 MiB.
    """

    # The declared fields in their order, those of base classes first.
    fields: ClassVar[tuple[ConfigField, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = {name: each for name, each in vars(cls).items() if isinstance(each, ConfigField)}
        named = [each._replace(attribute=name, name=each.name or name.replace("_", "-")) for name, each in own.items()]
        inherited = [field for base in cls.__bases__ for field in getattr(base, "fields", ())]
        cls.fields = (*dict.fromkeys(inherited), *named)

    def __init__(self, **values: Any) -> None:
        """Fields without a value get their defaults. Raises TypeError for a value of no field."""
        unknown = values.keys() - {field.attribute for field in self.fields}
        if unknown:
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        for field in self.fields:
            self.__dict__[field.attribute] = (
                values[field.attribute] if field.attribute in values else field.make_default()
            )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"the option {name!r} cannot be set: options are made once")


def parse_values(texts: Mapping[str, Any], fields: Collection[ConfigField]) -> dict[str, Any]:
    """Return the values of those of the fields that have a text, by their attributes. Raises UsageError."""
    return {field.attribute: field.value(texts[field.name]) for field in fields if field.name in texts}


def read_text(path: str, description: str) -> str:
    """Return the text of an operator's file, which messages call by its description. Warns if its group may write it.

    Raises StartError where it cannot be read, or where all users may write it.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            fault, warning = write_fault(stream.fileno()), write_warning(stream.fileno())
            if fault is not None:
                raise StartError(f"the {description} {path!r} {fault}")
            if warning is not None:
                log.warning("the %s %r %s", description, path, warning)
            return stream.read()
    except UnicodeDecodeError as error:
        raise StartError(f"cannot read the {description} {path!r}: it is not UTF-8") from error
    except (OSError, ValueError) as error:
        # ValueError: the path has a null byte.
        raise StartError(
            f"cannot read the {description} {path!r}: {getattr(error, 'strerror', None) or error}"
        ) from error
