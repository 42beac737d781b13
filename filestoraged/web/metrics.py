"""What the workers have done and do, in memory that they share: whichever is asked can tell of all.

Each worker writes to a slot of its own. What it has counted stays there when it ends, and whoever has the slot next
counts on from there, so that no count ever goes down.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from filestoraged.web import counters
from filestoraged.web.counters import Figures, RequestCounter
from filestoraged.web.message import METHODS

# What stands for methods that no page has, and for no interface: what could not be read as a request has neither.
OTHER = "other"
NOWHERE = "none"

# The cells of a slot's head: the last sign of life, in milliseconds of the monotonic clock, 0 for none; requests that
# are under way; connections, and those of them that nobody serves.
_BEAT, _UNDER_WAY, _CONNECTIONS, _PARKED = _GAUGES = range(4)
# Whether anybody has ever had the slot.
_EVER = 4
_HEAD = 5

# One kind of requests: an interface, and a method.
Line = tuple[str, str]


class Now(NamedTuple):
    """What is at this moment, in all workers."""

    workers: int
    # Requests that were not answered at once.
    under_way: int
    connections: int
    # Connections that nobody serves.
    parked: int


class Metrics:
    """Made before the fork, with room for so many workers at a time as there are `slots`.

    The loop calls `on_loop`, `publish` and `beat`, which need no lock; threads call `note_on_thread`, which has one.
    """

    def __init__(self, interfaces: Sequence[str], slots: int = 1) -> None:
        """`interfaces` are all that requests are counted for."""
        self.slots = slots
        lines = list(product((*interfaces, NOWHERE), (*METHODS, OTHER)))
        self._places = {line: number * counters.SIZE for number, line in enumerate(lines)}
        # The loop and the threads of a worker count by themselves.
        self._threads_place = len(lines) * counters.SIZE
        self._length = 2 * self._threads_place
        # The kernel gives memory out by pages, when they are looked at: heads lie together, since all of them are.
        self._heads = memoryview(mmap.mmap(-1, 8 * _HEAD * slots)).cast("q")
        self._cells = memoryview(mmap.mmap(-1, 8 * self._length * slots)).cast("q")
        self._lock = threading.Lock()
        self.take_slot(0)

    def take_slot(self, slot: int) -> None:
        """Count there from now on."""
        self.clear_slot(slot)
        self._head = self._head_of(slot)
        self._head[_EVER] = True
        self._own = self._slot(slot)
        self._on_loop: dict[Line, RequestCounter] = {}
        self._on_threads: dict[Line, RequestCounter] = {}
        self._unpublished: list[RequestCounter] = []
        self.beat(0, 0)

    def clear_slot(self, slot: int) -> None:
        """Whoever has had it is gone, with all that was under way."""
        self._head_of(slot)[: len(_GAUGES)] = memoryview(bytes(8 * len(_GAUGES))).cast("q")

    # What a worker says.

    def on_loop(self, line: Line) -> RequestCounter:
        """Where the loop counts such requests. Once in a round, it says by `expect` that it does."""
        return self._tally(self._on_loop, line, 0)

    def expect(self, counted: RequestCounter) -> None:
        """Have what is counted there be seen by others after `publish`."""
        counted.published = False
        self._unpublished.append(counted)

    def publish(self) -> None:
        unpublished, self._unpublished = self._unpublished, []
        for each in unpublished:
            each.publish()

    def note_on_thread(self, line: Line, status: int, kind: str, *, received: int, sent: int, seconds: float) -> None:
        """Count a request, for others to see at once."""
        with self._lock:
            counted = self._tally(self._on_threads, line, self._threads_place)
            counted.statuses[status] += 1
            counted.sent += sent
            counted.seconds += seconds
            counted.note_more(received, seconds, kind)
            counted.publish()

    def begin(self) -> None:
        """A request is under way."""
        self._add_under_way(1)

    def end(self) -> None:
        self._add_under_way(-1)

    def beat(self, connections: int, parked: int) -> None:
        """Say that the loop goes round, and what there is."""
        self._head[_CONNECTIONS] = connections
        self._head[_PARKED] = parked
        self._head[_BEAT] = int(time.monotonic() * 1000)

    # What anybody asks.

    def last_beat(self, slot: int) -> float:
        """When the loop of the slot's worker last went round, in monotonic seconds; 0 before its first round."""
        return self._head_of(slot)[_BEAT] / 1000

    def now(self) -> Now:
        cells = [self._head_of(slot).tolist() for slot in range(self.slots)]
        workers = sum(each[_BEAT] > 0 for each in cells)
        return Now(workers, *(sum(each[place] for each in cells) for place in _GAUGES if place != _BEAT))

    def figures(self) -> dict[Line, Figures]:
        """What was counted since the daemon started, of each kind of requests that there were."""
        whole = [sum(cells) for cells in zip(*(self._slot(slot).tolist() for slot in self._used()))]
        figures = {}
        for line, place in self._places.items():
            other = place + self._threads_place
            pair = zip(whole[place : place + counters.SIZE], whole[other : other + counters.SIZE])
            both = counters.read([mine + theirs for mine, theirs in pair])
            if both.statuses:
                figures[line] = both
        return figures

    def _used(self) -> list[int]:
        """The slots that somebody has counted in, and the first."""
        return [slot for slot in range(self.slots) if not slot or self._head_of(slot)[_EVER]]

    def _tally(self, tallies: dict[Line, RequestCounter], line: Line, offset: int) -> RequestCounter:
        counted = tallies.get(line)
        if counted is None:
            place = self._places[line] + offset
            counted = tallies[line] = RequestCounter(self._own[place : place + counters.SIZE])
        return counted

    def _add_under_way(self, number: int) -> None:
        with self._lock:
            self._head[_UNDER_WAY] += number

    def _head_of(self, slot: int) -> memoryview:
        return self._heads[slot * _HEAD : (slot + 1) * _HEAD]

    def _slot(self, slot: int) -> memoryview:
        return self._cells[slot * self._length : (slot + 1) * self._length]
