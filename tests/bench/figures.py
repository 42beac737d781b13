"""Figures: samples of several rounds, and the goals that they must reach."""

from __future__ import annotations

import statistics
from typing import NamedTuple

# Name of the daemon among the contenders.
OURS = "filestoraged"


class Goal(NamedTuple):
    """`limit` is a minimum, or a maximum if `at_most`. `value` is None where a required program is not installed."""

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
    """`samples` has a value for each contender and round, in `unit`."""

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
    """Return the median of the ratios of each round: a drift of the machine affects both contenders."""
    if other not in samples or ours not in samples:
        return None
    return statistics.median(one / another for one, another in zip(samples[ours], samples[other]))
