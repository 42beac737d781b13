"""How a page is fed its body, and what is left in memory while it waits."""

from __future__ import annotations

import socket
import unittest

from filestoraged.web.message import Receiving, Response
from filestoraged.web.receiver import Receiver
from filestoraged.web.request_body import RequestBody
from filestoraged.wire.body import Chunked, Framing, Sized


class IntakeTest(unittest.TestCase):
    def setUp(self) -> None:
        self.client, connection = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(connection.close)
        self.receiver = Receiver(connection)
        # Every piece that the page was fed, and its bytes at that time.
        self.pieces: list[memoryview] = []
        self.bytes: list[bytes] = []

    def intake(self, framing: Framing) -> RequestBody:
        intake = RequestBody(self.receiver, framing, self.page())
        intake.start()
        return intake

    def page(self) -> Receiving:
        piece = yield None
        while piece:
            self.pieces.append(piece)
            self.bytes.append(bytes(piece))
            piece = yield None
        return Response(204)

    def assert_released(self) -> None:
        for piece in self.pieces:
            self.assertRaises(ValueError, len, piece)

    def test_a_piece_that_arrives_is_released_when_the_page_asks_for_the_next(self) -> None:
        intake = self.intake(Sized(10))
        self.client.sendall(b"tea")

        response = intake.go_on()

        self.assertIsNone(response)
        self.assertTrue(intake.silent)
        self.assertEqual([b"tea"], self.bytes)
        self.assert_released()

    def test_a_piece_that_came_with_the_head_is_released_too(self) -> None:
        intake = self.intake(Sized(10))
        self.receiver.buffer = b"tea"

        intake.go_on()

        self.assertEqual([b"tea"], self.bytes)
        self.assert_released()

    def test_each_chunk_is_released(self) -> None:
        intake = self.intake(Chunked())
        self.client.sendall(b"3\r\ntea\r\n3\r\npot\r\n0\r\n\r\n")

        response = intake.go_on()

        self.assertEqual(204, response and response.status)
        self.assertEqual([b"tea", b"pot"], self.bytes)
        self.assert_released()
