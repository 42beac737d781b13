"""Which page answers: mounts by the longest prefix, then routes by their segments, then methods.

Paths are matched as they came, and what a pattern leaves open reaches the page undecoded: `%2F` never makes
a segment of its own, and `..` is a name like any other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from re import Pattern
from typing import NamedTuple, Protocol

from filestoraged.errors import ClientGone, Error, MethodNotAllowed, NotFound, TooLarge
from filestoraged.web.cross_site import PASSED, CrossSiteResult, Hosts, Origins
from filestoraged.web.error_responses import Refuse, meaning, refusal
from filestoraged.web.message import COMMON_METHODS, METHODS, Answer, Request, Response, RunsOn
from filestoraged.web.metrics import NO_INTERFACE, OTHER
from filestoraged.wire.grammar import TOKEN

_METHOD = re.compile(TOKEN)

# At the end of a pattern that stands for any number of segments.
_REST = "...}"

# The actions of scopes.
READ, WRITE, DELETE = "read", "write", "delete"

# In place of a scope: the page needs no token.
PUBLIC = "public"


class Route(NamedTuple):
    """A page: what it answers, where it runs, and which scope it needs.

    A pattern is a path whose segments in braces stand for any one segment: `/{repository}/{oid}`. A last one with dots,
    `{name...}`, stands for the rest of the path.
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
    # A scope that suffices instead of `scope`, for a page that requires one of both once it has read the body.
    or_scope: str | None = None


class PageVariant(NamedTuple):
    """Pages for people at paths where programs get something else."""

    router: Router
    # Whether a request is for a page. It depends on the head alone.
    wants_page: Callable[[Request], bool]


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
        overrides_method: bool = False,
        nested: Sequence[Router] = (),
        variant: PageVariant | None = None,
    ) -> None:
        """`name` is the interface's. `secret` says that a path is a capability, which is neither logged nor kept in
        memory, `public` that no token is needed or that its pages ask for one, `has_areas` that the first open segment
        names an area with scopes of its own, `overrides_method` that X-HTTP-Method-Override replaces the method.
        `nested` are routers of the same interface whose errors look different; their patterns precede those of
        `routes`. `variant` is a router of the same interface for people.
        """
        self.name = name
        self.secret = secret
        self.public = public
        self.has_areas = has_areas
        self.overrides_method = overrides_method
        self._refuse = refuse
        self._variant = variant
        self._nested = nested
        self._routes: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._routes.setdefault(route.pattern, {})[route.method] = route
        # By the number of slashes: most paths are compared with one pattern or two.
        self._patterns: dict[int, list[_Pattern]] = {}
        self._open_ended: list[_Pattern] = []
        for each in (*(found for router in nested for found in router._own_patterns()), *self._own_patterns()):
            same = self._open_ended if each.slashes is None else self._patterns.setdefault(each.slashes, [])
            same.append(each)

    def find_for(self, request: Request, path: str) -> Match:
        """Find the page for people if the request is for one, else what programs get. See `find`."""
        if self._variant is not None and self._variant.wants_page(request):
            match = self._variant.router.find(request.method, path)
            if match.route is not None:
                return match
        return self.find(request.method, path)

    def find(self, method: str, path: str) -> Match:
        """`path` begins behind the mount's prefix."""
        exact = self._routes.get(path)
        if exact is None and not path:
            # A mount is its root with and without the slash, unless a route tells them apart.
            exact = self._routes.get("/")
        if exact is not None:
            return Match(self, exact, exact.get(method), ())
        for pattern in (*self._patterns.get(path.count("/"), ()), *self._open_ended):
            found = pattern.compiled.fullmatch(path)
            if found is not None:
                return Match(pattern.router, pattern.routes, pattern.routes.get(method), found.groups())
        return Match(self, {}, None, ())

    def list_routes(self) -> Iterator[tuple[Router, Route]]:
        """All routes, those of nested routers first, each with its router. Without pages for people."""
        for router in (*self._nested, self):
            yield from ((router, route) for routes in router._routes.values() for route in routes.values())

    def _own_patterns(self) -> list[_Pattern]:
        return [
            _Pattern(self, _compiled(pattern), None if _REST in pattern else pattern.count("/"), routes)
            for pattern, routes in self._routes.items()
            if "{" in pattern
        ]

    def refused(self, error: Exception) -> Response:
        """The response to an error in this interface."""
        known = meaning(error)
        response = self._refuse(known)
        response.closes = known.closes
        return response


