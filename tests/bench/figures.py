"""Figures: what was measured in several rounds, and the goals that it is held against."""

from __future__ import annotations

import statistics
from typing import NamedTuple

# Whatever is compared, this is its name.
OURS = "filestoraged"


class Goal(NamedTuple):
    """`limit` is a least one, unless `at_most`. `value` is None where what it needs is not installed."""

    text: str
    value: float | None
    limit: float
    at_most: bool = False

    @property
    def holds(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit


class Figure(NamedTuple):
    """`samples` has a value a round for each contender, in `unit`."""

    name: str
    unit: str
    samples: dict[str, list[float]]
    goals: list[Goal]
    # Whether the plot shows it.
    plotted: bool = False
    note: str = ""


def median(samples: list[float]) -> float:
    return statistics.median(samples)


def ratio(samples: dict[str, list[float]], ours: str, other: str) -> float | None:
    """The median of the ratios round by round: a machine that drifts does so for both."""
    if other not in samples or ours not in samples:
        return None
    return statistics.median(one / another for one, another in zip(samples[ours], samples[other]))
