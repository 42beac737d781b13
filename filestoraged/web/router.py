"""Which page answers: mounts by the longest prefix, then routes by their segments, then methods.

Paths are matched as they came, and what a pattern leaves open reaches the page undecoded: `%2F` never makes
a segment of its own, and `..` is a name like any other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from re import Pattern
from typing import NamedTuple, Protocol

from filestoraged.errors import ClientGone, Error, MethodNotAllowed, NotFound
from filestoraged.web.cross_site import PASSED, CrossSiteResult, Hosts, Origins
from filestoraged.web.error_responses import Refuse, meaning, refusal
from filestoraged.web.message import METHODS, Answer, Request, Response, RunsOn
from filestoraged.web.metrics import NO_INTERFACE, OTHER

# The actions of scopes.
READ, WRITE, DELETE = "read", "write", "delete"


class Route(NamedTuple):
    """A page: what it answers, where it runs, and which scope it needs.

    A pattern is a path whose segments in braces stand for any one segment: `/{repository}/{oid}`.
    """

    method: str
    pattern: str
    # Called with the request and the segments that the pattern leaves open, as they came.
    page: Callable[..., Answer]
    scope: str
    runs_on: RunsOn
    # An INLINE page with a larger body, in bytes, or one of unknown size, runs on a thread.
    inline_body: int = 0
    # Answers on the loop, in place of a page that runs on a thread, from memory alone; None where it cannot.
    recall: Callable[..., Response | None] | None = None


class Match(NamedTuple):
    """What a request's path leads to."""

    router: Router
    # The pages at the path, by method; and that of the request's method.
    routes: Mapping[str, Route]
    route: Route | None
    segments: Sequence[str]


class Router:
    """One interface: its routes, and how its errors look."""

    def __init__(
        self,
        name: str,
        routes: Sequence[Route],
        *,
        refuse: Refuse = refusal,
        secret: bool = False,
        public: bool = False,
        has_areas: bool = False,
    ) -> None:
        """`name` is the interface's. `secret` says that a path is a capability and is not logged, `public` that no
        token is needed, `has_areas` that the first open segment names an area with scopes of its own.
        """
        self.name = name
        self.secret = secret
        self.public = public
        self.has_areas = has_areas
        self._refuse = refuse
        self._routes: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._routes.setdefault(route.pattern, {})[route.method] = route
        self._patterns = [(_compiled(pattern), found) for pattern, found in self._routes.items() if "{" in pattern]

    def find(self, method: str, path: str) -> Match:
        """`path` begins behind the mount's prefix."""
        # A mount is its root with and without the slash.
        exact = self._routes.get(path or "/")
        if exact is not None:
            return Match(self, exact, exact.get(method), ())
        for pattern, routes in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return Match(self, routes, routes.get(method), found.groups())
        return Match(self, {}, None, ())

    def refused(self, error: Exception) -> Response:
        """The response to an error in this interface."""
        known = meaning(error)
        response = self._refuse(known)
        response.closes = known.closes
        return response


class Authorizer(Protocol):
    """Knows which token may do what."""

    def lets_anybody(self, request: Request, match: Match) -> bool:
        """Whether the request needs no token."""

    def check(self, request: Request, match: Match) -> None:
        """Raises an Error where the request's token does not allow it."""


# Answers for paths outside all mounts.
_NO_ROUTER = Router(NO_INTERFACE, [])


