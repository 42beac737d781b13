"""What the workers count, in memory that they share: whichever worker is asked reports for all.

Each worker writes to a slot of its own. What it has counted stays there when it ends, and the next worker in the slot
counts on from there, so that no counter ever decreases.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count, product
from typing import NamedTuple, TypeVar

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.command_errors import StartError
from filestoraged.errors import ERROR_NAMES, ClientGone
from filestoraged.shared_table import SharedTable, clear
from filestoraged.web.request import METHODS
from filestoraged.web.response import REASONS

# Labels of methods that no page has, and of requests to no interface; a request that cannot be parsed has both.
OTHER = "other"
NO_INTERFACE = "none"

# Upper bounds of the buckets of durations, in seconds: a small object takes 20 us, a synced upload milliseconds, a
# large one minutes.
BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
FAST = BOUNDS[0]

_MICROS = 1_000_000

# The cells of a counter.
_cell = count()
_RECEIVED, _SENT, _MICROSECONDS = next(_cell), next(_cell), next(_cell)
_TIMES = [next(_cell) for _ in range(len(BOUNDS) + 1)]
_STATUSES = {status: next(_cell) for status in (*REASONS, ClientGone.status)}
# A database that was replaced may be refused by a worker, as at the start.
_KINDS = {kind: next(_cell) for kind in (*ERROR_NAMES, StartError.__name__)}

# Cells of a counter, 64 bits each.
_SIZE = next(_cell)


_Name = TypeVar("_Name")


class RequestTotals(NamedTuple):
    """What counters say, with what was 0 left out."""

    # Bytes of request bodies, and of response bodies.
    received: int
    sent: int
    seconds: float
    # Requests by duration: one number for each of BOUNDS, and one for longer ones.
    times: Sequence[int]
    statuses: dict[int, int]
    # Errors by class.
    kinds: dict[str, int]


class RequestCounter:
    """Counts one kind of requests, starting from what its `cells` hold. One thread at a time counts.

    Other processes see what was counted when it was published. To count a request, add to `statuses`, `sent`
    (bytes of the response body) and `seconds` directly; few requests need `add_details`.
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
        totals = _read(cells)
        self.statuses: defaultdict[int, int] = defaultdict(int, totals.statuses)
        self.sent, self.seconds = totals.sent, totals.seconds
        self.published = True
        self._cells = cells
        self._received = totals.received
        self._times: list[int] = list(totals.times)
        self._kinds: defaultdict[str, int] = defaultdict(int, totals.kinds)
        # Requests that took longer than the first bucket holds.
        self._slow = self._slow_published = sum(self._times[1:])

    def add_details(self, received: int, seconds: float, kind: str) -> None:
        """Count the bytes of a request body, a duration above FAST, and an error by class, "" for none."""
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
        # The first bucket has what the others leave.
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


# The cells of a slot's head: the last heartbeat, in milliseconds of the monotonic clock, 0 for none; requests in
# flight; connections, and those of them that wait for an event.
_BEAT, _IN_FLIGHT, _CONNECTIONS, _IDLE = _GAUGES = range(4)
# Whether a worker has ever had the slot.
_EVER = 4
_HEAD = 5

# One kind of requests: an interface, and a method.
Labels = tuple[str, str]


class Gauges(NamedTuple):
    """The present state of all workers together."""

    workers: int
    # Requests that run on a thread, or wait for their body or a result.
    in_flight: int
    connections: int
    # Connections that wait for the client.
    idle: int


