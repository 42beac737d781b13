"""The page `/-/metrics` for Prometheus: requests and connections of all workers, and gauges of the stores."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from filestoraged import __version__
from filestoraged.api.bounded_call import BoundedCall
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store.contract import Store, Usage
from filestoraged.store.shared_count import SharedCount
from filestoraged.web.metrics import BOUNDS, Metrics, RequestTotals
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Response, field_lines
from filestoraged.web.router import READ, Route, Router
from filestoraged.wire.exposition import CONTENT_TYPE, Family, Histogram, Sample, exposition, labelled

_FIELDS = field_lines(("Content-Type", CONTENT_TYPE), ("Cache-Control", "no-store"))

log = logging.getLogger(__name__)

# Seconds for all gauges. Prometheus waits for 10 s for a page of metrics, and shows none of it after that.
_TIMEOUT = 5.0

# Collects metric families.
Gauge = Callable[[], Iterable[Family]]


def routes(metrics: Metrics, gauges: Mapping[str, Gauge], clock: Clock = SYSTEM_CLOCK) -> Router:
    """`gauges` are collected for each request."""

    calls = {name: _bounded(gauge, clock) for name, gauge in gauges.items()}

    def show(_: Request) -> Response:
        families = [*_workers(metrics), *_requests(metrics)]
        failed_parts: dict[str, int] = {}
        # All at once: several may wait for a machine that does not answer.
        for call in calls.values():
            with contextlib.suppress(RuntimeError):
                call.start()
        for name, call in calls.items():
            try:
                families += call.result()
            except Exception as error:
                # A failed gauge must not hide the others, which an operator needs to find the cause.
                log.warning("cannot count %s: %s", name, error.__cause__ or error)
                failed_parts[name] = 1
        failed = labelled("part", {name: failed_parts.get(name, 0) for name in gauges})
        help_ = "1 where a part of the metrics could not be collected."
        families.append(Family("filestoraged_scrape_errors", "gauge", help_, failed))
        return Response(200, _FIELDS, exposition(families).encode())

    # Some gauges wait for another machine. Not on the threads for that, which all wait where one of these hangs.
    return Router("operations", [Route("GET", "/", show, READ, RunsOn.THREAD)])


def number_of(name: str, help_: str, count: Callable[[], int]) -> Gauge:
    return lambda: [Family(name, "gauge", help_, [({}, count())])]


def numbers_by_state(name: str, help_: str, count: Callable[[], Mapping[str, int]]) -> Gauge:
    return lambda: [Family(name, "gauge", help_, labelled("state", count()))]


def _bounded(gauge: Gauge, clock: Clock) -> BoundedCall[list[Family]]:
    return BoundedCall(lambda: list(gauge()), timeout=_TIMEOUT, clock=clock)


def objects(store: Store, shared: SharedCount) -> Gauge:
    """Objects of a store on disk, by interface. Yields nothing before the first count is complete."""

    def collect() -> Iterator[Family]:
        counted = shared.latest(store.usage)
        if counted is None:
            return
        totals = {name: Usage(*each) for name, each in counted.value.items()}
        numbers = labelled("interface", {name: each.objects for name, each in totals.items()})
        sizes = labelled("interface", {name: each.size for name, each in totals.items()})
        yield Family("filestoraged_objects", "gauge", "Objects on disk.", numbers)
        yield Family("filestoraged_object_bytes", "gauge", "Bytes of the objects on disk.", sizes)
        help_ = "Time since the count of the objects on disk began."
        yield Family("filestoraged_objects_age_seconds", "gauge", help_, [({}, round(counted.age, 3))])

    return collect


def _workers(metrics: Metrics) -> Iterator[Family]:
    now = metrics.gauges()
    build = {"version": __version__, "python": sys.version.partition(" ")[0]}
    yield Family("filestoraged_build_info", "gauge", "Always 1; the labels name the version.", [(build, 1)])
    yield Family("filestoraged_workers", "gauge", "Workers that serve or drain.", [({}, now.workers)])
    connections = labelled("state", {"idle": now.idle, "active": max(0, now.connections - now.idle)})
    help_ = "Open connections, idle while they wait for the client."
    yield Family("filestoraged_connections", "gauge", help_, connections)
    help_ = "Requests that the loop could not answer at once."
    yield Family("filestoraged_requests_in_flight", "gauge", help_, [({}, now.in_flight)])


def _requests(metrics: Metrics) -> Iterator[Family]:
    figures = metrics.totals()
    kinds: Counter[str] = Counter()
    for each in figures.values():
        kinds.update(each.kinds)

    def samples(of: Callable[[RequestTotals], int | Histogram]) -> list[Sample]:
        return [({"interface": name, "method": method}, of(each)) for (name, method), each in figures.items()]

    yield Family(
        "filestoraged_requests_total",
        "counter",
        "Requests that were answered, or whose client left.",
        [
            ({"interface": name, "method": method, "status": str(status)}, number)
            for (name, method), each in figures.items()
            for status, number in each.statuses.items()
        ],
    )
    yield Family(
        "filestoraged_request_duration_seconds",
        "histogram",
        "Time from the first byte of a request to the last byte of its response.",
        samples(lambda each: Histogram(BOUNDS, each.times, each.seconds)),
    )
    yield Family(
        "filestoraged_received_bytes_total",
        "counter",
        "Bytes of request bodies that were received.",
        samples(lambda each: each.received),
    )
    yield Family(
        "filestoraged_sent_bytes_total",
        "counter",
        "Bytes of response bodies that were sent.",
        samples(lambda each: each.sent),
    )
    help_ = "Requests that were answered with an error, or broken off by one of the server, by its class."
    yield Family("filestoraged_errors_total", "counter", help_, labelled("kind", dict(sorted(kinds.items()))))
