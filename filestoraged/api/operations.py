"""The pages `/-/health` and `/-/ready`, on every listener: whether the daemon is alive, and ready to serve."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from filestoraged.api.bounded_call import BoundedCall
from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, StoreUnavailable
from filestoraged.web.error_responses import refusal
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import JSON, NO_STORE, Fields, Response, json_response
from filestoraged.web.router import PUBLIC, READ, Route, Router

log = logging.getLogger(__name__)

# The path "/-" without a slash may be a key of the `kv` interface.
PREFIX = "/-/"

# The path of the metrics, which not every client may read.
METRICS = "/-/metrics"

# The path of the description of all interfaces, for programs.
DESCRIPTION = "/-/openapi.json"

_REVALIDATED: Fields = "Cache-Control: no-cache\r\n"

# Seconds for which the result of a check is reused.
_REUSE_TIME = 1.0

# Seconds after which a check that still runs counts as failed: proxies take a daemon that does not answer for dead, and
# end its requests, while it only waits for another machine.
_CHECK_TIMEOUT = 5.0

# Raises an OSError or an Error if a part of the daemon is unusable.
Probe = Callable[[], None]


def description_routes(describe: Callable[[], bytes]) -> Router:
    """The document that `describe` returns. It is made for the first request."""
    # Two threads may make it at once: the same one.
    document = functools.cache(describe)

    def show(_: Request) -> Response:
        return Response(200, JSON + _REVALIDATED, document())

    return Router("operations", [Route("GET", "/", show, PUBLIC, RunsOn.THREAD)], public=True)


def health_routes() -> Router:
    """`/-/health` alone."""
    return Router("operations", [_HEALTH], public=True)


def public_routes(readiness: Readiness) -> Router:
    """`/-/health` and `/-/ready` for listeners of clients: messages do not name internal hosts."""
    return _routes(readiness, lambda fault: fault.public)


def admin_routes(readiness: Readiness) -> Router:
    """The same for admin listeners: messages are as detailed as in the log."""
    return _routes(readiness, lambda fault: fault.detailed)


class Fault(NamedTuple):
    """Why the daemon is not ready: a message for clients, and one for operators."""

    public: str
    detailed: str


class Readiness:
    """Runs all `probes`, of which some wait for other machines. Any thread calls it."""

    def __init__(
        self, probes: Sequence[Probe], *, timeout: float = _CHECK_TIMEOUT, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._timeout = timeout
        self._known = _Known(None, 0.0)
        self._call = BoundedCall(self._check, timeout=timeout, clock=clock)

    def recall(self) -> _Known | None:
        """Return the last result, or None if it is too old."""
        known = self._known
        return known if self._clock.now() < known.until else None

    def check(self) -> _Known:
        """Run the probes, unless another thread has just done so, and wait for them for a limited time."""
        known = self.recall()
        if known is not None:
            return known
        try:
            return self._call.result()
        except TimeoutError:
            late = f"The check of the store takes longer than {self._timeout:.0f} s."
            return _Known(Fault(late, late), 0.0)

    def _check(self) -> _Known:
        known = self.recall()
        if known is not None:
            # Another thread ended a check while this one was asked for.
            return known
        fault = self._find_fault()
        self._log_change(fault)
        self._known = _Known(fault, self._clock.now() + _REUSE_TIME)
        return self._known

    def _find_fault(self) -> Fault | None:
        try:
            for probe in self._probes:
                probe()
        except OSError as error:
            return Fault("The store cannot be written.", f"The store cannot be written: {error.strerror or error}.")
        except Error as error:
            # The message is for clients, the cause for operators.
            return Fault(str(error), str(error) if error.__cause__ is None else f"{error.__cause__}.")
        return None

    def _log_change(self, fault: Fault | None) -> None:
        """Log a change of the state: /-/ready does not show the cause to every client."""
        before = self._known.fault
        if fault is not None and fault != before:
            log.warning("not ready: %s", fault.detailed)
        elif fault is None and before is not None:
            log.info("ready again")


class _Known(NamedTuple):
    """The result of a check, which is reused before `until` on the clock. `fault` is None if ready."""

    fault: Fault | None
    until: float


class _Ready:
    """The page `/-/ready`. A recent result is answered on the loop."""

    def __init__(self, readiness: Readiness, describe: Callable[[Fault], str]) -> None:
        self._readiness = readiness
        self._describe = describe

    def show(self, _: Request) -> Response:
        return self._response(self._readiness.check())

    def recall(self, _: Request) -> Response | None:
        known = self._readiness.recall()
        return None if known is None else self._response(known)

    def _response(self, known: _Known) -> Response:
        if known.fault is None:
            return json_response(200, {"status": "ready"}, NO_STORE)
        response = refusal(StoreUnavailable(self._describe(known.fault)))
        response.fields += NO_STORE
        return response


def _routes(readiness: Readiness, describe: Callable[[Fault], str]) -> Router:
    ready = _Ready(readiness, describe)
    # On none of the threads for other machines, which all wait where one of these hangs.
    routes = [_HEALTH, Route("GET", "/ready", ready.show, READ, RunsOn.THREAD, recall=ready.recall)]
    return Router("operations", routes, public=True)


def _health(_: Request) -> Response:
    return json_response(200, {"status": "ok"}, NO_STORE)


_HEALTH = Route("GET", "/health", _health, READ, RunsOn.INLINE)
