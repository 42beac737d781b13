"""What belongs to operations, on every listener whatever is mounted: whether the daemon is alive, and fit to serve."""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, Mapping, Optional, Sequence

from filestoraged.errors import StoreUnavailable
from filestoraged.web.message import Answer, Request, Response, json_response
from filestoraged.web.router import Page, Router

# What lies below it. The path "/-" itself may be a key of a database.
PREFIX = "/-/"

# Where the metrics are, which are not for everybody.
METRICS = "/-/metrics"

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
        self._known: Optional[StoreUnavailable] = None
        self._known_until = 0.0
        self._looking = threading.Lock()

    @property
    def is_known(self) -> bool:
        return time.monotonic() < self._known_until

    def check(self) -> None:
        """Raises StoreUnavailable, with the reason."""
        with self._looking:
            if not self.is_known:
                self._known = self._look()
                self._known_until = time.monotonic() + _HOLDS
            known = self._known
        if known is not None:
            raise StoreUnavailable(str(known))

    def _look(self) -> Optional[StoreUnavailable]:
        try:
            for look in self._looks:
                look()
        except OSError as error:
            return StoreUnavailable(f"The store cannot be written: {os.strerror(error.errno or 0)}.")
        except StoreUnavailable as error:
            return error
        return None


class _Router(Router):
    """What is known needs no thread."""

    def __init__(self, pages: "list[tuple[str, str, Page]]", readiness: Readiness) -> None:
        super().__init__("operations", [*pages, ("GET", "/ready", self._ready)], remote=readiness.remote, public=True)
        self._readiness = readiness

    def at_once(self, request: Request, pages: Mapping[str, Page], segments: Sequence[str]) -> Optional[Answer]:
        if pages.get("GET") == self._ready and not self._readiness.is_known:
            return None
        return self.answer(request, pages, segments)

    def _ready(self, _: Request) -> Response:
        self._readiness.check()
        return json_response(200, {"status": "ready"}, "Cache-Control: no-store\r\n")


def _health(_: Request) -> Response:
    return json_response(200, {"status": "ok"})
