"""What came of one kind of requests: how many, how large, how long. One thread at a time counts, any process reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import NamedTuple, TypeVar

from filestoraged.errors import ERROR_NAMES, ClientGone
from filestoraged.web.message import REASONS

# Upper bounds of the classes of times, in seconds: a small object takes 20 us, a synced upload milliseconds, a large
# one minutes.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
FAST = BOUNDS[0]

_MICROS = 1_000_000

# Which of a tally's cells has what.
_cell = count()
_RECEIVED, _SENT, _MICROSECONDS = next(_cell), next(_cell), next(_cell)
_TIMES = [next(_cell) for _ in range(len(BOUNDS) + 1)]
_STATUSES = {status: next(_cell) for status in (*REASONS, ClientGone.status)}
_KINDS = {kind: next(_cell) for kind in ERROR_NAMES}

# How many cells there are, of 64 bits each.
SIZE = next(_cell)


_Name = TypeVar("_Name")


class Figures(NamedTuple):
    """What tallies say, with what was 0 left out."""

    # Bytes of bodies.
    received: int
    sent: int
    seconds: float
    # How many requests took as long as each of BOUNDS allows and the one before does not, and how many even longer.
    times: Sequence[int]
    statuses: dict[int, int]
    # How many were errors, by their kind.
    kinds: dict[str, int]


class RequestCounter:
    """Counts on from what is in its `cells`. Others see what was noted when it was published.

    A request is counted by adding to `statuses`, `sent` (bytes of its answer's body) and `seconds`: that is done for
    each of them, by whoever counts. Few need `note_more`.
    """

    __slots__ = (
        "_cells",
        "_kinds",
        "_received",
        "_slow",
        "_slow_published",
        "_times",
        "published",
        "seconds",
        "sent",
        "statuses",
    )

    def __init__(self, cells: memoryview) -> None:
        figures = read(cells)
        self.statuses: defaultdict[int, int] = defaultdict(int, figures.statuses)
        self.sent, self.seconds = figures.sent, figures.seconds
        self.published = True
        self._cells = cells
        self._received = figures.received
        self._times: list[int] = list(figures.times)
        self._kinds: defaultdict[str, int] = defaultdict(int, figures.kinds)
        # How many took longer than the first class has.
        self._slow = self._slow_published = sum(self._times[1:])

    def note_more(self, received: int, seconds: float, kind: str) -> None:
        """Note the size of a body, a time above FAST, and the kind of an error, "" for none."""
        self._received += received
        if seconds > FAST:
            self._times[bisect_left(BOUNDS, seconds)] += 1
            self._slow += 1
        if kind:
            self._kinds[kind] += 1

    def publish(self) -> None:
        cells = self._cells
        cells[_RECEIVED] = self._received
        cells[_SENT] = self.sent
        cells[_MICROSECONDS] = int(self.seconds * _MICROS)
        # The first class has what the others leave.
        cells[_TIMES[0]] = sum(self.statuses.values()) - self._slow
        if self._slow != self._slow_published:
            self._slow_published = self._slow
            for place, number in zip(_TIMES[1:], self._times[1:]):
                cells[place] = number
        for status, number in self.statuses.items():
            cells[_STATUSES[status]] = number
        for kind, number in self._kinds.items():
            cells[_KINDS[kind]] = number
        self.published = True


def read(cells: Sequence[int]) -> Figures:
    """What a tally has published into its `cells`; or several tallies, where theirs are added up."""
    return Figures(
        received=cells[_RECEIVED],
        sent=cells[_SENT],
        seconds=cells[_MICROSECONDS] / _MICROS,
        times=[cells[place] for place in _TIMES],
        statuses=_nonzero(cells, _STATUSES),
        kinds=_nonzero(cells, _KINDS),
    )


def _nonzero(cells: Sequence[int], places: Mapping[_Name, int]) -> dict[_Name, int]:
    return {name: cells[place] for name, place in places.items() if cells[place]}
