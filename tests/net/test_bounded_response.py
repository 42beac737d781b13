from __future__ import annotations

import http.client
import itertools
import unittest
from collections.abc import Iterable

from filestoraged.net.bounded_response import (
    MAX_HEAD,
    MAX_INTERIM,
    BoundedConnection,
    BoundedResponse,
    InvalidResponse,
    SlowResponse,
)
from tests.net.virtual_socket import Sent, VirtualSocket, at_once, dripping, endless

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SILENCE = 10.0

# What is read beyond a bound, into a buffer.
BUFFERED = 64 * 1024


class _Connection(BoundedConnection):
    silence_timeout = SILENCE


class BoundedResponseCase(unittest.TestCase):
    def receive(self, sent: Iterable[Sent], method: str = "GET") -> BoundedResponse:
        self.socket = VirtualSocket(sent)
        self.connection = _Connection("localhost")
        self.connection.clock = self.socket.clock
        self.connection.sock = self.socket
        self.connection.putrequest(method, "/")
        self.connection.endheaders()
        return self.connection.receive()

    def received_body(self, *pieces: bytes, method: str = "GET", limit: int = 1000) -> bytes:
        return self.receive(at_once(*pieces), method).read_all(limit)

    def assert_invalid(self, sent: Iterable[Sent]) -> None:
        with self.assertRaises(InvalidResponse) as raised:
            self.receive(sent).read_all(1 << 40)
        self.assertTrue(str(raised.exception).isprintable(), raised.exception)


class ConnectTest(unittest.TestCase):
    def test_name_that_no_host_has_is_an_error_of_the_connection(self) -> None:
        for host in ("a..b", "a" * 64, "::.."):
            with self.subTest(host), self.assertRaises(OSError):
                _Connection(host, 1).connect()


class BodyTest(BoundedResponseCase):
    def test_body_has_the_same_bytes_however_it_is_framed_and_cut(self) -> None:
        for response in (
            HEAD + b"Content-Length: 5\r\n\r\nteacu",
            CHUNKED + b'3\r\ntea\r\n2;name="value"\r\ncu\r\n0\r\nTrailer: 1\r\n\r\n',
            HEAD + b"\r\nteacu",
            b"HTTP/1.0 200\r\n\r\nteacu",
            CONTINUE * MAX_INTERIM + HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nteacu",
        ):
            with self.subTest(response):
                self.assertEqual(b"teacu", self.received_body(response))
                self.assertEqual(b"teacu", self.receive(dripping(response, 0.01)).read_all(1000))
                whole = self.receive(at_once(response))
                self.assertEqual([b"te", b"ac", b"u", b""], [whole.read(2) for _ in range(4)])
                self.assertTrue(whole.is_read)

    def test_response_without_a_body_has_none(self) -> None:
        sized = b"Content-Length: 5\r\n\r\n"

        self.assertEqual(b"", self.received_body(HEAD + sized, method="HEAD"))
        self.assertEqual(b"", self.received_body(b"HTTP/1.1 204 No Content\r\n\r\n"))
        self.assertEqual(b"", self.received_body(b"HTTP/1.1 304 Not Modified\r\n" + sized))

    def test_connection_is_used_again_only_where_the_next_response_begins_behind_this_one(self) -> None:
        sized = b"Content-Length: 0\r\n"
        for closes, response in (
            (False, HEAD + sized + b"\r\n"),
            (False, CHUNKED + b"0\r\n\r\n"),
            (False, b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + sized + b"\r\n"),
            (True, b"HTTP/1.0 200 OK\r\n" + sized + b"\r\n"),
            (True, HEAD + b"Connection: Close\r\n" + sized + b"\r\n"),
            (True, HEAD + b"Transfer-Encoding: chunked\r\n" + sized + b"\r\n0\r\n\r\n"),
            (True, HEAD + b"\r\n"),
        ):
            with self.subTest(response):
                received = self.receive(at_once(response))
                received.read_all(0)
                self.assertEqual(closes, received.closes)

    def test_body_that_is_cut_is_incomplete_behind_what_has_come(self) -> None:
        for response in (HEAD + b"Content-Length: 5\r\n\r\ntea", CHUNKED + b"5\r\ntea", CHUNKED + b"3\r\ntea\r\n"):
            with self.subTest(response):
                received = self.receive(at_once(response))
                self.assertEqual(b"tea", received.read(5))
                with self.assertRaises(http.client.IncompleteRead):
                    received.read(1)
                with self.assertRaises(http.client.IncompleteRead):
                    self.received_body(response)

    def test_head_that_is_cut_is_a_lost_connection(self) -> None:
        for response in (b"", b"HTTP/1.1", HEAD, HEAD + b"Content-Length: 3\r\n", CONTINUE):
            with self.subTest(response), self.assertRaises(ConnectionError):
                self.receive(at_once(response))


