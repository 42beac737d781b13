from __future__ import annotations

import socket
import threading
import time
import unittest

from filestoraged.store.s3.connection import StoreConnection
from filestoraged.store.s3.url import parse_url

# Seconds of silence that end the connection, and the number of pauses, each a small part of that, while it is read.
_SILENCE = 4.0
_PAUSES = 20
_PIECE = 64 * 1024


class SendAllTest(unittest.TestCase):
    def setUp(self) -> None:
        ours, self.store = socket.socketpair()
        for end in (ours, self.store):
            self.addCleanup(end.close)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.connection = StoreConnection(parse_url("http://localhost/cats"))
        self.connection.sock = ours
        ours.settimeout(_SILENCE)

    def test_store_that_takes_a_body_slowly_is_not_silent(self) -> None:
        received = bytearray()

        def read() -> None:
            pause = threading.Event()
            while len(received) < _PAUSES * _PIECE:
                pause.wait(1.25 * _SILENCE / _PAUSES)
                received.extend(self.store.recv(_PIECE, socket.MSG_WAITALL))

        reader = threading.Thread(target=read)
        reader.start()
        self.connection.send_all(b"x" * _PAUSES * _PIECE)
        reader.join()

        self.assertEqual(_PAUSES * _PIECE, len(received))

    def test_store_that_takes_nothing_is_silent(self) -> None:
        self.connection.sock.settimeout(0.05)

        with self.assertRaises(TimeoutError):
            self.connection.send_all(bytes(10 * 1024 * 1024))

    def test_body_that_exceeds_the_deadline_is_given_up(self) -> None:
        self.connection.deadline = time.monotonic() - 1

        with self.assertRaises(TimeoutError):
            self.connection.send_all(b"x")
