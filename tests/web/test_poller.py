"""What the poller watches, without a connection: sockets and masks are enough for it."""

from __future__ import annotations

import select
import socket
import unittest

from filestoraged.web.poller import Poller
from filestoraged.web.transport import Transport


class Waiting:
    def __init__(self, socket: socket.socket, awaits: int = select.EPOLLIN, deadline: float = 0.0) -> None:
        self.transport = Transport(socket)
        self.transport.awaits = awaits
        self.transport.deadline = deadline


class PollerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.poller: Poller[Waiting] = Poller()
        self.addCleanup(self.poller.close)
        self.client, self.socket = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.socket.close)

    def test_registered_connection_is_found_when_it_is_readable(self) -> None:
        waiting = Waiting(self.socket)
        self.poller.register(waiting)
        before = self.poller.poll(0, 8)
        self.client.sendall(b"x")

        ((descriptor, events),) = self.poller.poll(1, 8)

        self.assertEqual([], before)
        self.assertIs(waiting, self.poller.find(descriptor))
        self.assertEqual((select.EPOLLIN, select.EPOLLIN), (events, waiting.transport.watched))

    def test_connection_that_awaits_something_else_is_watched_for_that_alone(self) -> None:
        waiting = Waiting(self.socket)
        self.poller.register(waiting)
        self.client.sendall(b"x")
        waiting.transport.awaits = select.EPOLLOUT

        self.poller.register(waiting)

        self.assertEqual([(self.socket.fileno(), select.EPOLLOUT)], self.poller.poll(1, 8))
        self.assertEqual([waiting], self.poller.all())

    def test_unregistered_connection_is_neither_found_nor_watched(self) -> None:
        waiting = Waiting(self.socket)
        self.poller.register(waiting)
        self.client.sendall(b"x")

        self.poller.unregister(waiting)
        self.poller.unregister(waiting)

        self.assertEqual([], self.poller.poll(0, 8))
        self.assertEqual(([], 0), (self.poller.all(), waiting.transport.watched))

    def test_connection_that_epoll_refuses_is_not_in_the_table(self) -> None:
        waiting = Waiting(self.socket)
        self.socket.close()

        self.assertRaises(OSError, self.poller.register, waiting)

        self.assertEqual([], self.poller.all())
        self.poller.discard(waiting)

    def test_discard_removes_a_connection_whatever_is_registered(self) -> None:
        waiting = Waiting(self.socket)
        self.poller.register(waiting)

        self.poller.discard(waiting)
        self.poller.discard(waiting)

        self.assertEqual([], self.poller.all())

    def test_overdue_connections_are_those_whose_deadline_has_come(self) -> None:
        early, late = Waiting(self.socket, deadline=1.0), Waiting(self.client, deadline=3.0)
        for each in (early, late):
            self.poller.register(each)

        self.assertEqual([[], [early], [early, late]], [self.poller.overdue(now) for now in (0.5, 1.0, 3.0)])

    def test_descriptor_that_is_no_connection_is_polled_and_not_found(self) -> None:
        self.poller.watch(self.socket.fileno(), select.EPOLLIN)
        self.client.sendall(b"x")

        ((descriptor, _),) = self.poller.poll(1, 8)

        self.assertIsNone(self.poller.find(descriptor))
        self.poller.unwatch(descriptor)
        self.assertEqual([], self.poller.poll(0, 8))
