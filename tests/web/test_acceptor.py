"""The acceptor with listeners and a shared connection limit, without a server."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filestoraged.web.acceptor import Acceptor, prepare_listener
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.poller import Poller
from filestoraged.web.receiver import DONT_WAIT
from filestoraged.web.sender import Sender
from tests.support import PATIENCE, wait_until


class AcceptorTest(unittest.TestCase):
    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        prepare_listener(self.listener, 0.005)
        self.address = self.listener.getsockname()
        self.limit = ConnectionLimit(1000, workers=2)
        self.addCleanup(self.limit.close)
        self.poller: Poller[Any] = Poller()
        self.addCleanup(self.poller.close)
        self.places = 1000
        self.acceptor = self.make_acceptor(self.poller)

    def accept(self, listener: socket.socket) -> bool:
        if not self.places and self.acceptor.leave_to_others(listener):
            return False
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return False
        self.addCleanup(connection.close)
        self.limit.enter()
        return True

    def make_acceptor(self, poller: Poller[Any]) -> Acceptor:
        return Acceptor([self.listener], poller, self.limit, self.accept, lambda: self.places > 0)

    @contextlib.contextmanager
    def waking_another_for_it(self) -> Iterator[Acceptor]:
        """A block in which a connection comes, for which the kernel wakes another worker than this one."""
        epoll = select.epoll()
        other: Poller[Any] = Poller(epoll)
        self.addCleanup(other.close)
        # The kernel wakes the one that began first of those that wait.
        self.acceptor.pause()
        acceptor = self.make_acceptor(other)
        self.acceptor.resume()
        woken = threading.Thread(target=other.poll, args=(PATIENCE, 8))
        woken.start()
        wait_until("it waits", lambda: _is_in_a_call_for(epoll.fileno(), woken))
        yield acceptor
        woken.join()

    def connect(self, count: int) -> None:
        for _ in range(count):
            connection = socket.create_connection(self.address, PATIENCE)
            self.addCleanup(connection.close)

    def poll(self) -> None:
        for descriptor, _ in self.poller.poll(0, 8):
            self.acceptor.on_event(descriptor)

    def has_waiting(self) -> bool:
        return bool(select.select([self.listener], [], [], 0)[0])

    def test_connections_are_accepted_until_none_waits(self) -> None:
        self.connect(2)

        self.poll()

        self.assertEqual((2, False), (self.limit.own, self.has_waiting()))

    def test_worker_that_is_ahead_leaves_connections_and_wakes_the_others(self) -> None:
        self.connect(8)
        self.poll()
        own = self.limit.own

        self.poll()

        self.assertLess(own, 8)
        self.assertEqual((own, True), (self.limit.own, self.has_waiting()))
        self.limit.slot = 1
        self.assertTrue(select.select([self.limit.wake_descriptor], [], [], 0)[0])

    def test_paused_worker_resumes_at_the_end_of_a_round_when_the_others_have_caught_up(self) -> None:
        self.connect(8)
        self.poll()
        for _ in range(self.limit.own):
            self.limit.leave()

        self.acceptor.end_round()
        self.poll()

        self.assertGreater(self.limit.own, 0)

    def test_paused_worker_helps_where_connections_still_wait_at_a_check(self) -> None:
        self.connect(8)
        self.poll()

        self.acceptor.check()
        self.poll()

        self.assertEqual((8, False), (self.limit.own, self.has_waiting()))

    def test_worker_without_descriptors_leaves_connections_until_the_next_check(self) -> None:
        self.connect(1)

        self.acceptor.on_exhausted()
        self.acceptor.end_round()
        self.poll()
        self.assertEqual((0, True), (self.limit.own, self.has_waiting()))
        self.acceptor.check()
        self.poll()

        self.assertEqual((1, False), (self.limit.own, self.has_waiting()))

    def test_worker_without_descriptors_accepts_again_when_a_connection_of_it_has_ended(self) -> None:
        self.connect(1)
        self.poll()
        self.connect(1)

        self.acceptor.on_exhausted()
        self.limit.leave()
        self.acceptor.end_round()
        self.poll()

        self.assertEqual((1, False), (self.limit.own, self.has_waiting()))

    def test_worker_accepts_at_a_check_what_the_kernel_woke_another_for_that_lacks_descriptors(self) -> None:
        with self.waking_another_for_it() as exhausted:
            self.connect(1)
        exhausted.on_exhausted()

        self.poll()
        self.assertEqual((0, True), (self.limit.own, self.has_waiting()))
        self.acceptor.check()
        self.poll()

        self.assertEqual((1, False), (self.limit.own, self.has_waiting()))

    def test_worker_without_a_place_leaves_connections_and_wakes_the_others(self) -> None:
        self.places = 0
        self.connect(1)

        self.poll()
        self.acceptor.end_round()
        self.poll()

        self.assertEqual((0, True), (self.limit.own, self.has_waiting()))
        self.limit.slot = 1
        self.assertTrue(select.select([self.limit.wake_descriptor], [], [], 0)[0])

    def test_worker_that_has_a_place_again_accepts_what_it_left_to_others(self) -> None:
        self.places = 0
        self.connect(1)
        self.poll()

        self.places = 1
        self.acceptor.end_round()
        self.poll()

        self.assertEqual((1, False), (self.limit.own, self.has_waiting()))

    def test_connections_that_no_worker_has_accepted_by_the_second_check_are_accepted(self) -> None:
        self.places = 0
        self.connect(20)
        accepted = []
        for _ in range(2):
            self.poll()
            accepted.append(self.limit.own)
            self.acceptor.check()

        while self.has_waiting():
            self.poll()
        accepted.append(self.limit.own)
        # A further one is left to the others again.
        self.connect(1)
        self.poll()

        self.assertEqual([0, 0, 20, 20], [*accepted, self.limit.own])

    def test_woken_worker_accepts_a_connection_that_the_kernel_woke_another_for(self) -> None:
        with self.waking_another_for_it() as other:
            self.connect(1)
        other.leave_to_others(self.listener)
        self.poll()
        before = self.limit.own

        self.limit.slot = 1
        self.limit.wake_others()
        self.limit.slot = 0
        for _ in range(2):
            self.poll()

        self.assertEqual((0, 1, False), (before, self.limit.own, self.has_waiting()))

    def test_closed_acceptor_closes_its_listeners_and_takes_no_event(self) -> None:
        self.acceptor.close()
        self.acceptor.close()

        self.assertEqual(-1, self.listener.fileno())
        self.acceptor.on_event(12345)

    def test_client_that_reads_nothing_makes_the_kernel_keep_less_than_1_mib_for_it(self) -> None:
        self.connect(1)
        connection, _ = self.listener.accept()
        self.addCleanup(connection.close)
        sender = Sender(connection)
        sender.send_at_once(DONT_WAIT)

        while sender.write(bytes(100_000)):
            pass

        self.assertLess(sender.unread, 1024 * 1024)

    def test_event_of_an_unknown_descriptor_is_ignored(self) -> None:
        self.acceptor.on_event(12345)

        self.assertEqual(0, self.limit.own)


def _is_in_a_call_for(descriptor: int, thread: threading.Thread) -> bool:
    """Whether a thread is in a system call whose first argument is the descriptor."""
    fields = Path(f"/proc/self/task/{thread.native_id}/syscall").read_text().split()
    return fields[1:2] == [hex(descriptor)]