class Metrics:
    """Made before the fork, for at most `slots` workers at a time.

    The loop calls `loop_counter`, `publish` and `beat`, which need no lock; the other methods that count take the lock.
    """

    def __init__(self, interfaces: Sequence[str], slots: int = 1, clock: Clock = SYSTEM_CLOCK) -> None:
        """`interfaces` are the values of the label."""
        self.slots = slots
        self._clock = clock
        labels = list(product((*interfaces, NO_INTERFACE), (*METHODS, OTHER)))
        self._places = {each: number * _SIZE for number, each in enumerate(labels)}
        # The loop and the threads of a worker have counters of their own.
        self._threads_place = len(labels) * _SIZE
        # The kernel allocates pages when they are touched: the heads, which are all read, are together.
        self._heads = SharedTable(slots, _HEAD)
        self._counts = SharedTable(slots, 2 * self._threads_place)
        self._lock = threading.Lock()
        # Without a heartbeat, which the master would take for that of the first worker: it has yet to start.
        self._count_in(0)

    def take_slot(self, slot: int) -> None:
        """Count in this slot from now on, and beat for the first time."""
        self._count_in(slot)
        self.beat(0, 0)

    def _count_in(self, slot: int) -> None:
        self.clear_slot(slot)
        self._head = self._heads.row(slot)
        self._head[_EVER] = True
        self._own = self._counts.row(slot)
        self._loop_counters: dict[Labels, RequestCounter] = {}
        self._thread_counters: dict[Labels, RequestCounter] = {}
        self._unpublished: list[RequestCounter] = []

    def clear_slot(self, slot: int) -> None:
        """The worker in the slot has ended, with all its requests in flight."""
        clear(self._heads.row(slot)[: len(_GAUGES)])

    # Called by a worker.

    def loop_counter(self, labels: Labels) -> RequestCounter:
        """The counter of the loop for such requests. The loop marks it once a round when it has counted."""
        return self._counter(self._loop_counters, labels, 0)

    def mark_unpublished(self, counted: RequestCounter) -> None:
        """Include the counter in the next `publish`."""
        counted.published = False
        self._unpublished.append(counted)

    def publish(self) -> None:
        unpublished, self._unpublished = self._unpublished, []
        for each in unpublished:
            each.publish()

    def count_on_thread(
        self, labels: Labels, status: int, kind: str, *, received: int, sent: int, seconds: float
    ) -> None:
        """Count a request and publish it."""
        with self._lock:
            counted = self._counter(self._thread_counters, labels, self._threads_place)
            counted.statuses[status] += 1
            counted.sent += sent
            counted.seconds += seconds
            counted.add_details(received, seconds, kind)
            counted.publish()

    def count_error(self, kind: str) -> None:
        """Count an error after which there is no request to count, and publish it. Any thread calls it."""
        with self._lock:
            counted = self._counter(self._thread_counters, (NO_INTERFACE, OTHER), self._threads_place)
            counted.add_details(0, 0.0, kind)
            counted.publish()

    def add_in_flight(self, number: int) -> None:
        """Count requests that are in flight from now on; a negative number where they no longer are."""
        with self._lock:
            self._head[_IN_FLIGHT] += number

    def beat(self, connections: int, idle: int) -> None:
        """Publish that the loop runs, and the present numbers of connections."""
        self._head[_CONNECTIONS] = connections
        self._head[_IDLE] = idle
        self._head[_BEAT] = int(self._clock.now() * 1000)

    # Called by any process.

    def last_beat(self, slot: int) -> float:
        """The time of the last heartbeat in the slot, on the clock; 0 before the first."""
        return self._heads.row(slot)[_BEAT] / 1000

    def gauges(self) -> Gauges:
        workers = sum(beat > 0 for beat in self._heads.column(_BEAT))
        return Gauges(workers, *(sum(self._heads.column(place)) for place in _GAUGES if place != _BEAT))

    def totals(self) -> dict[Labels, RequestTotals]:
        """The totals since the daemon started, of each kind of requests that occurred or failed."""
        whole = [sum(cells) for cells in zip(*(self._counts.row(slot).tolist() for slot in self._used()))]
        totals = {}
        for labels, place in self._places.items():
            other = place + self._threads_place
            pair = zip(whole[place : place + _SIZE], whole[other : other + _SIZE])
            both = _read([mine + theirs for mine, theirs in pair])
            if both.statuses or both.kinds:
                totals[labels] = both
        return totals

    def _used(self) -> list[int]:
        """The slots that have ever been in use, and the first."""
        return [slot for slot in range(self.slots) if not slot or self._heads.row(slot)[_EVER]]

    def _counter(self, counters: dict[Labels, RequestCounter], labels: Labels, offset: int) -> RequestCounter:
        counted = counters.get(labels)
        if counted is None:
            place = self._places[labels] + offset
            counted = counters[labels] = RequestCounter(self._own[place : place + _SIZE])
        return counted


def _read(cells: Sequence[int]) -> RequestTotals:
    """The totals of a counter's `cells`, or of several counters' cells, added up."""
    return RequestTotals(
        received=cells[_RECEIVED],
        sent=cells[_SENT],
        seconds=cells[_MICROSECONDS] / _MICROS,
        times=[cells[place] for place in _TIMES],
        statuses=_nonzero(cells, _STATUSES),
        kinds=_nonzero(cells, _KINDS),
    )


def _nonzero(cells: Sequence[int], places: Mapping[_Name, int]) -> dict[_Name, int]:
    return {name: cells[place] for name, place in places.items() if cells[place]}