class _Pattern(NamedTuple):
    """A path pattern with open segments, and its pages by method."""

    router: Router
    compiled: Pattern[str]
    # None for any number.
    slashes: int | None
    routes: Mapping[str, Route]


class Authorizer(Protocol):
    """Knows which token may do what."""

    def lets_anybody(self, request: Request, match: Match) -> bool:
        """Whether the request needs no token."""

    def check(self, request: Request, match: Match) -> None:
        """Raises an Error where the request's token does not allow it."""

    def require(self, request: Request, action: str) -> None:
        """Raises an Error where the request may not do `action` as well, at the place that its path names.

        For pages that know what a request needs once they have read its body.
        """

    def require_at(self, request: Request, action: str, interface: str, area: str) -> None:
        """Raises an Error where the request may not do `action` at another interface, in an area of it, "" for none."""

    def require_token(self, request: Request, action: str) -> None:
        """Raises TokenRequired without a known token, unless anybody may do `action` somewhere."""

    def name_of(self, request: Request) -> str | None:
        """The name of the request's token, None without a known one."""


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
        self._prefixes = {router.name: below[:-1] for _, below, router in self._mounts}
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

    def refuse_body(self, request: Request, fault: Error) -> Response:
        match: Match = request.match
        if isinstance(fault, TooLarge):
            # The checks that a request passes before its page, which would refuse a large body too.
            refused = None if request.is_plain else self._check(request, match)
            if refused is not None:
                return self.complete(request, refused)
            if match.route is None:
                fault = _no_page(request.method, match.routes)
        return self.refuse(request, fault)

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
        sent = request.method
        match = self._find(request)
        request.labels = (match.router.name, _method_label(request.method, match.route))
        request.is_free = self._authorizer is None or self._authorizer.lets_anybody(request, match)
        request.cross_site = self._judge(request, sent, match)
        # True for most requests, which need no other check.
        request.is_plain = request.is_free and request.cross_site == PASSED
        request.runs_on = _runs_on(match.route, request.size)
        # Without a page, it may be the link of a drop that is asked for in the wrong place.
        request.is_path_open = match.route is not None and not request.is_path_secret
        # Last: a request that other connections share is complete when it has a match.
        request.match = match

    def _judge(self, request: Request, sent: str, match: Match) -> CrossSiteResult:
        """`sent` is the method that the request has without X-HTTP-Method-Override."""
        methods: Sequence[str] = COMMON_METHODS
        if sent == "OPTIONS":
            methods = [each for each in METHODS if each in match.routes or each in COMMON_METHODS]
        result = self._origins.judge(request, sent, methods)
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
                request.mounts = self._prefixes
                request.is_path_secret = router.secret
                if router.overrides_method:
                    request.method = _overridden(request)
                return router.find_for(request, path[len(below) - 1 :])
        return Match(_NO_ROUTER, {}, None, ())


def _overridden(request: Request) -> str:
    """The method that X-HTTP-Method-Override names, for clients in networks that only pass GET and POST."""
    method = request.fields.get("x-http-method-override", "")
    # Any other text is no method, and must not get into the log as one.
    return method if _METHOD.fullmatch(method) else request.method


def _method_label(method: str, route: Route | None) -> str:
    return method if method in COMMON_METHODS or route is not None else OTHER


def _runs_on(route: Route | None, size: int | None) -> RunsOn:
    if route is None:
        return RunsOn.INLINE
    if route.runs_on is RunsOn.INLINE and (size is None or size > route.inline_body):
        return RunsOn.THREAD
    return route.runs_on


def _unreachable(_: Request) -> Response:
    raise AssertionError("unreachable: OPTIONS and CONNECT are no method of any page")


# For the Allow field of requests about no path.
_ANY_METHOD = {method: Route(method, "", _unreachable, "", RunsOn.INLINE) for method in COMMON_METHODS}


def _no_page(method: str, routes: Mapping[str, Route]) -> Error:
    if not routes:
        return NotFound("There is nothing at this path.")
    return MethodNotAllowed(method, [each for each in METHODS if each in routes])


def _compiled(pattern: str) -> Pattern[str]:
    return re.compile("/".join(map(_segment_pattern, pattern.split("/"))))


def _segment_pattern(segment: str) -> str:
    if segment.endswith(_REST):
        return "(.*)"
    return "([^/]*)" if segment.startswith("{") else re.escape(segment)
