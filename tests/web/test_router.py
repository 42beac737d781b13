"""Which page a request leads to, where it runs, and what is refused before it."""

from __future__ import annotations

import unittest
from typing import Any

from filestoraged.errors import ClientGone, Forbidden, NotFound
from filestoraged.web.auth import Tokens
from filestoraged.web.cross_site import Hosts, Origins
from filestoraged.web.mounts import Mounts
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Response
from filestoraged.web.router import DELETE, READ, WRITE, Match, PageVariant, Route, Router
from filestoraged.wire.head import Head


def show(request: Request, *segments: str) -> Response:
    return Response(200, body="|".join(segments).encode())


def fail(_: Request, *__: str) -> Response:
    raise NotFound("Not here.")


def leave(_: Request) -> Response:
    raise ClientGone("gone")


async def upload(_: Request) -> Response:
    return Response(201)


FILES = Router(
    "files",
    [
        Route("GET", "/", show, READ, RunsOn.INLINE),
        Route("POST", "/", upload, WRITE, RunsOn.THREAD),
        Route("GET", "/{hash}", show, READ, RunsOn.INLINE),
        Route("DELETE", "/{hash}", show, DELETE, RunsOn.REMOTE),
        Route("PUT", "/{hash}", fail, WRITE, RunsOn.THREAD),
        Route("PUT", "/", leave, WRITE, RunsOn.THREAD),
    ],
)
KEYS = Router(
    "kv",
    [
        Route("POST", "/set", show, WRITE, RunsOn.INLINE, inline_body=100),
        Route("GET", "/{key}", show, READ, RunsOn.THREAD, recall=lambda _, key: Response(200) if key == "a" else None),
        Route("GET", "/gone", show, READ, RunsOn.THREAD, recall=fail),
    ],
)


ROOT = Router(
    "repositories",
    [
        Route("GET", "", show, READ, RunsOn.INLINE),
        Route("GET", "/", show, READ, RunsOn.INLINE),
        Route("PUT", "/", upload, WRITE, RunsOn.INLINE),
    ],
)


NESTED = Router(
    "repositories", [Route("GET", "/{name}/locks", show, READ, RunsOn.INLINE)], refuse=lambda _: Response(499)
)
WHOLE = Router(
    "repositories",
    [
        Route("GET", "/{name}/{oid}", fail, READ, RunsOn.INLINE),
        Route("DELETE", "/{name}/{oid}", show, READ, RunsOn.INLINE),
    ],
    nested=[NESTED],
)


FOR_PEOPLE = Router("files", [Route("GET", "/", lambda _: Response(200, body=b"a page"), READ, RunsOn.INLINE)])
VARIED = Router(
    "files",
    [Route("GET", "/", show, READ, RunsOn.THREAD), Route("GET", "/{hash}", show, READ, RunsOn.INLINE)],
    variant=PageVariant(FOR_PEOPLE, lambda request: request.fields.get("accept") == "text/html"),
)


class CountingAuthorizer(Tokens):
    """Lets requests with a token do anything, and counts."""

    def __init__(self) -> None:
        super().__init__([], lambda _: False)
        self.checks = 0

    def lets_anybody(self, request: Request, match: Match) -> bool:
        return False

    def check(self, request: Request, match: Match) -> None:
        self.checks += 1
        if not request.token_hash:
            raise Forbidden("No token.")


class RouterCase(unittest.TestCase):
    authorizer: CountingAuthorizer | None = None

    def setUp(self) -> None:
        self.app = Mounts(
            {"/": FILES, "/kv": KEYS, "/kv/deep": FILES, "/data": ROOT, "/nest": WHOLE, "/varied": VARIED},
            self.authorizer,
            Origins(),
            None,
        )

    def request(self, method: str, path: str, *, size: int | None = 0, fields: dict[str, str] | None = None) -> Request:
        request = Request(Head(method, path, "", (1, 1), {"host": "x", **(fields or {})}), size)
        self.app.route(request)
        return request

    def answer(self, method: str, path: str) -> Any:
        return self.app.answer(self.request(method, path))


