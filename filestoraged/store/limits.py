"""Which limits an area has: rules by patterns of areas. It does not know how much is stored, nor how rules are kept.

An area is called `files`, `data/REPOSITORY`, `names/SPACE`, `restic/REPOSITORY` or `drops`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from filestoraged.store import layout

# Kinds of areas. Those of the first kind are areas themselves; others have a name behind the kind and a slash.
FILES, DROPS = "files", "drops"
DATA, NAMES, RESTIC = "data", "names", "restic"
KINDS = (FILES, DATA, NAMES, RESTIC, DROPS)
NAMED_KINDS = (DATA, NAMES, RESTIC)

# Seconds between two looks at what is to be removed; and the part of its maximum to which an area is made smaller, so
# that it is not done again by the next upload.
EVICTION_INTERVAL = 10.0
EVICTED_TO = 0.9

# Areas whose rules are remembered: a name that a client makes up takes 200 bytes.
_MAX_REMEMBERED = 1000

# What a pattern can have in place of a name.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9._\-*]+")


class Rules(NamedTuple):
    """The limits of an area; None for those that it does not have. Sizes are bytes, times seconds."""

    quota: int | None = None
    max_size: int | None = None
    max_age: int | None = None
    max_unused: int | None = None
    write_once: bool = False
    # The prefix of names that are the digest of their bytes.
    digest_names: str | None = None


class Limit(NamedTuple):
    """In the pattern of areas, `*` stands for any characters."""

    pattern: str
    rules: Rules


class AreaLimits:
    """The limits of a configuration, in their order. Any thread calls it."""

    def __init__(self, limits: Sequence[Limit] = ()) -> None:
        self._limits = [(_expression(each.pattern), each.rules) for each in limits]
        # Those that have a limit, or may have one.
        self.kinds = frozenset(kind for each in limits for kind in kinds_of(each.pattern))
        self._remembered: dict[str, Rules | None] = {}

    def find(self, area: str) -> Rules | None:
        """The rules of the first limit that fits an area; None without any."""
        if area not in self._remembered:
            if len(self._remembered) >= _MAX_REMEMBERED:
                self._remembered = {}
            self._remembered[area] = next((rules for fits, rules in self._limits if fits.fullmatch(area)), None)
        return self._remembered.get(area)


def kinds_of(pattern: str) -> Sequence[str]:
    """The kinds of the areas that a pattern may fit."""
    return [kind for kind in KINDS if _may_fit(pattern, kind)]


def is_area(name: str) -> bool:
    kind, _, rest = name.partition("/")
    return layout.is_repository(rest) if kind in NAMED_KINDS else name in (FILES, DROPS)


def _may_fit(pattern: str, kind: str) -> bool:
    if kind not in NAMED_KINDS:
        return _expression(pattern).fullmatch(kind) is not None
    # The pattern is cut where the kind ends, which may be within what a star stands for.
    return any(
        _expression(pattern[:end]).fullmatch(f"{kind}/") and _NAME_PATTERN.fullmatch(pattern[start:])
        for end in range(1, len(pattern) + 1)
        for start in (end, end - pattern[:end].endswith("*"))
    )


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
