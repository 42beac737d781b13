"""Heads for tests: put together, read, and refused."""

from __future__ import annotations

import unittest

from filestoraged.errors import MalformedRequest
from filestoraged.wire.body import body_framing
from filestoraged.wire.head import Head, parse_head

HOST = b"Host: localhost"
GET = b"GET / HTTP/1.1"


def head_of(*fields: bytes, line: bytes = GET) -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


def parse(*fields: bytes, line: bytes = GET) -> Head:
    """Read a head that has a Host beside `fields`."""
    return parse_head(head_of(HOST, *fields, line=line))


class HeadCase(unittest.TestCase):
    def assert_malformed(self, data: bytes) -> None:
        """Refused with 400 and the connection closed, for what it is and not for what is missing."""
        with self.assertRaises(MalformedRequest) as caught:
            body_framing(parse_head(data))

        self.assertEqual(400, caught.exception.status)
        self.assertTrue(caught.exception.closes)
        message = str(caught.exception)
        self.assertRegex(message, r"\A[A-Z].+\.\Z")
        # No control character that a terminal would obey.
        self.assertTrue(message.isprintable(), ascii(message))
