"""Which page answers: mounts by the longest prefix, then routes by their segments, then methods.

Paths are matched as they came, and what a pattern leaves open reaches the page undecoded: `%2F` never makes
a segment of its own, and `..` is a name like any other.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from re import Pattern
from typing import Protocol

from filestoraged.errors import ClientGone, Error, MethodNotAllowed, NotFound
from filestoraged.web.cross_site import PASSED, CrossSiteResult, Hosts, Origins
from filestoraged.web.error_responses import Refuse, meaning, refusal
from filestoraged.web.message import METHODS, Answer, Fields, Receiving, Request, Response
from filestoraged.web.metrics import NOWHERE, OTHER

# A page is called with the request and the segments that its route's pattern leaves open, as they came.
Page = Callable[..., Answer]


class Router:
    """One interface: a table of (method, pattern, page), and how its errors look.

    A pattern is a path whose segments in braces stand for any one segment: `/{repository}/{oid}`.
    """

    def __init__(
        self,
        name: str,
        routes: Sequence[tuple[str, str, Page]],
        *,
        refuse: Refuse = refusal,
        remote: bool = False,
        secret: bool = False,
        public: bool = False,
        has_areas: bool = False,
    ) -> None:
        """`name` is the interface's. `remote` says that pages wait for other machines, `secret` that whoever knows a
        path has what it names, `public` that no token is needed, `has_areas` that the first open segment names an area.
        """
        self.name = name
        self.refuse = refuse
        self.remote = remote
        self.secret = secret
        self.public = public
        self.has_areas = has_areas
        self._routes: dict[str, dict[str, Page]] = {}
        for method, pattern, page in routes:
            self._routes.setdefault(pattern, {})[method] = page
        self._patterns = [(_compiled(pattern), pages) for pattern, pages in self._routes.items() if "{" in pattern]

    def find(self, path: str) -> Route:
        """Which pages there are for `path`, which begins behind the mount's prefix."""
        # A mount is its root with and without the slash.
        exact = self._routes.get(path or "/")
        if exact is not None:
            return self, exact, ()
        for pattern, pages in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return self, pages, found.groups()
        return self, {}, ()

    def answer(self, request: Request, pages: Mapping[str, Page], segments: Sequence[str]) -> Answer:
        """Have the page for the request's method answer. Nothing escapes but ClientGone, which nobody could be told."""
        try:
            page = pages.get(request.method)
            if page is None:
                raise _no_such_page(request.method, pages)
            answer = page(request, *segments)
        except ClientGone:
            raise
        except Exception as error:
            return self.refused(error)
        return answer if isinstance(answer, Response) else self._receiving(answer)

    def at_once(self, request: Request, pages: Mapping[str, Page], segments: Sequence[str]) -> Answer | None:
        """Answer on the server's loop what keeps nobody waiting; None for what may. Storing and removing do."""
        if self.remote or request.method != "GET" or request.size != 0:
            return None
        return self.answer(request, pages, segments)

    def _receiving(self, page: Receiving) -> Receiving:
        try:
            return (yield from page)
        except ClientGone:
            raise
        except Exception as error:
            return self.refused(error)

    def refused(self, error: Exception) -> Response:
        """The answer that an error gets here."""
        known = meaning(error)
        response = self.refuse(known)
        response.closes = known.closes
        return response


# A router, its pages at a path by their methods, and the segments that the pattern leaves open.
Route = tuple[Router, Mapping[str, Page], Sequence[str]]


class Authorizer(Protocol):
    """Knows who may do what."""

    def lets_anybody(self, request: Request, router: Router, segments: Sequence[str]) -> bool:
        """Whether it may be done by whoever asks."""

    def check(self, request: Request, router: Router, segments: Sequence[str]) -> None:
        """Raises an Error where it may not be done."""


# Answers for paths that no mount has. No interface is called that.
_NOWHERE = Router(NOWHERE, [])


