from __future__ import annotations

import socket
import unittest

from filestoraged.digest import Bytes
from filestoraged.store.s3.transport import StoreConnection
from filestoraged.store.s3.url import parse_url
from tests.clock import VirtualClock


class SlowSocket:
    """Takes three bytes at a time, in nearly the time after which a store is silent."""

    def __init__(self, clock: VirtualClock) -> None:
        self.taken = bytearray()
        self._clock = clock

    def send(self, data: Bytes) -> int:
        self._clock.advance(0.9 * StoreConnection.silence_timeout)
        self.taken += data[:3]
        return len(data[:3])

    def close(self) -> None:
        pass


class SendAllTest(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = VirtualClock()
        self.connection = StoreConnection(parse_url("http://localhost/cats").endpoint)
        self.addCleanup(self.connection.close)
        self.connection.clock = self.clock.now
        self.slow = SlowSocket(self.clock)
        self.connection.sock = self.slow

    def test_store_that_takes_a_body_slowly_is_not_silent(self) -> None:
        self.connection.send_all(b"tea and milk")

        self.assertEqual(b"tea and milk", self.slow.taken)

    def test_store_that_takes_nothing_is_silent(self) -> None:
        self.connection.sock, store = socket.socketpair()
        self.addCleanup(store.close)
        self.connection.sock.settimeout(0.05)

        with self.assertRaises(TimeoutError):
            self.connection.send_all(bytes(10 * 1024 * 1024))

    def test_body_that_exceeds_the_deadline_is_given_up(self) -> None:
        self.connection.deadline = self.clock.now() + StoreConnection.silence_timeout

        with self.assertRaises(TimeoutError):
            self.connection.send_all(b"tea and milk")

        self.assertEqual(b"tea an", self.slow.taken)
