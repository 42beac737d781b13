"""The app of a listener: routers by prefix, and what every request passes before its page and behind it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence

from filestoraged.errors import ClientGone, Error, MethodNotAllowed, NotFound, TooLarge
from filestoraged.web.auth import Tokens
from filestoraged.web.cross_site import PASSED, CrossSiteResult, Hosts, Origins
from filestoraged.web.metrics import NO_INTERFACE, OTHER
from filestoraged.web.request import COMMON_METHODS, METHODS, Request, RunsOn
from filestoraged.web.response import Answer, Response
from filestoraged.web.router import Match, Route, Router
from filestoraged.wire.grammar import TOKEN

_METHOD = re.compile(TOKEN)

# Answers for paths outside all mounts.
_NO_ROUTER = Router(NO_INTERFACE, [])


class Mounts:
    """Routers by prefix, the longest that matches first. It is the App of a listener."""

    def __init__(
        self,
        routers: Mapping[str, Router],
        authorizer: Tokens | None,
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
                return router.match_for(request, path[len(below) - 1 :])
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
