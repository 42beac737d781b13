from __future__ import annotations

import unittest
from collections.abc import Callable

from filestoraged.store.memcached.client import BoundedSocket
from tests.net.virtual_socket import VirtualSocket, endless


class BoundedSocketTest(unittest.TestCase):
    def test_reply_that_drips_ends_in_time(self) -> None:
        """Each byte comes before the server counts as silent."""
        receives: tuple[Callable[[BoundedSocket], object], ...] = (
            lambda bounded: bounded.recv(4096),
            lambda bounded: bounded.recv_into(memoryview(bytearray(100))),
        )
        for receive in receives:
            plain = VirtualSocket(endless(b"x", 1.9))
            plain.settimeout(2.0)
            bounded = BoundedSocket(plain, 2.0, clock=plain.clock)  # type: ignore[arg-type]
            bounded.sendall(b"get key\r\n")

            with self.subTest(receive), self.assertRaises(TimeoutError):
                for _ in range(1000):
                    receive(bounded)
            self.assertLess(plain.now, 5 * 2.0)
