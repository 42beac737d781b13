"""A connection of the client: when the body of a request is no longer sent."""

from __future__ import annotations

import socket
import unittest

from filestoraged.client.location import parse_location
from filestoraged.client.transport import DaemonConnection
from tests.support import PATIENCE

PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


class BodyTest(unittest.TestCase):
    def connect(self) -> None:
        ours, self.server = socket.socketpair()
        self.addCleanup(self.server.close)
        self.connection = DaemonConnection(parse_location("http://localhost").endpoint, None, timeout=PATIENCE)
        self.connection.sock = ours
        self.addCleanup(self.connection.close)

    def sent_behind(self, answered: bytes) -> bytes:
        """Return what is sent of a body when the server has answered that, nothing for the end of the connection."""
        if answered:
            self.server.sendall(answered)
        else:
            self.server.shutdown(socket.SHUT_WR)
        self.connection.send_blocks([b"te", b"a"])
        self.connection.sock.shutdown(socket.SHUT_WR)
        return self.server.recv(100)

    def test_body_is_sent_on_behind_interim_responses_alone(self) -> None:
        for what, answered, sent in (
            ("interim responses", PROCESSING + HINTS, b"tea"),
            ("the first byte of a response", b"H", b"tea"),
            ("a part of an interim response", PROCESSING[:-2], b"tea"),
            ("a part of another one", PROCESSING + HINTS[:30], b"tea"),
            ("the status of a response", PROCESSING + b"HTTP/1.1 4", b""),
            ("no response", b"SSH-2.0", b""),
            ("a response behind lines without CR", b"HTTP/1.1 100 Continue\n\nHTTP/1.1 413 Large\n\n", b""),
            ("a response", PROCESSING + b"HTTP/1.1 413 Content Too Large\r\n", b""),
            ("interim responses without an end", PROCESSING * 1000, b""),
            ("the end of the connection", b"", b""),
        ):
            with self.subTest(what):
                self.connect()
                self.assertEqual(sent, self.sent_behind(answered))
