"""The receiving half of a connection: whose fault an error is."""

from __future__ import annotations

import errno
import unittest
from unittest import mock

from filestoraged.web.receiver import Receiver
from tests.web.test_sender import SOCKET_ERRORS


class ReceiverTest(unittest.TestCase):
    def test_error_of_receive_is_the_servers_unless_a_socket_has_it_of_its_peer(self) -> None:
        for number, expected in SOCKET_ERRORS.items():
            receiver = Receiver(mock.Mock(**{"recv.side_effect": OSError(number, "")}))
            with self.subTest(errno.errorcode[number]):
                self.assertRaises(expected, receiver.receive)
                self.assertRaises(expected, receiver.receive_some, 1)
                self.assertRaises(expected, receiver.receive_all, 1)
