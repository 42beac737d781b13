"""The option `--limit`: the rules of areas as an operator writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from filestoraged.command_errors import UsageError
from filestoraged.daemon.backends import StoreOptions
from filestoraged.daemon.values import parse_duration, parse_max_size, parse_size
from filestoraged.store.limits import DATA, DROPS, FILES, NAMES, RESTIC, Limit, Rules, kinds_of

# What each kind of area can have.
_STORED = ("quota", "max-size", "max-age")
_RULES = {
    FILES: _STORED,
    DATA: _STORED,
    DROPS: _STORED,
    NAMES: (*_STORED, "max-unused", "write-once", "digest-names"),
    RESTIC: ("quota",),
}

AREAS = "files, data/REPOSITORY, names/SPACE, restic/REPOSITORY or drops, with * for any characters"


def parse_limit(text: str) -> Limit:
    """Return the limit of `AREA=RULES`. Raises UsageError."""
    pattern, separator, rules = text.partition("=")
    if not separator:
        raise UsageError(f"invalid limit {text!r}: expected AREA=RULES, such as data/*=quota:10G,max-age:90d")
    kinds = kinds_of(pattern)
    if not kinds:
        raise UsageError(f"invalid area {pattern!r}: expected {AREAS}")
    values: dict[str, Any] = {}
    for rule in rules.split(","):
        name, _, _ = rule.partition(":")
        for kind in kinds:
            if name not in _RULES[kind]:
                raise UsageError(f"unknown rule {rule!r} of {pattern!r}: {kind} can have {', '.join(_RULES[kind])}")
        attribute = name.replace("-", "_")
        if attribute in values:
            raise UsageError(f"{pattern!r} has the rule {name} twice")
        values[attribute] = _value(name, rule)
    return Limit(pattern, Rules(**values))


def validate_limits(limits: tuple[Limit, ...], options: StoreOptions) -> None:
    """Raise UsageError for limits of objects that memcached keeps: it removes objects itself, and lists none."""
    for each in limits if options.memcached else ():
        kept = [kind for kind in kinds_of(each.pattern) if kind != DROPS]
        if kept:
            raise UsageError(f"--limit {each.pattern} cannot limit {kept[0]}: --memcached keeps its objects")


def _value(name: str, rule: str) -> Any:
    """Raises UsageError."""
    _, separator, text = rule.partition(":")
    if name == "write-once":
        if separator:
            raise UsageError(f"invalid rule {rule!r}: write-once has no value")
        return True
    if not text:
        raise UsageError(f"invalid rule {rule!r}: expected {name}:{_METAVARS[name]}")
    return _PARSERS[name](text)


def _parse_prefix(text: str) -> str:
    if text.startswith("/"):
        raise UsageError(f"invalid prefix {text!r}: expected the beginning of names, such as cas/")
    return text


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "quota": parse_size,
    "max-size": parse_max_size,
    "max-age": parse_duration,
    "max-unused": parse_duration,
    "digest-names": _parse_prefix,
}
_METAVARS = {"quota": "SIZE", "max-size": "SIZE", "max-age": "TIME", "max-unused": "TIME", "digest-names": "PREFIX"}