class RouterTest(RouterCase):
    def test_longest_prefix_decides_the_interface(self) -> None:
        for path, name in (("/x", "files"), ("/kv/x", "kv"), ("/kv", "kv"), ("/kvx", "files"), ("/kv/deep/x", "files")):
            with self.subTest(path=path):
                self.assertEqual((name, "GET"), self.request("GET", path).labels)

    def test_open_segments_reach_the_page_undecoded(self) -> None:
        self.assertEqual(b"a%2Fb", self.answer("GET", "/a%2Fb").body)
        self.assertEqual(404, self.answer("GET", "/a/b").status)

    def test_method_that_a_path_lacks_answers_405_with_those_it_has(self) -> None:
        for method in ("PUT", "HEAD", "BREW"):
            with self.subTest(method=method):
                answer = self.answer(method, "/kv/set")

                self.assertEqual(405, answer.status)
                self.assertIn("Allow: POST\r\n", answer.fields)

    def test_route_of_the_root_without_a_slash_is_distinct_where_a_router_has_both(self) -> None:
        for path, allowed in (("/data", "Allow: GET\r\n"), ("/data/", "Allow: GET, PUT\r\n")):
            with self.subTest(path=path):
                self.assertEqual(200, self.answer("GET", path).status)
                self.assertIn(allowed, self.answer("BREW", path).fields)

    def test_pattern_of_a_nested_router_precedes_and_has_errors_of_its_own(self) -> None:
        self.assertEqual(200, self.answer("GET", "/nest/a/locks").status)
        self.assertEqual(404, self.answer("GET", "/nest/a/b").status)
        self.assertEqual(200, self.answer("DELETE", "/nest/a/b").status)
        self.assertEqual(499, self.answer("DELETE", "/nest/a/locks").status)
        self.assertEqual(404, self.answer("GET", "/nest/a/b/locks").status)
        self.assertEqual(("repositories", "GET"), self.request("GET", "/nest/a/locks").labels)

    def test_variant_answers_requests_that_are_for_a_page_and_has_one(self) -> None:
        for path, accept, body in (
            *(("/varied", "text/html", b"a page"), ("/varied/", "text/html", b"a page"), ("/varied", "*/*", b"")),
            *(("/varied/x", "text/html", b"x"), ("/", "text/html", b"")),
        ):
            with self.subTest(path=path, accept=accept):
                request = self.request("GET", path, fields={"accept": accept})

                self.assertEqual(body, self.app.answer(request).body)  # type: ignore[union-attr]
        refused = self.app.answer(self.request("PUT", "/varied", fields={"accept": "text/html"}))
        self.assertEqual(405, refused.status)  # type: ignore[union-attr]

    def test_routes_are_listed_with_those_of_nested_routers_and_without_variants(self) -> None:
        self.assertEqual([NESTED, WHOLE, WHOLE], [router for router, _ in WHOLE.list_routes()])
        self.assertEqual(["/", "/{hash}"], [route.pattern for _, route in VARIED.list_routes()])

    def test_request_about_no_path_answers_405(self) -> None:
        self.assertEqual(405, self.answer("OPTIONS", "*").status)

    def test_error_of_a_page_is_answered(self) -> None:
        self.assertEqual(404, self.answer("PUT", "/a").status)

    def test_client_gone_is_raised(self) -> None:
        self.assertRaises(ClientGone, self.answer, "PUT", "/")

    def test_coroutine_is_returned_unstarted(self) -> None:
        page = self.answer("POST", "/")
        self.addCleanup(page.close)

        self.assertNotIsInstance(page, Response)

    def test_route_declares_where_it_runs(self) -> None:
        cases = {
            ("GET", "/a", 0): RunsOn.INLINE,
            ("GET", "/a", 1): RunsOn.THREAD,
            ("POST", "/", 0): RunsOn.THREAD,
            ("DELETE", "/a", 0): RunsOn.REMOTE,
            ("POST", "/kv/set", 100): RunsOn.INLINE,
            ("POST", "/kv/set", 101): RunsOn.THREAD,
            ("POST", "/kv/set", None): RunsOn.THREAD,
            # Nothing has to be waited for to answer 404 and 405.
            ("GET", "/a/b", 0): RunsOn.INLINE,
            ("BREW", "/", 1000): RunsOn.INLINE,
        }
        for (method, path, size), runs_on in cases.items():
            with self.subTest(method=method, path=path, size=size):
                self.assertIs(runs_on, self.request(method, path, size=size).runs_on)

    def test_page_on_a_thread_is_answered_early_from_memory_where_it_can_be(self) -> None:
        early = [self.app.answer_early(self.request("GET", path)) for path in ("/kv/a", "/kv/b", "/kv/gone", "/a")]

        self.assertEqual([200, None, 404, None], [answer and answer.status for answer in early])

    def test_cross_site_request_is_refused_early(self) -> None:
        request = self.request("POST", "/", fields={"origin": "http://evil.example"})

        answer = self.app.answer_early(request)

        self.assertEqual(403, answer and answer.status)
        self.assertFalse(request.is_plain)

    def test_host_is_judged_on_loopback_addresses_alone(self) -> None:
        app = Mounts({"/": FILES}, None, Origins(), Hosts())
        statuses = []
        for each in (app, app.on_loopback):
            request = Request(Head("GET", "/a", "", (1, 1), {"host": "evil.example"}), 0)
            each.route(request)
            answer = each.answer(request)
            assert isinstance(answer, Response)
            statuses.append(answer.status)

        self.assertEqual([200, 421], statuses)


class AuthorizedTest(RouterCase):
    def setUp(self) -> None:
        self.authorizer = CountingAuthorizer()
        super().setUp()

    def test_request_without_a_token_is_refused_before_its_page(self) -> None:
        self.assertEqual(403, self.answer("GET", "/a").status)
        early = self.app.answer_early(self.request("POST", "/"))
        self.assertEqual(403, early and early.status)

    def test_request_with_one_head_is_checked_once(self) -> None:
        assert self.authorizer is not None
        request = self.request("GET", "/a")
        request.token_hash = b"hash"

        statuses = [self.app.answer(request).status for _ in range(3)]  # type: ignore[union-attr]

        self.assertEqual(([200] * 3, 1), (statuses, self.authorizer.checks))

    def test_refused_request_is_checked_each_time(self) -> None:
        assert self.authorizer is not None
        request = self.request("GET", "/a")

        for _ in range(3):
            self.app.answer(request)

        self.assertEqual(3, self.authorizer.checks)
