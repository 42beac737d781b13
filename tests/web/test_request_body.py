"""How a page reads a request body, and what is left in memory while it waits."""

from __future__ import annotations

import socket
import threading
import unittest
from typing import Any
from unittest import mock

from filestoraged.errors import ClientGone, MalformedRequest
from filestoraged.web.limits import Limits
from filestoraged.web.receiver import Receiver
from filestoraged.web.request_body import RequestBody
from filestoraged.wire.body import Chunked, Framing, Sized
from tests.clock import VirtualClock


def chunks(*pieces: bytes) -> bytes:
    """The pieces as the chunks of a body; an empty one is its end."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class RequestBodyTest(unittest.TestCase):
    def setUp(self) -> None:
        self.client, connection = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(connection.close)
        self.receiver = Receiver(connection)
        self.clock = VirtualClock()
        self.decoding = threading.Lock()
        # Every piece that was fed, and its bytes at that time.
        self.pieces: list[memoryview] = []
        self.bytes: list[bytes] = []
        # After which pieces no more are wanted.
        self.stops: set[bytes] = set()

    def body(self, framing: Framing) -> RequestBody:
        return RequestBody(self.receiver, framing, self.clock.now, self.decoding)

    def feed(self, piece: Any) -> bool:
        self.pieces.append(piece)
        self.bytes.append(bytes(piece))
        return bytes(piece) not in self.stops

    def assert_released(self) -> None:
        for piece in self.pieces:
            if isinstance(piece, memoryview):
                self.assertRaises(ValueError, len, piece)

    def test_arriving_piece_is_released_after_the_page_has_it(self) -> None:
        body = self.body(Sized(10))
        self.client.sendall(b"tea")

        body.deliver(self.feed)

        self.assertTrue(body.is_silent)
        self.assertEqual(([b"tea"], 3), (self.bytes, body.received))
        self.assert_released()

    def test_piece_that_came_with_the_head_is_released(self) -> None:
        body = self.body(Sized(10))
        self.receiver.buffer = b"tea"

        body.deliver(self.feed)

        self.assertEqual([b"tea"], self.bytes)
        self.assert_released()

    def test_chunks_are_decoded_by_one_thread_at_a_time_and_fed_by_any(self) -> None:
        decoded: list[bool] = []
        fed: list[bool] = []
        for framing in (Chunked(), Sized(3)):
            body = self.body(framing)
            self.receiver.buffer = chunks(b"tea", b"") if framing.size is None else b"tea"
            decode = framing.decode

            def judged(data: memoryview, decode: Any = decode) -> Any:
                decoded.append(self.decoding.locked())
                return decode(data)

            def feed(_: Any) -> bool:
                fed.append(self.decoding.locked())
                return True

            with mock.patch.object(framing, "decode", judged):
                body.deliver(feed)

        self.assertEqual(([True, False], {False}), (decoded, set(fed)))

    def test_each_chunk_is_released_and_the_end_is_an_empty_piece(self) -> None:
        body = self.body(Chunked())
        tea, pot = b"t" * 5000, b"p" * 5000
        self.client.sendall(chunks(tea, pot, b""))

        body.deliver(self.feed)

        self.assertEqual([tea, pot, b""], self.bytes)
        self.assert_released()

    def test_short_chunks_of_one_read_are_fed_as_one_piece(self) -> None:
        body = self.body(Chunked())
        long = b"p" * 5000
        self.client.sendall(chunks(b"tea", b"pot", long, b"c", b"up", b""))

        body.deliver(self.feed)

        self.assertEqual(([b"teapot", long, b"cup", b""], 5009), (self.bytes, body.received))
        self.assert_released()

    def test_bytes_behind_the_body_are_left_for_the_next_request(self) -> None:
        body = self.body(Sized(3))
        self.receiver.buffer = b"teaGET /"

        body.deliver(self.feed)

        self.assertEqual(([b"tea", b""], b"GET /"), (self.bytes, self.receiver.buffer))

    def test_pieces_of_one_read_are_kept_while_the_page_awaits_something_else(self) -> None:
        body = self.body(Chunked())
        tea, pot = b"t" * 5000, b"p" * 5000
        self.client.sendall(chunks(tea, pot, b"cup", b""))
        self.stops = {tea}

        body.deliver(self.feed)
        first, self.stops = list(self.bytes), set()
        body.deliver(self.feed)

        self.assertEqual([tea], first)
        self.assertEqual([tea, pot + b"cup", b""], self.bytes)
        self.assertEqual(10_003, body.received)

    def test_delivery_yields_after_a_moment_where_a_client_is_never_silent(self) -> None:
        body = self.body(Sized(1_000_000))

        def drip(*_: object) -> bytes:
            self.clock.advance(0.001)
            return b"x"

        with mock.patch.object(Receiver, "receive_all", drip):
            body.deliver(self.feed)

        self.assertFalse(body.is_silent)
        self.assertIn(body.received, range(1, 30))

    def test_delivery_yields_after_four_mebibytes(self) -> None:
        size = 6 * 1024 * 1024
        body = self.body(Sized(size))
        sender = threading.Thread(target=self.client.sendall, args=(bytes(size),))
        sender.start()
        self.receiver.flags = 0

        body.deliver(self.feed)
        first = body.received
        body.deliver(self.feed)
        sender.join()

        self.assertFalse(body.is_silent)
        self.assertLess(first, size)
        self.assertEqual((size, b""), (body.received, self.bytes[-1]))

    def test_malformed_chunk_raises_malformed_request(self) -> None:
        self.client.sendall(b"x\r\n")

        self.assertRaises(MalformedRequest, self.body(Chunked()).deliver, self.feed)

    def test_client_that_closes_within_a_body_raises_client_gone(self) -> None:
        self.client.sendall(b"tea")
        self.client.close()

        self.assertRaises(ClientGone, self.body(Sized(10)).deliver, self.feed)

    def test_body_is_slow_below_the_least_mean_rate(self) -> None:
        limits = Limits(body_rate=1000.0, body_rate_from=10.0)
        body = self.body(Sized(100_000))
        body.open()
        began = self.clock.now()
        body.received = 9_999

        slow = [body.is_slow(limits, began + seconds) for seconds in (9.0, 10.0)]
        body.received = 10_000

        self.assertEqual([False, True], slow)
        self.assertFalse(body.is_slow(limits, began + 10.0))
