"""Decoding of bodies by length and in chunks, received in any cut."""

from __future__ import annotations

import math
import tracemalloc
import unittest
from collections.abc import Iterable

from filestoraged.errors import MalformedRequest
from filestoraged.wire.body import Chunked, Framing, Sized
from tests.wire.cuts import cuts, one_by_one

NEXT = b"GET / HTTP/1.1\r\n"


def decode(framing: Framing, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """Decode `pieces`. Returns the body, and the bytes that follow it."""
    body, left = bytearray(), bytearray()
    for piece in pieces:
        views, used = ([], 0) if framing.done else framing.decode(memoryview(piece))
        body += b"".join(views)
        left += piece[used:]
        if used < len(piece) and not framing.done:
            raise AssertionError(f"{len(piece) - used} bytes were not used before the end of the body")
    return bytes(body), bytes(left)


class SizedTest(unittest.TestCase):
    def test_body_of_declared_length_is_decoded_in_any_cut(self) -> None:
        for name, pieces in cuts(b"hello world"):
            framing = Sized(11)
            with self.subTest(name):
                self.assertEqual((b"hello world", b""), decode(framing, pieces))
                self.assertTrue(framing.done)

    def test_bytes_of_the_next_request_are_not_used(self) -> None:
        for name, pieces in cuts(b"hello" + NEXT):
            with self.subTest(name):
                self.assertEqual((b"hello", NEXT), decode(Sized(5), pieces))

    def test_left_counts_the_bytes_still_to_come(self) -> None:
        framing = Sized(5)

        framing.decode(memoryview(b"hel"))

        self.assertEqual(5, framing.size)
        self.assertEqual(2, framing.left)
        self.assertFalse(framing.done)

    def test_empty_body_is_done_before_the_first_byte(self) -> None:
        framing = Sized(0)

        self.assertTrue(framing.done)
        self.assertEqual((b"", NEXT), decode(framing, [NEXT]))
        self.assertEqual(0, framing.decode(memoryview(NEXT))[1])

    def test_pieces_are_views_of_the_input(self) -> None:
        data = b"hello" + NEXT

        views, _ = Sized(5).decode(memoryview(data))

        self.assertTrue(all(view.obj is data for view in views))


class ChunkedTest(unittest.TestCase):
    def assert_body(self, expected: bytes, framed: bytes) -> None:
        """The body is `expected` in any cut, with and without a request after it."""
        for following in (b"", NEXT):
            for name, pieces in cuts(framed + following):
                framing = Chunked()
                with self.subTest(name, following=following):
                    self.assertEqual((expected, following), decode(framing, pieces))
                    self.assertTrue(framing.done)

    def assert_malformed(self, framed: bytes) -> None:
        """The body is refused in any cut, without further bytes."""
        for name, pieces in cuts(framed):
            with self.subTest(name, framed=framed):
                with self.assertRaises(MalformedRequest) as caught:
                    decode(Chunked(), pieces)

                self.assertEqual(400, caught.exception.status)
                self.assertTrue(caught.exception.closes)

    def test_chunks_are_decoded_in_any_cut(self) -> None:
        end = b"\r\n0\r\n\r\n"
        self.assert_body(b"hello world", b"5\r\nhello\r\n6\r\n world" + end)
        self.assert_body(b"\r\n0\r\n\r\n5\r\n\n", b"b\r\n\r\n0\r\n\r\n5\r\n\n" + end)
        for zero in (b"0", b"00", b"0000000000000000"):
            self.assert_body(b"", zero + b"\r\n\r\n")

    def test_size_in_either_case_with_leading_zeros_is_hexadecimal(self) -> None:
        sizes: dict[int, tuple[bytes, ...]] = {10: (b"a", b"A", b"0a", b"000000000000000A")}
        sizes |= {size: (b"%x" % size, b"%X" % size, b"0%x" % size) for size in (16, 31, 171, 256)}
        for size, written in sizes.items():
            content = bytes(range(256))[:size]
            for text in written:
                self.assert_body(content, text + b"\r\n" + content + b"\r\n0\r\n\r\n")

    def test_extensions_are_discarded(self) -> None:
        extensions = (
            b";a", b";a=b", b";a=b;c;d=e", b' ; a = b\t;\tc = "d"', b';a=""', b';a="b;c=d"', b';a="\\"\\\\"',
            b';a="\xe9 \t"', b";!#$%&'*+-.^_`|~09aZ=!#$%&'*+-.^_`|~09aZ",
        )  # fmt: skip
        for extension in extensions:
            self.assert_body(b"hello", b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n")

    def test_trailers_are_discarded(self) -> None:
        for trailers in (b"A: b\r\n", b"A: b\r\nC:\r\n", b"A:b\xe9\t \r\n", b"Content-Length: 5\r\nHost: x\r\n"):
            self.assert_body(b"hello", b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n")

    def test_malformed_size_is_refused(self) -> None:
        for size in (
            b"", b"x", b"g", b"+5", b"-5", b"-0", b"0x5", b"5h", b"5_0", b"5.", b"5,", b" 5", b"\t5", b"5 ", b"5\t",
            b"5 5", b"\xb2", b"\xd9\xa5", b"'5'", b"0" * 17, b"f" * 17, b"5\x00", b"\x005", b"5\x0b",
        ):  # fmt: skip
            self.assert_malformed(size + b"\r\nhello\r\n0\r\n\r\n")

    def test_malformed_extensions_are_refused(self) -> None:
        for extension in (
            b";", b";;a", b";=b", b";a=", b";a b", b";a=b c", b"x", b" x", b";a;", b";a=b ", b";\xe9", b";a=\xe9",
            b';a="', b';a="b', b';a="b"c', b';a="\x00"', b';a="\\', b";a\x00", b";a=b\x7f",
        ):  # fmt: skip
            self.assert_malformed(b"5" + extension + b"\r\nhello\r\n0\r\n\r\n")

    def test_bare_line_feed_or_carriage_return_in_the_framing_is_refused(self) -> None:
        for framed in (
            b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n",
            b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\nA: b\n\r\n", b"5\r\nhello\r\n0\r\nA: b\r\n\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n", b'5;a="\n"\r\nhello\r\n0\r\n\r\n', b"\n5\r\nhello\r\n0\r\n\r\n",
            b"5\rhello\r\n0\r\n\r\n", b"5\r\r\nhello\r\n0\r\n\r\n", b"5;a=\rb\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello\r\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\r\n",
            b"5\r\nhello\r\n0\r\nA: b\rc\r\n\r\n",
        ):  # fmt: skip
            self.assert_malformed(framed)

    def test_chunk_of_another_length_than_its_size_is_refused(self) -> None:
        for chunk in (b"4\r\nhello\r\n", b"4\r\nhell", b"4\r\nhell \r\n", b"6\r\nhello\r\n", b"7\r\nhello\r\n"):
            self.assert_malformed(chunk + b"0\r\n\r\n")

    def test_wrong_byte_after_a_chunk_is_refused_at_once(self) -> None:
        for wrong in (b"x", b"\n", b" ", b"0", b"\rx", b"\r\r"):
            with self.subTest(wrong=wrong), self.assertRaises(MalformedRequest):
                decode(Chunked(), one_by_one(b"5\r\nhello" + wrong))

    def test_malformed_trailers_are_refused(self) -> None:
        trailers = (
            b"A", b"A : b", b" A: b", b"\tA: b", b": b", b"A: b\x00", b"A\xe9: b", b"A b: c", b"A: b\r\n c", b" ",
        )  # fmt: skip
        for trailer in trailers:
            self.assert_malformed(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n")

    def test_truncated_body_is_not_done(self) -> None:
        framed = b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n"

        for length in range(len(framed)):
            framing = Chunked()
            with self.subTest(length=length):
                body, left = decode(framing, [framed[:length]])

                self.assertTrue(b"hello!".startswith(body))
                self.assertEqual(b"", left)
                self.assertFalse(framing.done)

    def test_bytes_are_returned_before_their_chunk_is_complete(self) -> None:
        framing = Chunked()

        body, _ = decode(framing, [b"ffffffffffffffff\r\nhel", b"lo"])

        self.assertEqual(b"hello", body)

    def test_size_of_a_chunked_body_is_unknown(self) -> None:
        framing = Chunked()

        framing.decode(memoryview(b"5\r\nhel"))

        self.assertIsNone(framing.size)
        self.assertEqual(math.inf, framing.left)

    def test_decode_after_the_end_uses_no_bytes(self) -> None:
        framing = Chunked()
        framing.decode(memoryview(b"0\r\n\r\n"))

        views, used = framing.decode(memoryview(NEXT))

        self.assertEqual(([], 0), (views, used))

    def test_long_pieces_are_views_of_the_input(self) -> None:
        data = b"2000\r\n" + b"x" * 8192 + b"\r\n6\r\n world\r\n0\r\n\r\n"

        (long, short), _ = Chunked().decode(memoryview(data))

        self.assertEqual((b"x" * 8192, b" world"), (bytes(long), bytes(short)))
        self.assertTrue(long.obj is data)

    def test_short_chunks_of_one_input_take_no_more_memory_than_their_bytes(self) -> None:
        data = b"1\r\na\r\n" * 10_000 + b"1;b\r\na\r\n" * 10_000
        framing = Chunked()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)

        framing.decode(memoryview(data))

        self.assertLess(tracemalloc.get_traced_memory()[1], len(data))

    def test_line_without_end_is_refused(self) -> None:
        for beginning in (b"5;a=", b"0" * 20, b"0\r\nA: "):
            endless = beginning + b"x" * 8 * 1024
            for pieces in ([endless], one_by_one(endless)):
                with self.subTest(beginning=beginning, pieces=len(pieces)), self.assertRaises(MalformedRequest):
                    decode(Chunked(), pieces)

    def test_line_over_the_limit_is_refused_in_any_cut(self) -> None:
        for length in (1024, 4090, 4093, 4094, 4095, 4096, 4097, 4098, 5000, 8192):
            framed = b"1;a=" + b"x" * (length - 6) + b"\r\n!\r\n0\r\n\r\n"
            taken = set()
            for pieces in ([framed], one_by_one(framed), [framed[: length - 1], framed[length - 1 :]]):
                try:
                    taken.add(decode(Chunked(), pieces)[0])
                except MalformedRequest:
                    taken.add(b"refused")

            with self.subTest(length=length):
                self.assertEqual({b"!" if length <= 4096 else b"refused"}, taken)

    def test_trailers_over_the_limit_are_refused(self) -> None:
        line = b"X-Trailer: " + b"x" * 1011 + b"\r\n"
        for count, taken in ((30, True), (34, False)):
            framing = Chunked()
            framed = b"0\r\n" + line * count + b"\r\n"
            with self.subTest(count=count):
                if taken:
                    self.assertEqual((b"", b""), decode(framing, [framed]))
                else:
                    self.assertRaises(MalformedRequest, decode, framing, [framed])

    def test_many_chunks_of_one_byte_are_decoded(self) -> None:
        framed = b"1\r\nx\r\n" * 170_000 + b"0\r\n\r\n"

        body, _ = decode(Chunked(), [framed])

        self.assertEqual(170_000, len(body))
