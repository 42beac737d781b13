"""What a store may show, judged by the changes that were begun, answered and failed.

An answered change happened between its beginning and its answer; one that was not answered may have happened at any
time since, or never. So a state is possible if some change leads to it that no answered one has undone since.
"""

from __future__ import annotations

from typing import NamedTuple

# A namespace and a name.
Key = tuple[str, str]

ANSWERED, FAILED, OPEN = "answered", "failed", "open"

# Later than any call.
_NEVER = 10**12


class Change:
    """Makes an object present or absent. `start` and `end` count the system calls of the machine."""

    def __init__(self, is_present: bool, start: int) -> None:
        self.is_present = is_present
        self.start = start
        self.end = _NEVER
        self.outcome = OPEN

    def __repr__(self) -> str:
        kind = "upload" if self.is_present else "removal"
        return f"{self.outcome} {kind} {self.start} to {'-' if self.end == _NEVER else self.end}"


class Impossible(AssertionError):
    """The store shows what it may not, or has lost what it may not."""


class Period(NamedTuple):
    """Calls during which something was seen."""

    start: int
    end: int


class Oracle:
    def __init__(self, keys: list[Key]) -> None:
        self._changes: dict[Key, list[Change]] = {key: [_known(False, -1)] for key in keys}

    def begin(self, key: Key, *, is_present: bool, now: int) -> Change:
        change = Change(is_present, now)
        self._changes[key].append(change)
        return change

    def end(self, change: Change, outcome: str, now: int) -> None:
        change.outcome, change.end = outcome, now

    def check(self, key: Key, *, is_present: bool, seen: Period, forgives: bool = False) -> None:
        """Raise Impossible if the object cannot have been present, or absent, at any time of that period.

        `forgives` lets an upload that failed be there: a power cut may bring back a name that was taken back.
        """
        for change in self._changes[key]:
            if change.is_present == is_present and self._may_be(change, key, seen, forgives):
                return
        state = "there" if is_present else "missing"
        raise Impossible(f"{key} is {state} between calls {seen.start} and {seen.end}: {self._changes[key]}")

    def know(self, key: Key, *, is_present: bool, now: int) -> None:
        """Whatever happened before, this is the state from now on."""
        self._changes[key] = [_known(is_present, now)]

    def _may_be(self, change: Change, key: Key, seen: Period, forgives: bool) -> bool:
        if change.start > seen.end or (change.outcome == FAILED and change.is_present and not forgives):
            # While it is in progress, an upload that will fail may be visible.
            return change.start <= seen.end and change.end >= seen.start
        return not any(
            other.outcome == ANSWERED
            and other.is_present != change.is_present
            and other.start > change.end
            and other.end < seen.start
            for other in self._changes[key]
        )


def _known(is_present: bool, now: int) -> Change:
    change = Change(is_present, now)
    change.outcome, change.end = ANSWERED, now
    return change