class InvalidTest(BoundedResponseCase):
    def test_chunk_size_that_is_not_hexadecimal_digits_is_refused_before_the_chunk_is_read(self) -> None:
        for size in (b"-1", b"-5", b"+3", b"0x3", b"3_0", b" 3", b"3 ", b"", b"\xb2", b"f" * 17, b"1" * 5000):
            with self.subTest(size):
                self.assert_invalid(itertools.chain(at_once(CHUNKED + size + b"\r\n"), endless(b"x" * 1000)))
                self.assertLessEqual(self.socket.received, 2 * BUFFERED)

    def test_content_length_that_is_not_one_short_number_is_refused(self) -> None:
        for length in (b"9" * 5000, b"-1", b"+3", b"3, 4", b"1e3", b"0x3", b"\xb2", b"1_0", b"9" * 19):
            with self.subTest(length[:20]):
                self.assert_invalid(at_once(HEAD + b"Content-Length: " + length + b"\r\n\r\ntea"))
        self.assert_invalid(at_once(HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\ntea!"))

    def test_transfer_coding_other_than_chunked_is_refused(self) -> None:
        for coding in (b"gzip", b"gzip, chunked", b"identity", b"chunked, chunked", b"zlib_codec", b""):
            with self.subTest(coding):
                self.assert_invalid(at_once(HEAD + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n"))

    def test_bytes_that_are_not_http_are_refused(self) -> None:
        for response in (
            b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2 200\r\n\r\n", b"HTTP/1.1 -20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 200 \x1b[2J\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
            HEAD + b"Content-Length : 3\r\n\r\ntea", HEAD + b"Content-Length: 3\n\ntea", HEAD + b"no colon\r\n\r\n",
            HEAD + b"Name: \x9b\x00\r\n\r\n", b"\x00\xff" * 100_000,
        ):  # fmt: skip
            with self.subTest(response[:40]):
                self.assert_invalid(at_once(response))


class BoundsTest(BoundedResponseCase):
    def test_endless_interim_responses_are_refused(self) -> None:
        self.assert_invalid(endless(CONTINUE))

        self.assertLessEqual(self.socket.received, (MAX_INTERIM + 2) * len(CONTINUE))

    def test_endless_head_is_refused(self) -> None:
        for line in (b"Name: value\r\n", b"x" * 1000):
            with self.subTest(line):
                self.assert_invalid(itertools.chain(at_once(HEAD), endless(line)))
                self.assertLessEqual(self.socket.received, MAX_HEAD + BUFFERED)

    def test_interim_responses_and_the_head_have_the_bound_together(self) -> None:
        large = b"Name: " + b"x" * (MAX_HEAD // 4) + b"\r\n\r\n"

        self.assert_invalid(at_once(*[b"HTTP/1.1 103 Early Hints\r\n" + large] * 4, HEAD + b"\r\n"))

    def test_endless_trailers_are_refused(self) -> None:
        for line in (b"Name: value\r\n", b"x" * 1000):
            with self.subTest(line):
                self.assert_invalid(itertools.chain(at_once(CHUNKED + b"0\r\n"), endless(line)))
                self.assertLessEqual(self.socket.received, 2 * BUFFERED)

    def test_body_beyond_the_limit_is_refused(self) -> None:
        with self.assertRaises(InvalidResponse):
            self.received_body(HEAD + b"Content-Length: 1001\r\n\r\n", limit=1000)
        for head in (CHUNKED, HEAD + b"\r\n"):
            with self.subTest(head), self.assertRaises(InvalidResponse):
                self.receive(itertools.chain(at_once(head), endless(b"100\r\n" + b"x" * 256 + b"\r\n"))).read_all(1000)
            self.assertLessEqual(self.socket.received, 2 * BUFFERED)

    def test_body_of_the_limit_is_read(self) -> None:
        self.assertEqual(b"tea", self.received_body(HEAD + b"Content-Length: 3\r\n\r\ntea", limit=3))
        self.assertEqual(b"tea", self.received_body(CHUNKED + b"3\r\ntea\r\n0\r\n\r\n", limit=3))

    def test_announced_size_allocates_nothing_before_bytes_come(self) -> None:
        received = self.receive(at_once(HEAD + b"Content-Length: 999999999999999999\r\n\r\ntea"))

        self.assertEqual(b"tea", received.read(1 << 50))


class TimeTest(BoundedResponseCase):
    def test_head_that_drips_ends_with_the_time_of_silence(self) -> None:
        for sent in (
            dripping(HEAD + b"Content-Length: 3\r\n\r\n", 1),
            endless(CONTINUE, SILENCE - 1),
            itertools.chain(at_once(HEAD), endless(b"x: y\r\n", 0.5)),
        ):
            with self.subTest(sent), self.assertRaises(SlowResponse):
                self.receive(sent)
            self.assertEqual(SILENCE, self.socket.now)

    def test_framing_that_drips_ends_with_the_time_of_silence(self) -> None:
        for framing in (b"0" * 100, b"3;" + b"x" * 100, b"0\r\n" + b"x" * 100, b"0\r\n" + b"x: y\r\n" * 100):
            with self.subTest(framing):
                received = self.receive(itertools.chain(at_once(CHUNKED), dripping(framing, 1)))
                with self.assertRaises(SlowResponse):
                    received.read(1)
                self.assertEqual(SILENCE, self.socket.now)

    def test_body_that_drips_is_not_silent(self) -> None:
        slow = SILENCE - 1
        chunks = ((slow, b"1\r\nx\r\n") for _ in range(100))
        for sent in (
            itertools.chain(at_once(HEAD + b"Content-Length: 100\r\n\r\n"), dripping(b"x" * 100, slow)),
            itertools.chain(at_once(CHUNKED), chunks, at_once(b"0\r\n\r\n")),
        ):
            with self.subTest(sent):
                self.assertEqual(b"x" * 100, self.receive(sent).read_all(1000))
                self.assertEqual(100 * slow, self.socket.now)

    def test_body_that_drips_ends_with_the_deadline(self) -> None:
        for head, piece in ((HEAD + b"\r\n", b"x"), (CHUNKED, b"1\r\nx\r\n")):
            with self.subTest(head):
                received = self.receive(itertools.chain(at_once(head), endless(piece, 1)))
                self.connection.deadline = 60
                with self.assertRaises(SlowResponse):
                    received.read_all(1 << 40)
                self.assertEqual(60, self.socket.now)

    def test_silence_is_a_timeout_and_no_slow_response(self) -> None:
        for head in (b"", HEAD + b"Content-Length: 3\r\n\r\nte"):
            with self.subTest(head), self.assertRaises(TimeoutError) as raised:
                self.receive([*at_once(*[head] if head else []), (SILENCE + 1, b"x")]).read_all(3)
            self.assertNotIsInstance(raised.exception, SlowResponse)
            self.assertEqual(SILENCE, self.socket.now)
