"""A failure on the loop affects one connection at most, and a drain finishes requests in flight."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import unittest
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from filestoraged.api import operations
from filestoraged.future import Future
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.cross_site import Origins
from filestoraged.web.exchange import Exchange
from filestoraged.web.limits import Limits
from filestoraged.web.metrics import Metrics
from filestoraged.web.mounts import Mounts
from filestoraged.web.request import Request
from filestoraged.web.response import Answer, Response
from filestoraged.web.sender import Sender
from filestoraged.web.server import Server
from filestoraged.web.states import State
from filestoraged.web.task import Task
from filestoraged.web.transport import READABLE
from tests.support import PATIENCE, ServerCase, read_all, read_answer, split_answer
from tests.web.simulation import Client, SimulatedCase

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: x\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


class LoopCase(SimulatedCase):
    def on_next_request(self, act: Callable[[], object]) -> None:
        """Call `act` on the loop while it answers the next request."""
        answer = self.app.answer

        def act_and_answer(request: Request) -> Answer:
            self.app.answer = answer  # type: ignore[method-assign]
            act()
            return answer(request)

        self.app.answer = act_and_answer  # type: ignore[method-assign]


class FailingTest(LoopCase):
    def test_response_that_cannot_be_sent_or_abandoned_delays_no_other(self) -> None:
        self.announce("connection of client 127.0.0.1 broke off: RuntimeError: on purpose\n")
        self.announce("undoing a request of client 127.0.0.1 failed\n(.*\n)+RuntimeError: on purpose, again")
        connections = self.greeted(6)
        push, undo = Sender.push, Exchange._close_response
        pushes: list[Sender] = []

        def fail_once(sender: Sender) -> bool:
            pushes.append(sender)
            if len(pushes) == 2:
                raise RuntimeError("on purpose")
            return push(sender)

        def fail(*arguments: Any, is_on_thread: bool) -> None:
            undo(*arguments, is_on_thread=is_on_thread)
            raise RuntimeError("on purpose, again")

        with patch.object(Sender, "push", fail_once), patch.object(Exchange, "_close_response", fail):
            for connection in connections:
                connection.connection.input = HEALTH
            answers = [connection.recv(65536) for connection in connections]

        self.assertEqual(1, answers.count(b""))
        self.assertEqual(5, sum(answer.startswith(b"HTTP/1.1 200") for answer in answers))
        self.assertEqual(5, self.connection_limit.count)

    def test_upload_that_cannot_be_discarded_frees_its_place(self) -> None:
        self.announce("undoing a request of client 127.0.0.1 failed\n(.*\n)+RuntimeError: on purpose$")
        close = Task.close

        def fail(task: Task) -> None:
            close(task)
            raise RuntimeError("on purpose")

        with patch.object(Task, "close", fail):
            connection = self.connect()
            connection.sendall(CHUNKED + b"4\r\nhalf\r\n")
            begun = self.server_metrics.gauges().in_flight
            connection.close()

        self.assertEqual(0, self.connection_limit.count)
        self.assertEqual([1, 0], [begun, self.server_metrics.gauges().in_flight])
        self.assertEqual(200, self.raw(HEALTH)[0].status)

    def test_connection_that_epoll_refuses_is_closed(self) -> None:
        self.announce(r"connection of client 127.0.0.1 broke off: OSError: \[Errno 28\] No space left on device$")

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with patch.object(self.context.poller, "register", refuse):
            connection = self.connect()

        self.assertEqual((True, 0), (connection.is_closed, self.connection_limit.count))
        self.assertEqual(200, self.raw(HEALTH)[0].status)

    def test_socket_that_cannot_be_closed_frees_its_place(self) -> None:
        self.announce("cannot close a connection\n(.*\n)+OSError.* Input/output error$")

        def fail() -> None:
            raise OSError(errno.EIO, "Input/output error")

        (client,) = self.greeted(1)
        client.connection.close = fail  # type: ignore[method-assign]

        client.close()

        self.assertEqual(0, self.connection_limit.count)

    def test_failed_event_does_not_hold_back_the_responses_of_its_round(self) -> None:
        self.announce("a round of the server's loop failed\n(.*\n)+RuntimeError: on purpose$")
        first, second = self.greeted(2)
        server = self.server

        def fail() -> None:
            server._next_check = 0.0
            server.service_actions = self.fail_once(server.service_actions)  # type: ignore[method-assign]

        self.on_next_request(fail)
        first.sendall(HEALTH)

        self.assertEqual(200, read_answer(first).status)
        second.sendall(HEALTH)
        self.assertEqual(200, read_answer(second).status)

    def fail_once(self, act: Callable[[], None]) -> Callable[[], None]:
        failed: list[bool] = []

        def act_or_fail() -> None:
            if not failed:
                failed.append(True)
                raise RuntimeError("on purpose")
            act()

        return act_or_fail


# A body of unknown size is received on a thread.
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


class WakeTest(ServerCase):
    """The pipe by which threads of the store wake the loop."""

    def test_failed_wake_is_made_up_for_and_the_next_one_succeeds(self) -> None:
        completions = self.worker._server.context.completions
        write = os.write
        broken: list[int] = []

        def fail_once(descriptor: int, data: bytes) -> int:
            if descriptor == completions._write_end and not broken:
                broken.append(descriptor)
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            return write(descriptor, data)

        with patch.object(os, "write", fail_once):
            first = self.post("/kv/set", b'{"a": 1}')
            second = self.post("/kv/set", b'{"b": 1}')

        self.assertEqual(1, len(broken))
        self.assertEqual([201, 201], [first.status, second.status])


class OptionsTest(ServerCase):
    """Options of connections: without them, a response could wait 40 ms, and a thread for ever."""

    interfaces = ("files",)

    def open_listeners(self) -> list[socket.socket]:
        listeners = super().open_listeners()
        self.early = self.enterContext(socket.create_connection((self.bound.host, self.bound.port), PATIENCE))
        return listeners

    def test_connection_that_came_before_the_worker_has_the_options_of_later_ones(self) -> None:
        late = self.enterContext(socket.create_connection((self.bound.host, self.bound.port), PATIENCE))
        for client in (self.early, late):
            client.sendall(HEALTH)
            self.assertEqual(200, read_answer(client).status)

        options = [
            (
                socket_.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY),
                socket_.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16),
                socket_.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16),
            )
            for socket_ in (each.transport.socket for each in self.worker._server.context.poller.all())
        ]

        self.assertEqual(options[:1] * 2, options)
        self.assertEqual(1, options[0][0])
        self.assertNotIn(bytes(16), options[0])


class NoThreadTest(LoopCase):
    def test_requests_without_a_thread_for_too_long_answer_503_and_close(self) -> None:
        self.machine.pool.has_threads = False
        connections = [self.connect() for _ in range(3)]
        for connection in connections:
            connection.sendall(CHUNKED + b"3\r\ntea\r\n0\r\n\r\n")

        self.pass_time(0.5)

        answers = [split_answer(read_all(connection))[0] for connection in connections]
        for connection in connections:
            connection.close()

        self.assertEqual([503] * 3, [answer.status for answer in answers])
        self.assertEqual(["close"] * 3, [answer.fields["connection"] for answer in answers])
        self.assertGreater(int(answers[0].fields["retry-after"]), 0)
        self.assertEqual((0, 0), (self.connection_limit.count, self.server_metrics.gauges().in_flight))

    def test_upload_that_loses_its_thread_answers_503_and_is_not_stored(self) -> None:
        connection = self.connect()
        connection.sendall(CHUNKED + b"4\r\nhalf\r\n")
        self.machine.pool.has_threads = False
        connection.sendall(b"4\r\nrest\r\n0\r\n\r\n")
        self.pass_time(0.5)

        self.assertEqual(503, split_answer(read_all(connection))[0].status)
        self.assert_stored(0)


class DrainTest(LoopCase):
    def test_drain_sends_responses_held_for_the_end_of_the_round(self) -> None:
        data = os.urandom(60_000)
        digest = self.post("/", data, Accept="text/plain").body.decode().strip()
        request = f"GET /{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        (connection,) = self.greeted(1)
        # The socket does not take all of the answer at once.
        connection.connection.room = 4096
        self.on_next_request(lambda: self.server.begin_drain(30.0))

        connection.sendall(request)

        self.assertEqual(data, split_answer(read_all(connection))[0].body)

    def test_drain_closes_idle_connections_after_a_last_call_and_ends_when_none_is_left(self) -> None:
        (idle,) = self.greeted(1)
        # It has not sent its first request yet.
        used = self.connect()
        self.server.begin_drain(30.0)
        self.pass_time(0.9)
        before = idle.is_closed, used.is_closed, self.server._must_stop
        used.sendall(HEALTH)
        answer = read_answer(used)

        self.pass_time(0.5)

        self.assertEqual((False, False, False), before)
        self.assertEqual((200, "close"), (answer.status, answer.fields["connection"]))
        self.assertEqual((True, True), (idle.is_closed, self.server._drain.is_complete))
        # A client that does not close is given a moment for reading its response.
        self.pass_time(1.0)
        self.assertTrue(self.server._must_stop)

    def test_response_to_a_request_that_was_in_flight_when_the_drain_began_has_connection_close(self) -> None:
        connection = self.connect()
        connection.sendall(CHUNKED + b"4\r\nhalf\r\n")

        self.server.begin_drain(30.0)
        connection.sendall(b"4\r\nrest\r\n0\r\n\r\n")

        answer = read_answer(connection)
        self.assertEqual((200, "close"), (answer.status, answer.fields["connection"]))

    def test_drain_waits_for_a_request_in_flight_until_its_time_is_over(self) -> None:
        connection = self.connect()
        connection.sendall(CHUNKED + b"4\r\nhalf\r\n")
        self.server.begin_drain(20.0)
        stops = []
        for seconds in (19.5, 1.0):
            self.pass_time(seconds)
            stops.append(self.server._must_stop)

        self.assertEqual(([False, True], False), (stops, self.server._drain.is_complete))


class ShutdownTest(unittest.TestCase):
    """The methods of `socketserver`, which stop the server without a drain."""

    def setUp(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.connection_limit = ConnectionLimit(10)
        self.addCleanup(self.connection_limit.close)
        app = Mounts({"/-/": operations.health_routes()}, None, Origins(), None)
        self.server = Server(
            {self.listener: app},
            threads=2,
            limits=Limits(),
            connection_limit=self.connection_limit,
            metrics=Metrics(["operations"]),
        )

    def start(self) -> threading.Thread:
        loop = threading.Thread(target=self.server.serve_forever)
        loop.start()
        with socket.create_connection(self.listener.getsockname(), PATIENCE) as connection:
            connection.sendall(HEALTH)
            self.assertEqual(200, read_answer(connection).status)
        return loop

    def test_shutdown_cuts_off_connections(self) -> None:
        loop = self.start()
        with socket.create_connection(self.listener.getsockname(), PATIENCE) as connection:
            connection.sendall(HEALTH)
            read_answer(connection)

            self.server.shutdown()

            self.assertEqual(b"", connection.recv(1))
        loop.join(PATIENCE)
        self.assertEqual(0, self.connection_limit.count)
        self.server.server_close()

    def test_shutdown_before_the_loop_returns_and_the_loop_ends_at_once(self) -> None:
        self.server.shutdown()

        self.server.serve_forever()

        self.assertTrue(self.server._has_ended.is_set())
        self.server.server_close()

    def test_shutdown_may_be_repeated_and_server_close_closes_the_descriptors_of_the_ended_loop(self) -> None:
        loop = self.start()
        context = self.server.context
        descriptor = context.completions.descriptor

        self.server.shutdown()
        self.assertTrue(self.server._has_ended.is_set())
        self.server.shutdown()
        loop.join(PATIENCE)
        self.server.server_close()

        self.assertFalse(loop.is_alive())
        self.assertEqual(-1, self.listener.fileno())
        self.assertRaises(OSError, os.fstat, descriptor)
        self.assertRaises(ValueError, context.poller.poll, 0)

    def test_context_manager_of_socketserver_closes_the_server(self) -> None:
        with self.server:
            loop = self.start()
            self.server.shutdown()
            loop.join(PATIENCE)

        self.assertEqual(-1, self.listener.fileno())


class WaitTest(LoopCase):
    def test_connection_waits_without_a_thread_for_what_follows_an_empty_line(self) -> None:
        connection = self.connect()
        # The second request is read on a thread, and the empty line behind it too.
        connection.sendall(HEALTH + HEALTH + b"\r\n")
        statuses = [read_answer(connection).status for _ in range(2)]

        (waiting,) = self.context.poller.all()

        self.assertEqual([200, 200], statuses)
        self.assertEqual((State.IDLE, READABLE), (waiting.state, waiting.transport.watched))
        connection.sendall(HEALTH)
        self.assertEqual(200, read_answer(connection).status)


class ResultTest(LoopCase):
    """A page on the loop that awaits a result, and a client that sends or leaves meanwhile."""

    interfaces = ("files", "kv")

    def setUp(self) -> None:
        super().setUp()
        self.machine.has_store = False
        self.future: Future[None] = Future()
        (router,) = [router for _, _, router in self.app._mounts if router.name == "kv"]
        routes = router._routes["/commit"]
        routes["POST"] = routes["POST"]._replace(page=self.page)

    async def page(self, request: Request) -> Response:
        await self.future
        return Response(204)

    def test_result_and_next_request_in_one_round_are_answered_in_order(self) -> None:
        connection = self.get_result_and_input_in_one_round(HEALTH)

        self.assertEqual([204, 200], [read_answer(connection).status for _ in range(2)])
        self.assertEqual([], self.warnings_of_the_server())

    def test_result_and_end_of_the_client_in_one_round_log_no_defect(self) -> None:
        connection = self.get_result_and_input_in_one_round(b"")

        self.assertEqual((True, 0), (connection.is_closed, self.connection_limit.count))
        self.assertEqual([], self.warnings_of_the_server())

    def warnings_of_the_server(self) -> list[str]:
        """Not those of background work, which a slow machine may delay."""
        ours = [record for record in list(self.logged) if record.name.startswith("filestoraged.web.")]
        return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]

    def get_result_and_input_in_one_round(self, data: bytes) -> Client:
        """Returns the connection. It sends `data`, or for none the end of its input."""
        connection: Client = self.connect()
        connection.sendall(b"POST /kv/commit HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(1, len(self.context.completions.expected))
        self.future.set_result(None)
        if data:
            connection.sendall(data)
        else:
            connection.send_nothing_more()
        return connection


class ContinueTest(LoopCase):
    """A page that awaits a result before it reads the body."""

    def setUp(self) -> None:
        super().setUp()
        self.machine.has_store = False
        self.future: Future[bool] = Future()
        (router,) = [router for _, _, router in self.app._mounts if router.name == "files"]
        routes = router._routes["/"]
        routes["POST"] = routes["POST"]._replace(page=self.page)

    async def page(self, request: Request) -> Response:
        if not await self.future:
            return Response(403)
        size = 0
        async for piece in request.body:
            size += len(piece)
        return Response(200, body=b"%d" % size)

    def begin(self) -> Client:
        connection: Client = self.connect()
        connection.sendall(UPLOAD[:-2] + b"Expect: 100-continue\r\n\r\n")
        self.assertEqual(1, len(self.context.completions.expected))
        return connection

    def test_continue_is_sent_when_the_body_is_first_read(self) -> None:
        connection = self.begin()
        early = bytes(connection.connection.output)

        self.future.set_result(True)
        interim = read_answer(connection)
        connection.sendall(b"0123456789")

        self.assertEqual(b"", early)
        self.assertEqual((100, b"10"), (interim.status, read_answer(connection).body))

    def test_continue_is_not_sent_where_the_body_is_not_read(self) -> None:
        connection = self.begin()

        self.future.set_result(False)

        answer, rest = split_answer(read_all(connection))
        self.assertEqual((403, "close", b""), (answer.status, answer.fields["connection"], rest))
