"""The request cache returns the parsed requests, keeps its bound, and caches no secret."""

from __future__ import annotations

import gc
import tracemalloc
import unittest
from collections.abc import Callable, Sequence

from filestoraged.errors import MalformedRequest
from filestoraged.web.auth import hashed
from filestoraged.web.request_cache import (
    DEFAULT_CACHE_SIZE,
    MAX_FIELDS_SIZE,
    MAX_UPLOADS_SIZE,
    ParsedRequest,
    RequestCache,
)
from filestoraged.wire.body import NO_BODY, Framing

GET = b"GET /abc?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n"
ID = b"0123456789abcdef" * 2


def read(cache: RequestCache, data: bytes) -> ParsedRequest:
    """Read a head whose path leads to a page, as the router finds then."""
    return read_framed(cache, data)[0]


def read_framed(cache: RequestCache, data: bytes) -> tuple[ParsedRequest, Framing]:
    parsed, framing = cache.read(data)
    parsed.request.is_path_open = True
    cache.keep(parsed, framing)
    return parsed, framing


class RequestCacheTest(unittest.TestCase):
    def setUp(self) -> None:
        self.cache = RequestCache()

    def read(self, data: bytes) -> ParsedRequest:
        return read(self.cache, data)

    def test_request_is_found_by_all_of_its_bytes(self) -> None:
        asked = self.read(GET)

        self.assertIs(asked, self.cache.recall(GET))
        for other in (GET[:-1], GET + b"G", GET.replace(b"GET", b"PUT"), GET.replace(b"1.1", b"1.0")):
            self.assertIsNone(self.cache.recall(other))

    def test_each_upload_has_its_own_framing(self) -> None:
        (first, first_framing), (second, second_framing) = (read_framed(self.cache, POST) for _ in range(2))

        first_framing.decode(memoryview(b"tea"))

        self.assertIs(first, second)
        self.assertEqual((True, False), (first_framing.done, second_framing.done))
        self.assertEqual(3, second_framing.size)

    def test_cached_upload_is_not_returned_for_a_request_without_a_body(self) -> None:
        self.read(POST)

        self.assertIsNone(self.cache.recall(POST))

    def test_cached_upload_is_found_with_its_whole_body_alone(self) -> None:
        asked = self.read(POST)

        found = self.cache.recall_upload(POST + b"tea")

        assert found is not None
        self.assertEqual((asked.request, b"tea"), (found[0].request, found[1]))
        for other in (POST, POST + b"te", POST + b"teap", POST[:-2], GET, b"", b"\r\n" + POST + b"tea"):
            self.assertIsNone(self.cache.recall_upload(other))

    def test_chunked_upload_is_not_cached(self) -> None:
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

        (first, first_framing), (second, second_framing) = (read_framed(self.cache, chunked) for _ in range(2))

        self.assertIsNot(first, second)
        self.assertIsNot(first_framing, second_framing)
        self.assertIsNot(NO_BODY, second_framing)

    def test_request_that_may_hold_a_secret_is_not_cached(self) -> None:
        secrets = (
            GET.replace(b"name=x", b"password=x"),
            GET.replace(b"name=x", b"a=b&pass%77ord=x"),
            GET.replace(b"name=x", b"next=/vimeo/api/v1.0/file/" + ID),
            GET.replace(b"name=x", b"next=http%3A%2F%2Flocalhost%2Fvimeo%2Fapi%2Fv1.0%2Fdrop%2F" + ID),
            GET[:-2] + b"Authorization: Basic eA==\r\n\r\n",
            GET[:-2] + b"AUTHORIZATION: Basic eA==\r\n\r\n",
            GET[:-2] + b"Authorization: BEARER s3cret\r\n\r\n",
            GET.replace(b"name=x", b"password=x")[:-2] + b"Authorization: Bearer s3cret\r\n\r\n",
        )

        for data in secrets:
            with self.subTest(data=data):
                self.read(data)

                self.assertIsNone(self.cache.recall(data))

    def test_request_is_cached_when_it_is_routed_and_not_before(self) -> None:
        parsed, framing = self.cache.read(GET)
        before = self.cache.recall(GET)

        parsed.request.is_path_open = True
        self.cache.keep(parsed, framing)

        self.assertIsNone(before)
        self.assertIs(parsed, self.cache.recall(GET))

    def test_request_whose_path_is_secret_or_leads_nowhere_is_not_cached(self) -> None:
        for data in (GET.replace(b"abc", ID), POST.replace(b"/", b"/" + ID, 1)):
            with self.subTest(data=data):
                self.cache.keep(*self.cache.read(data))

                self.assertIsNone(self.cache.recall(data))
                self.assertIsNone(self.cache.recall_upload(data + b"tea"))
                self.assertNotIn(ID, self.everything_cached())

    def test_request_with_a_link_in_a_header_field_is_not_cached_nor_are_its_fields(self) -> None:
        links = (
            b"Referer: http://localhost/vimeo/api/v1.0/drop/%s" % ID,
            b"Referer: http://localhost/vimeo/api/v1.0/drop/%%30%s" % ID[1:],
            b"X-Original-URI: /vimeo/api/v1.0/file/%s?x=y" % ID,
            b"Referer: http://localhost/?password=%s" % ID,
        )
        for link in links:
            for token in (b"", b"Authorization: Bearer t0ken\r\n"):
                with self.subTest(link=link, token=token):
                    data = GET[:-2] + token + link + b"\r\n\r\n"

                    self.read(data)

                    self.assertIsNone(self.cache.recall(data))
                    self.assertNotIn(ID[1:], self.everything_cached())

    def test_request_with_a_harmless_referer_is_cached(self) -> None:
        data = GET[:-2] + b'Referer: http://localhost/vimeo/api/v1.0/?x=y\r\nIf-None-Match: "%s"\r\n\r\n' % (ID * 2)

        parsed = self.read(data)

        self.assertIs(parsed, self.cache.recall(data))

    def test_request_with_a_token_is_cached_by_the_hash_of_its_head_without_the_token(self) -> None:
        for head in (GET, POST):
            with self.subTest(head=head):
                data = head[:-2] + b"Authorization: Bearer s3cret\r\n\r\n"

                first, second = self.read(data), self.cache.recall(data) or self.read(data)

                self.assertIs(first.request, second.request)
                self.assertEqual(hashed("s3cret"), first.request.token_hash)
                self.assertNotIn("authorization", first.request.fields)
                for table in (self.cache._bodiless, self.cache._uploads, self.cache._fields):
                    self.assertNotIn(b"s3cret", b"".join(table._values))

    def test_request_with_another_token_is_another_request(self) -> None:
        first = self.read(GET[:-2] + b"Authorization: Bearer one\r\n\r\n")
        other = GET[:-2] + b"Authorization: Bearer two\r\n\r\n"

        self.assertIsNone(self.cache.recall(other))
        self.assertIsNone(self.cache.recall(GET))
        self.assertNotEqual(first.request.token_hash, self.read(other).request.token_hash)

    def test_malformed_head_raises_each_time(self) -> None:
        for _ in range(2):
            self.assertRaises(MalformedRequest, self.cache.read, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")

    def test_cache_stays_within_its_maximum_size(self) -> None:
        def many_fields(number: int) -> bytes:
            return b"".join(b"%x:%x\r\n" % (field, number + field * 77) for field in range(97))

        def long_value(number: int) -> bytes:
            return b"X: %d%s\r\n" % (number, b"x" * 900)

        def long_path(number: int) -> bytes:
            return GET.replace(b"abc", b"%d%s" % (number, b"x" * 900))

        def short(number: int) -> bytes:
            return GET.replace(b"abc", b"%d" % number)

        # Each with more heads than there is room for.
        kinds: Sequence[tuple[int, int, Callable[[int], bytes]]] = (
            (
                150,
                DEFAULT_CACHE_SIZE,
                lambda number: GET[:-2] + many_fields(number)[: 1024 - len(GET)].rpartition(b"\r\n")[0] + b"\r\n\r\n",
            ),
            (
                150,
                MAX_UPLOADS_SIZE,
                lambda number: POST[:-2] + many_fields(number)[: 1024 - len(POST)].rpartition(b"\r\n")[0] + b"\r\n\r\n",
            ),
            (700, DEFAULT_CACHE_SIZE, lambda number: GET[:-2] + long_value(number) + b"\r\n"),
            (700, DEFAULT_CACHE_SIZE, long_path),
            (2000, DEFAULT_CACHE_SIZE, short),
        )
        for count, size, head in kinds:
            with self.subTest(head=head(0)[:60]):
                self.assertLessEqual(len(head(0)), 1024)

                largest = self.largest_size(head, count)

                self.assertLess(largest, size + MAX_FIELDS_SIZE)
                self.assertGreater(largest, size / 4)

    def test_head_that_is_parsed_again_counts_once(self) -> None:
        other = self.read(GET.replace(b"abc", b"other"))

        # As heads of pipelined requests are, and those that two threads parse at once.
        for _ in range(2 * DEFAULT_CACHE_SIZE // 1200):
            self.read(GET)

        self.assertIs(other, self.cache.recall(GET.replace(b"abc", b"other")))

    def test_full_cache_keeps_requests_in_demand(self) -> None:
        demanded = self.read(GET)

        for number in range(3000):
            self.assertIs(demanded, self.cache.recall(GET))
            self.read(GET.replace(b"abc", b"%d" % number))

    def everything_cached(self) -> bytes:
        tables = (self.cache._bodiless, self.cache._uploads, self.cache._fields)
        return b"".join(key for table in tables for key in table._values)

    def largest_size(self, head: Callable[[int], bytes], count: int) -> int:
        """Measure the largest size of the cache while different heads are read."""
        cache, largest = RequestCache(), 0
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(count):
                read(cache, head(number)).request.match = (None, {}, None, ("x",))
                largest = max(largest, tracemalloc.get_traced_memory()[0] - before)
        finally:
            tracemalloc.stop()
        return largest

    def test_head_over_the_maximum_size_is_not_cached(self) -> None:
        long = GET[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n"

        self.read(long)

        self.assertIsNone(self.cache.recall(long))
