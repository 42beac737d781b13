"""A lingering close ends when the client closes, or at its bounds of silence, time and bytes."""

from __future__ import annotations

import socket
import unittest

from filestoraged.web.limits import Limits
from filestoraged.web.transport import LingeringClose


class LingeringCloseTest(unittest.TestCase):
    limits = Limits(farewell=10.0, farewell_total=30.0, farewell_bytes=100)

    def setUp(self) -> None:
        self.client, self.socket = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.socket.close)
        self.now = 0.0
        self.closing = LingeringClose(self.socket, self.limits, lambda: self.now)
        self.scratch = memoryview(bytearray(60))

    def discard(self) -> bool:
        return self.closing.discard(self.scratch)

    def test_sending_half_is_shut_down(self) -> None:
        self.assertEqual(b"", self.client.recv(1))

    def test_input_is_discarded_until_the_client_closes(self) -> None:
        self.client.sendall(b"x")

        more = [self.discard(), self.discard()]
        self.client.close()

        self.assertEqual(([True, True], False), (more, self.discard()))

    def test_input_extends_the_deadline_up_to_the_end_of_the_whole(self) -> None:
        deadlines = [self.closing.deadline]
        for self.now in (5.0, 25.0):
            self.client.sendall(b"x")
            self.discard()
            deadlines.append(self.closing.deadline)

        self.assertEqual([10.0, 15.0, 30.0], deadlines)

    def test_silence_does_not_extend_the_deadline(self) -> None:
        self.now = 5.0

        self.assertTrue(self.discard())
        self.assertEqual(10.0, self.closing.deadline)

    def test_input_beyond_the_bound_ends_it(self) -> None:
        self.client.sendall(bytes(120))

        self.assertEqual([True, False], [self.discard(), self.discard()])

    def test_client_that_is_gone_raises_oserror_at_the_beginning(self) -> None:
        self.socket.close()

        self.assertRaises(OSError, LingeringClose, self.socket, self.limits, lambda: 0.0)