class Mounts:
    """Routers by prefix, the longest that matches first. It is the App of a listener."""

    def __init__(
        self, routers: Mapping[str, Router], keeper: Authorizer | None, origins: Origins, loopback_hosts: Hosts | None
    ) -> None:
        """Prefixes begin with a slash. One that ends with a slash does not have the path that lacks it.

        `loopback_hosts` are the hosts that may be asked for on loopback addresses; None for any.
        """
        self._mounts = [
            (prefix, prefix.rstrip("/") + "/", routers[prefix]) for prefix in sorted(routers, key=len, reverse=True)
        ]
        self._keeper = keeper
        self._origins = origins
        self._hosts: Hosts | None = None
        self.on_loopback = self
        if loopback_hosts is not None:
            self.on_loopback = copy.copy(self)
            self.on_loopback.on_loopback = self.on_loopback
            self.on_loopback._hosts = loopback_hosts

    def __call__(self, request: Request) -> Answer:
        router, pages, segments = self._route(request)
        if request.is_plain:
            return router.answer(request, pages, segments)
        refusal = self._turn_away(request, router, segments)
        answer = router.answer(request, pages, segments) if refusal is None else refusal
        return _with_fields(answer, request.verdict.fields)

    def at_once(self, request: Request) -> Answer | None:
        router, pages, segments = self._route(request)
        if request.is_plain:
            return router.at_once(request, pages, segments)
        answer = self._turn_away(request, router, segments) or router.at_once(request, pages, segments)
        return None if answer is None else _with_fields(answer, request.verdict.fields)

    def is_remote(self, request: Request) -> bool:
        return self._route(request)[0].remote

    def _turn_away(self, request: Request, router: Router, segments: Sequence[str]) -> Response | None:
        """Answer what may not be done, before any of the body is read; and a preflight, which needs no token."""
        verdict = request.verdict
        if verdict.fault is not None:
            return router.refused(verdict.fault)
        if verdict.is_preflight:
            return Response(204)
        if request.is_free or self._keeper is None:
            return None
        try:
            self._keeper.check(request, router, segments)
        except Exception as error:
            return router.refused(error)
        return None

    def _route(self, request: Request) -> Route:
        if request.route is None:
            request.route = self._find(request)
        route: Route = request.route
        return route

    def _find(self, request: Request) -> Route:
        route = self._find_page(request)
        router, _, segments = route
        request.line = (router.name, request.method if request.method in METHODS else OTHER)
        request.is_free = self._keeper is None or self._keeper.lets_anybody(request, router, segments)
        request.verdict = self._judge(request)
        # Most requests are: for them this is the only look at who asks.
        request.is_plain = request.is_free and request.verdict == PASSED
        return route

    def _judge(self, request: Request) -> CrossSiteResult:
        verdict = self._origins.judge(request)
        misdirected = None if self._hosts is None else self._hosts.find_fault(request)
        return verdict if misdirected is None else verdict._replace(fault=misdirected)

    def _find_page(self, request: Request) -> Route:
        path = request.path
        if not path.startswith("/"):
            # OPTIONS * and CONNECT host:port are about no path: the methods are those of the server.
            return _NOWHERE, dict.fromkeys(METHODS, _no_page), ()
        for prefix, below, router in self._mounts:
            if path.startswith(below) or path == prefix:
                request.mount = below[:-1]
                request.is_path_secret = router.secret
                return router.find(path[len(below) - 1 :])
        return _NOWHERE, {}, ()


def _with_fields(answer: Answer, fields: Fields) -> Answer:
    if isinstance(answer, Response):
        answer.fields += fields
        return answer
    return _receiving_with_fields(answer, fields) if fields else answer


def _receiving_with_fields(page: Receiving, fields: Fields) -> Receiving:
    response = yield from page
    response.fields += fields
    return response


def _no_page(request: Request) -> Response:
    raise AssertionError("unreachable: OPTIONS and CONNECT are no method of any page")


def _no_such_page(method: str, pages: Mapping[str, Page]) -> Error:
    if not pages:
        return NotFound("There is nothing at this path.")
    return MethodNotAllowed(method, [each for each in METHODS if each in pages])


def _compiled(pattern: str) -> Pattern[str]:
    segments = ["([^/]*)" if segment.startswith("{") else re.escape(segment) for segment in pattern.split("/")]
    return re.compile("/".join(segments))
