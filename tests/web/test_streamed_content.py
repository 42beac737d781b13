"""Responses of unknown size: their chunks, whatever a client takes at a time."""

from __future__ import annotations

import unittest
from collections.abc import Generator

from filestoraged.digest import Bytes
from filestoraged.web.request import Request
from filestoraged.web.response import Response
from filestoraged.web.streamed_content import streamed
from filestoraged.wire.head import Head


class SlowSink:
    """Takes three bytes at a time."""

    def __init__(self) -> None:
        self.received = b""

    def write(self, data: Bytes) -> int:
        self.received += bytes(data[:3])
        return len(data[:3])

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        raise AssertionError("no file is sent")


class StreamedContentTest(unittest.TestCase):
    def setUp(self) -> None:
        self.is_closed = False

    def pieces(self, *pieces: bytes) -> Generator[bytes, None, None]:
        try:
            yield from pieces
        finally:
            self.is_closed = True

    def sent(self, response: Response) -> bytes:
        sink, position, content = SlowSink(), response.start, response.content
        assert content is not None
        while position < response.stop:
            position = content.send(sink, position, response.stop)
        response.close()
        return sink.received

    def test_each_piece_becomes_a_chunk_and_an_empty_one_none(self) -> None:
        response = streamed(_request((1, 1)), 200, "", self.pieces(b"tea", b"", b"a longer piece"))

        self.assertEqual("Transfer-Encoding: chunked\r\n", response.fields)
        self.assertEqual(b"3\r\ntea\r\ne\r\na longer piece\r\n0\r\n\r\n", self.sent(response))
        self.assertFalse(response.closes)

    def test_http_1_0_gets_the_pieces_alone_and_the_end_of_the_connection(self) -> None:
        response = streamed(_request((1, 0)), 200, "", self.pieces(b"tea", b"", b"coffee"))

        self.assertEqual(("", True), (response.fields, response.closes))
        self.assertEqual(b"teacoffee", self.sent(response))

    def test_response_without_a_piece_is_empty(self) -> None:
        self.assertEqual(b"0\r\n\r\n", self.sent(streamed(_request((1, 1)), 200, "", self.pieces())))
        self.assertEqual(b"", self.sent(streamed(_request((1, 0)), 200, "", self.pieces())))

    def test_response_that_is_given_up_ends_what_makes_its_pieces(self) -> None:
        response = streamed(_request((1, 1)), 200, "", self.pieces(b"tea", b"coffee"))
        self.assertFalse(self.is_closed)

        response.close()

        self.assertTrue(self.is_closed)


def _request(version: tuple[int, int]) -> Request:
    return Request(Head("GET", "/", "", version, {}), 0)
