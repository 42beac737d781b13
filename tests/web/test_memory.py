"""Requests read from memory say what they said before, and nothing secret is kept."""

from __future__ import annotations

import unittest

from filestoraged.errors import MalformedRequest
from filestoraged.web.memory import Memory
from filestoraged.wire.framing import NO_BODY

GET = b"GET /abc?name=x HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n"


class MemoryTest(unittest.TestCase):
    def setUp(self) -> None:
        self.memory = Memory()

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

    def test_it_is_bounded(self) -> None:
        for number in range(5000):
            self.memory.read(GET.replace(b"abc", str(number).encode()))
            self.memory.read(POST.replace(b"h: 3", b"h: %d" % number))
        self.memory.read(GET[:-2] + b"X: " + b"x" * 2000 + b"\r\n\r\n")

        self.assertLessEqual(len(self.memory._questions), 1024)
        self.assertLessEqual(len(self.memory._uploads), 1024)
        self.assertLessEqual(max(map(len, self.memory._questions)), 1024)
