"""What belongs to operations, on every listener whatever is mounted: whether the daemon is alive, and fit to serve."""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, Mapping, NamedTuple, Optional, Sequence

from filestoraged.errors import StoreUnavailable
from filestoraged.web.message import Answer, Request, Response, json_response
from filestoraged.web.router import Page, Router

# What lies below it. The path "/-" itself may be a key of a database.
PREFIX = "/-/"

# Where the metrics are, which are not for everybody.
METRICS = "/-/metrics"

_NO_STORE = "Cache-Control: no-store\r\n"

# An answer holds so many seconds, however many ask.
_HOLDS = 1.0

# Raises an OSError or StoreUnavailable where what is looked at is not fit.
Look = Callable[[], None]


def routes(readiness: Optional["Readiness"] = None) -> Router:
    """Without a `readiness`, there is nothing but whether the daemon is alive."""
    pages: "list[tuple[str, str, Page]]" = [("GET", "/health", _health)]
    if readiness is None:
        return Router("operations", pages, public=True)
    return _Router(pages, readiness)


class Readiness:
    """Whether all `looks` are well. `remote` says that one of them waits for other machines. Many threads ask."""

    def __init__(self, looks: Sequence[Look], *, remote: bool) -> None:
        self._looks = looks
        self.remote = remote
        self._known = _Known(None, 0.0)
        self._looking = threading.Lock()

    def recall(self) -> Optional["_Known"]:
        """What was seen a moment ago, if it was."""
        known = self._known
        return known if time.monotonic() < known.until else None

    def look(self) -> "_Known":
        """What is seen now, or was a moment ago by somebody else."""
        with self._looking:
            known = self.recall()
            if known is None:
                known = self._known = _Known(self._find_fault(), time.monotonic() + _HOLDS)
            return known

    def _find_fault(self) -> Optional[str]:
        try:
            for look in self._looks:
                look()
        except OSError as error:
            return f"The store cannot be written: {os.strerror(error.errno or 0)}."
        except StoreUnavailable as error:
            return str(error)
        return None


class _Known(NamedTuple):
    """A sentence on what is wrong, None where nothing is; and how long that holds, on the monotonic clock."""

    fault: Optional[str]
    until: float


class _Router(Router):
    """What is known needs no thread."""

    def __init__(self, pages: "list[tuple[str, str, Page]]", readiness: Readiness) -> None:
        super().__init__("operations", [*pages, ("GET", "/ready", self._ready)], remote=readiness.remote, public=True)
        self._readiness = readiness

    def at_once(self, request: Request, pages: Mapping[str, Page], segments: Sequence[str]) -> Optional[Answer]:
        if request.method == "GET" and pages.get("GET") == self._ready:
            known = self._readiness.recall()
            return None if known is None else self._tell(known)
        return self.answer(request, pages, segments)

    def _ready(self, _: Request) -> Response:
        return self._tell(self._readiness.look())

    def _tell(self, known: _Known) -> Response:
        if known.fault is None:
            return json_response(200, {"status": "ready"}, _NO_STORE)
        response = self.refuse(StoreUnavailable(known.fault))
        response.fields += _NO_STORE
        return response


def _health(_: Request) -> Response:
    return json_response(200, {"status": "ok"})
