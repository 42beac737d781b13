"""The framing that a head declares: a length, chunks, or a combination that is refused."""

from __future__ import annotations

from filestoraged.errors import Error, TooLarge, UnknownTransferCoding
from filestoraged.wire.body import Chunked, Framing, Sized, body_framing
from tests.wire.heads import HOST, HeadCase, head_of, parse


def framing(*fields: bytes, line: bytes = b"POST / HTTP/1.1") -> Framing:
    return body_framing(parse(*fields, line=line))


class FramingTest(HeadCase):
    def assert_framing_refused(self, *fields: bytes, line: bytes = b"POST / HTTP/1.1") -> None:
        self.assert_malformed(head_of(HOST, *fields, line=line))

    def size(self, *fields: bytes) -> int | None:
        framed = framing(*fields)
        self.assertIsInstance(framed, Sized)
        return framed.size

    def test_request_without_fields_has_no_body(self) -> None:
        self.assertEqual(0, self.size())

    def test_content_length_is_the_size(self) -> None:
        for value, size in (
            *((b"0", 0), (b"5", 5), (b"007", 7), (b"  5\t", 5), (b"123456789012345678", 123456789012345678)),
            (b"0" * 5000 + b"5", 5),
        ):
            with self.subTest(value=value[:20]):
                self.assertEqual(size, self.size(b"Content-Length: " + value))

    def test_equal_content_lengths_are_accepted(self) -> None:
        # RFC 9110, section 8.6.
        self.assertEqual(5, self.size(b"Content-Length: 5", b"Content-Length: 5"))

    def test_malformed_or_different_content_lengths_are_refused(self) -> None:
        for value in (
            b"", b"+5", b"-5", b"-0", b"+0", b"0x5", b"5x", b"5.0", b"5e1", b"5 5", b"1_000", b"1,000", b"five",
            b"\xb2", b"\xa05", b"\xd9\xa5", b"'5'", b'"5"', b"5;", b"0b1", b"NaN", b"inf",
            # Lists.
            b"5, 5", b"5,5", b"5, 5 ,5", b"5,", b", 5", b"5, 6",
        ):  # fmt: skip
            with self.subTest(value=value):
                self.assert_framing_refused(b"Content-Length: " + value)
                self.assert_framing_refused(b"Content-Length: " + value, b"Content-Length: " + value)
        self.assert_framing_refused(b"Content-Length: 5", b"Content-Length: 6")
        self.assert_framing_refused(b"Content-Length: 6", b"X: y", b"content-length: 5")
        self.assert_framing_refused(b"Content-Length: 5", b"Content-Length:")

    def test_content_length_of_more_than_18_digits_raises_too_large(self) -> None:
        for digits in (19, 20, 5000, 30000):
            with self.subTest(digits=digits):
                with self.assertRaises(TooLarge) as caught:
                    framing(b"Content-Length: " + b"9" * digits)

                self.assertEqual(413, caught.exception.status)

    def test_chunked_is_accepted_in_any_case(self) -> None:
        for coding in (b"chunked", b"Chunked", b"CHUNKED", b" chunked\t"):
            with self.subTest(coding=coding):
                framed = framing(b"Transfer-Encoding: " + coding)

                self.assertIsInstance(framed, Chunked)
                self.assertIsNone(framed.size)

    def test_transfer_encoding_with_an_empty_member_or_chunked_twice_is_refused(self) -> None:
        for coding in (
            b",chunked", b"chunked,", b",chunked,", b", chunked", b"", b",", b",gzip", b" ,", b"chunked, chunked",
        ):  # fmt: skip
            with self.subTest(coding=coding):
                self.assert_framing_refused(b"Transfer-Encoding: " + coding)
        for first in (b"", b" chunked"):
            self.assert_framing_refused(b"Transfer-Encoding:" + first, b"Transfer-Encoding: chunked")

    def test_content_length_with_transfer_encoding_is_refused(self) -> None:
        for coding in (b"chunked", b"gzip", b"identity", b""):
            for length in (b"5", b"0", b"x"):
                fields = (b"Content-Length: " + length, b"Transfer-Encoding: " + coding)
                for line in (b"POST / HTTP/1.1", b"POST / HTTP/1.0"):
                    with self.subTest(coding=coding, length=length, line=line):
                        self.assert_framing_refused(*fields, line=line)
                        self.assert_framing_refused(*reversed(fields), line=line)

    def test_transfer_encoding_on_http_1_0_is_refused(self) -> None:
        for coding in (b"chunked", b"gzip", b"gzip, chunked", b""):
            with self.subTest(coding=coding):
                self.assert_framing_refused(b"Transfer-Encoding: " + coding, line=b"POST / HTTP/1.0")

    def test_unknown_transfer_coding_raises_501(self) -> None:
        codings = (
            b"gzip", b"deflate", b"identity", b"x", b"gzip, chunked", b"xchunked", b"chunked2", b"chunk",
            b"chunked;q=1",
            # `str.strip` removes U+00A0 and U+0085; a proxy in front does not.
            b"\xa0chunked", b"chunked\x85", b"chunked\xa0",
        )  # fmt: skip
        for coding in codings:
            with self.subTest(coding=coding):
                with self.assertRaises(UnknownTransferCoding) as caught:
                    framing(b"Transfer-Encoding: " + coding)

                self.assertEqual(501, caught.exception.status)
                self.assertTrue(caught.exception.closes)

    def test_message_quotes_the_invalid_value_and_names_the_expected_one(self) -> None:
        for field, message in (
            (b"Content-Length: 5x", "Invalid Content-Length '5x': expected one decimal number."),
            (b"Transfer-Encoding: gzip, chunked", "Unknown transfer coding 'gzip': expected chunked."),
            (b"Transfer-Encoding: chunked,", "Transfer-Encoding 'chunked,' has an empty list member."),
        ):
            with self.subTest(field=field), self.assertRaises(Error) as caught:
                framing(field)

            self.assertEqual(message, str(caught.exception))
