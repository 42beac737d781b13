"""Requests read from memory say what they said before, and nothing secret is kept."""

from __future__ import annotations

import gc
import tracemalloc
import unittest
from collections.abc import Callable, Sequence

from filestoraged.errors import MalformedRequest
from filestoraged.web.request_cache import LARGEST, RequestCache
from filestoraged.wire.body import NO_BODY

GET = b"GET /abc?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n"


class MemoryTest(unittest.TestCase):
    def setUp(self) -> None:
        self.memory = RequestCache()

    def test_a_request_is_recalled_by_all_of_its_bytes(self) -> None:
        asked = self.memory.read(GET)

        self.assertIs(asked, self.memory.recall(GET))
        for other in (GET[:-1], GET + b"G", GET.replace(b"GET", b"PUT"), GET.replace(b"1.1", b"1.0")):
            self.assertIsNone(self.memory.recall(other))

    def test_each_upload_has_a_framing_of_its_own(self) -> None:
        first, second = self.memory.read(POST), self.memory.read(POST)

        first.framing.decode(memoryview(b"tea"))

        self.assertIs(first.request, second.request)
        self.assertEqual((True, False), (first.framing.done, second.framing.done))
        self.assertEqual(first[2:], second[2:])
        self.assertEqual(3, second.framing.size)

    def test_an_upload_is_not_recalled_as_a_question(self) -> None:
        self.memory.read(POST)

        self.assertIsNone(self.memory.recall(POST))

    def test_a_chunked_upload_is_read_anew(self) -> None:
        chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

        first, second = self.memory.read(chunked), self.memory.read(chunked)

        self.assertIsNot(first.framing, second.framing)
        self.assertIsNot(NO_BODY, second.framing)

    def test_what_may_hold_a_secret_is_not_remembered(self) -> None:
        secrets = (
            GET.replace(b"name=x", b"password=x"),
            GET.replace(b"name=x", b"a=b&pass%77ord=x"),
            GET[:-2] + b"Authorization: Basic eA==\r\n\r\n",
            GET[:-2] + b"AUTHORIZATION: Basic eA==\r\n\r\n",
        )

        for data in secrets:
            with self.subTest(data=data):
                self.memory.read(data)

                self.assertIsNone(self.memory.recall(data))

    def test_what_is_malformed_is_malformed_again(self) -> None:
        for _ in range(2):
            self.assertRaises(MalformedRequest, self.memory.read, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")

    def test_what_is_remembered_takes_the_bytes_stated_at_most(self) -> None:
        def many_fields(number: int) -> bytes:
            return b"".join(b"%x:%x\r\n" % (field, number + field * 77) for field in range(97))

        def long_value(number: int) -> bytes:
            return b"X: %d%s\r\n" % (number, b"x" * 900)

        def long_path(number: int) -> bytes:
            return GET.replace(b"abc", b"%d%s" % (number, b"x" * 900))

        def short(number: int) -> bytes:
            return GET.replace(b"abc", b"%d" % number)

        # Each with more heads than there is room for.
        kinds: Sequence[tuple[int, Callable[[int], bytes]]] = (
            (
                150,
                lambda number: GET[:-2] + many_fields(number)[: 1024 - len(GET)].rpartition(b"\r\n")[0] + b"\r\n\r\n",
            ),
            (
                150,
                lambda number: POST[:-2] + many_fields(number)[: 1024 - len(POST)].rpartition(b"\r\n")[0] + b"\r\n\r\n",
            ),
            (700, lambda number: GET[:-2] + long_value(number) + b"\r\n"),
            (700, long_path),
            (1500, short),
        )
        for count, head in kinds:
            with self.subTest(head=head(0)[:60]):
                self.assertLessEqual(len(head(0)), 1024)

                largest = self.largest_size(head, count)

                self.assertLess(largest, LARGEST)
                self.assertGreater(largest, LARGEST / 4)

    def largest_size(self, head: Callable[[int], bytes], count: int) -> int:
        """The most that reading so many different heads takes, as it is measured."""
        memory, largest = RequestCache(), 0
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(count):
                # The router sets what the path leads to later.
                memory.read(head(number)).request.match = (None, {}, None, ("x",))
                largest = max(largest, tracemalloc.get_traced_memory()[0] - before)
        finally:
            tracemalloc.stop()
        return largest

    def test_what_is_too_long_is_not_remembered(self) -> None:
        long = GET[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n"

        self.memory.read(long)

        self.assertIsNone(self.memory.recall(long))