class Mounts:
    """Routers by prefix, the longest that matches first. It is the App of a listener."""

    def __init__(
        self,
        routers: Mapping[str, Router],
        authorizer: Authorizer | None,
        origins: Origins,
        loopback_hosts: Hosts | None,
    ) -> None:
        """Prefixes begin with a slash. One that ends with a slash does not have the path that lacks it.

        `loopback_hosts` are the hosts that may be asked for on loopback addresses; None for any.
        """
        self._mounts = [
            (prefix, prefix.rstrip("/") + "/", routers[prefix]) for prefix in sorted(routers, key=len, reverse=True)
        ]
        self._authorizer = authorizer
        self._origins = origins
        self._hosts: Hosts | None = None
        self.on_loopback = self
        if loopback_hosts is not None:
            self.on_loopback = copy.copy(self)
            self.on_loopback.on_loopback = self.on_loopback
            self.on_loopback._hosts = loopback_hosts

    def route(self, request: Request) -> RunsOn:
        if request.match is None:
            self._route(request)
        return request.runs_on

    def answer_early(self, request: Request) -> Response | None:
        match: Match = request.match
        if not request.is_plain:
            refused = self._check(request, match)
            if refused is not None:
                return self.complete(request, refused)
        if match.route is None or match.route.recall is None:
            return None
        try:
            response = match.route.recall(request, *match.segments)
        except Exception as error:
            response = match.router.refused(error)
        return None if response is None else self.complete(request, response)

    def answer(self, request: Request) -> Answer:
        match: Match = request.match
        answer: Answer | None = None
        if not request.is_plain:
            answer = self._check(request, match)
        if answer is None:
            try:
                if match.route is None:
                    raise _no_page(request.method, match.routes)
                answer = match.route.page(request, *match.segments)
            except ClientGone:
                raise
            except Exception as error:
                answer = match.router.refused(error)
        if request.is_plain or not isinstance(answer, Response):
            return answer
        return self.complete(request, answer)

    def complete(self, request: Request, response: Response) -> Response:
        if not request.is_plain:
            response.fields += request.cross_site.fields
        return response

    def refuse(self, request: Request, error: Exception) -> Response:
        return self.complete(request, request.match.router.refused(error))

    def _check(self, request: Request, match: Match) -> Response | None:
        """Answer refused requests before their bodies are read, and preflights, which need no token."""
        result: CrossSiteResult = request.cross_site
        if result.fault is not None:
            return match.router.refused(result.fault)
        if result.is_preflight:
            return Response(204)
        if request.is_free or self._authorizer is None:
            return None
        try:
            self._authorizer.check(request, match)
        except Exception as error:
            return match.router.refused(error)
        # For the next request with this head: grants never change while a process lives.
        request.is_plain = result == PASSED
        return None

    def _route(self, request: Request) -> None:
        match = self._find(request)
        request.labels = (match.router.name, request.method if request.method in METHODS else OTHER)
        request.is_free = self._authorizer is None or self._authorizer.lets_anybody(request, match)
        request.cross_site = self._judge(request)
        # True for most requests, which need no other check.
        request.is_plain = request.is_free and request.cross_site == PASSED
        request.runs_on = _runs_on(match.route, request.size)
        # Last: a request that other connections share is complete when it has a match.
        request.match = match

    def _judge(self, request: Request) -> CrossSiteResult:
        result = self._origins.judge(request)
        misdirected = None if self._hosts is None else self._hosts.find_fault(request)
        return result if misdirected is None else result._replace(fault=misdirected)

    def _find(self, request: Request) -> Match:
        path = request.path
        if not path.startswith("/"):
            # OPTIONS * and CONNECT host:port are about no path: the methods are those of the server.
            return Match(_NO_ROUTER, _ANY_METHOD, None, ())
        for prefix, below, router in self._mounts:
            if path.startswith(below) or path == prefix:
                request.mount = below[:-1]
                request.is_path_secret = router.secret
                return router.find(request.method, path[len(below) - 1 :])
        return Match(_NO_ROUTER, {}, None, ())


def _runs_on(route: Route | None, size: int | None) -> RunsOn:
    if route is None:
        return RunsOn.INLINE
    if route.runs_on is RunsOn.INLINE and (size is None or size > route.inline_body):
        return RunsOn.THREAD
    return route.runs_on


def _unreachable(_: Request) -> Response:
    raise AssertionError("unreachable: OPTIONS and CONNECT are no method of any page")


# For the Allow field of requests about no path.
_ANY_METHOD = {method: Route(method, "", _unreachable, "", RunsOn.INLINE) for method in METHODS}


def _no_page(method: str, routes: Mapping[str, Route]) -> Error:
    if not routes:
        return NotFound("There is nothing at this path.")
    return MethodNotAllowed(method, [each for each in METHODS if each in routes])


def _compiled(pattern: str) -> Pattern[str]:
    segments = ["([^/]*)" if segment.startswith("{") else re.escape(segment) for segment in pattern.split("/")]
    return re.compile("/".join(segments))
