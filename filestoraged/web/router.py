"""Which page of an interface answers: its routes by their segments, then by methods.

Paths are matched as they came, and what a pattern leaves open reaches the page undecoded: `%2F` never makes
a segment of its own, and `..` is a name like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from re import Pattern
from typing import NamedTuple

from filestoraged.web.error_responses import Refuse, meaning, refusal
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Answer, Response

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

    def match_for(self, request: Request, path: str) -> Match:
        """Find the page for people if the request is for one, else what programs get. See `match`."""
        if self._variant is not None and self._variant.wants_page(request):
            match = self._variant.router.match(request.method, path)
            if match.route is not None:
                return match
        return self.match(request.method, path)

    def match(self, method: str, path: str) -> Match:
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


def _compiled(pattern: str) -> Pattern[str]:
    return re.compile("/".join(map(_segment_pattern, pattern.split("/"))))


def _segment_pattern(segment: str) -> str:
    if segment.endswith(_REST):
        return "(.*)"
    return "([^/]*)" if segment.startswith("{") else re.escape(segment)
