"""Metrics in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram(NamedTuple):
    """The value of a histogram: observations per bucket, not cumulated, and their `sum`.

    `bounds` are the upper bounds of all buckets but the last, which has none.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


# Labels and value.
Sample = tuple[Mapping[str, str], int | float | Histogram]


class Family(NamedTuple):
    """A metric family: samples of one name, which ends with their unit. `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]


def labelled(label: str, values: Mapping[str, int]) -> list[Sample]:
    """A sample for each value of a label."""
    return [({label: name}, value) for name, value in values.items()]


_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def exposition(families: Iterable[Family]) -> str:
    return "".join(line + "\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            yield from _histogram_lines(family.name, labels, value)
        else:
            yield _line(family.name, labels, value)


def _histogram_lines(name: str, labels: Mapping[str, str], value: Histogram) -> Iterator[str]:
    # Buckets are cumulative in the format: each one includes those before it.
    for bound, number in zip([*map(str, value.bounds), "+Inf"], accumulate(value.counts)):
        yield _line(f"{name}_bucket", {**labels, "le": bound}, number)
    yield _line(f"{name}_sum", labels, value.sum)
    yield _line(f"{name}_count", labels, sum(value.counts))


def _line(name: str, labels: Mapping[str, str], value: int | float) -> str:
    shown = ",".join([f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels.items()])
    return f"{name}{{{shown}}} {value!r}" if shown else f"{name} {value!r}"
