"""A page that is a coroutine, driven without a loop or a thread."""

from __future__ import annotations

import socket
import threading
import unittest
from typing import Any

from filestoraged.errors import ClientGone, Error, RequestTimeout
from filestoraged.future import Future
from filestoraged.web.receiver import Receiver
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.request_body import RequestBody
from filestoraged.web.response import Page, Response
from filestoraged.web.task import Task
from filestoraged.wire.body import Chunked, Framing, Sized
from filestoraged.wire.head import Head
from tests.clock import VirtualClock


class App:
    """Answers errors by their class."""

    on_loopback: Any = None

    def route(self, request: Request) -> RunsOn:
        return RunsOn.THREAD

    def answer_early(self, request: Request) -> Response | None:
        return None

    def answer(self, request: Request) -> Response:
        raise AssertionError("not called")

    def complete(self, request: Request, response: Response) -> Response:
        response.fields += "Completed: yes\r\n"
        return response

    def refuse(self, request: Request, error: Exception) -> Response:
        return Response(500, body=type(error).__name__.encode())

    def refuse_body(self, request: Request, fault: Error) -> Response:
        raise AssertionError("not called")


class TaskTest(unittest.TestCase):
    def setUp(self) -> None:
        self.client, self.connection = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(self.connection.close)
        self.log: list[Any] = []

    def task(self, page: Any, framing: Framing | None = None) -> tuple[Task, RequestBody]:
        body = RequestBody(Receiver(self.connection), framing or Sized(6), VirtualClock().now, threading.Lock())
        request = Request(Head("POST", "/", "", (1, 1), {}), None).copy("client", body)
        coroutine: Page = page(request)
        return Task(App(), request, coroutine), body

    async def gather(self, request: Request) -> Response:
        try:
            async for piece in request.body:
                self.log.append(bytes(piece))
        except GeneratorExit:
            self.log.append("closed")
            raise
        return Response(201)

    def test_page_runs_until_it_wants_a_piece(self) -> None:
        task, _ = self.task(self.gather)

        self.assertIsNone(task.run())
        self.assertIsNone(task.future)
        task.close()

    def test_page_that_has_its_body_returns_a_completed_response(self) -> None:
        task, body = self.task(self.gather)
        task.run()
        self.client.sendall(b"teapot")

        response = task.receive(body)

        assert response is not None
        self.assertEqual((201, "Completed: yes\r\n"), (response.status, response.fields))
        self.assertEqual([b"teapot"], self.log)

    def test_page_awaits_a_future_and_gets_its_result(self) -> None:
        future: Future[str] = Future()

        async def page(_: Request) -> Response:
            return Response(200, body=(await future).encode())

        task, _ = self.task(page)
        self.assertIsNone(task.run())
        self.assertIs(future, task.future)
        future.set_result("tea")

        response = task.run()

        self.assertEqual(b"tea", response and response.body)

    def test_future_that_fails_raises_in_the_page(self) -> None:
        future: Future[None] = Future()

        async def page(_: Request) -> Response:
            await future
            raise AssertionError("not reached")

        task, _ = self.task(page)
        task.run()
        future.set_exception(OSError("broken"))

        response = task.run()

        self.assertEqual(b"OSError", response and response.body)

    def test_page_may_await_a_future_between_two_pieces_of_one_read(self) -> None:
        future: Future[str] = Future()

        async def page(request: Request) -> Response:
            async for piece in request.body:
                self.log.append(bytes(piece))
                if len(self.log) == 1:
                    self.log.append(await future)
            return Response(200)

        task, body = self.task(page, Chunked())
        task.run()
        # Chunks so long that they are not joined.
        tea, pot = b"t" * 5000, b"p" * 5000
        self.client.sendall(b"1388\r\n%b\r\n1388\r\n%b\r\n0\r\n\r\n" % (tea, pot))
        self.assertIsNone(task.receive(body))
        self.assertIs(future, task.future)
        future.set_result("result")
        self.assertIsNone(task.run())

        response = task.receive(body)

        self.assertEqual(200, response and response.status)
        self.assertEqual([tea, "result", pot], self.log)

    def test_error_of_a_page_is_answered(self) -> None:
        async def page(_: Request) -> Response:
            raise ValueError("a defect")

        self.assertEqual(b"ValueError", (self.task(page)[0].run() or Response(0)).body)

    def test_failed_wait_raises_in_the_page_and_is_answered(self) -> None:
        task, _ = self.task(self.gather)
        task.run()

        response = task.fail(RequestTimeout("too slow"))

        self.assertEqual(b"RequestTimeout", response.body)

    def test_page_that_continues_after_a_failed_wait_is_a_defect(self) -> None:
        async def page(request: Request) -> Response:
            while True:
                try:
                    await self.gather(request)
                except RequestTimeout:
                    continue

        task, _ = self.task(page)
        task.run()

        self.assertRaises(AssertionError, task.fail, RequestTimeout("too slow"))
        task.close()

    def test_client_that_leaves_raises_client_gone_and_closes_the_page(self) -> None:
        task, body = self.task(self.gather)
        task.run()
        self.client.close()

        self.assertRaises(ClientGone, task.receive, body)
        task.close()

        self.assertEqual(["closed"], self.log)
