"""Heads for tests: built, parsed and refused."""

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
    """Parse a head with a Host field and `fields`."""
    return parse_head(head_of(HOST, *fields, line=line))


class HeadCase(unittest.TestCase):
    def assert_malformed(self, data: bytes) -> None:
        """The head is refused with 400 and a closed connection: it is malformed, and not only incomplete."""
        with self.assertRaises(MalformedRequest) as caught:
            body_framing(parse_head(data))

        self.assertEqual(400, caught.exception.status)
        self.assertTrue(caught.exception.closes)
        message = str(caught.exception)
        self.assertRegex(message, r"\A[A-Z].+\.\Z")
        # No control character that a terminal would obey.
        self.assertTrue(message.isprintable(), ascii(message))
