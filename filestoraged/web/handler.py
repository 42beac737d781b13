"""What is said on one connection: requests are read, answered by the app, and the answers sent, in order."""

from __future__ import annotations

import time

from filestoraged.errors import ClientGone, Error, Overloaded, RequestTimeout
from filestoraged.web.admission import AdmissionResult
from filestoraged.web.answering import Answering
from filestoraged.web.connection import TALK
from filestoraged.web.error_responses import refusal
from filestoraged.web.message import Answer, Response
from filestoraged.web.request_body import RequestBody
from filestoraged.web.request_cache import ParsedRequest
from filestoraged.web.response_head import CONTINUE


class Handler(Answering):
    """The steps of a connection, one request after another."""

    __slots__ = ("app", "at_once", "intake", "memory")

    def setup(self) -> None:
        super().setup()
        self.app, self.memory = self.server.find_site(self.request)
        # Whether its request keeps nobody waiting, and needs no thread.
        self.at_once = True
        # A body that is under way, as far as it has come.
        self.intake: RequestBody | None = None
        self._await_request(self.started)
        if self.server.verdict is AdmissionResult.FULL:
            self.step = Handler._await_place
        elif self.server.verdict is AdmissionResult.CLIENT_FULL:
            self.step = Handler._refuse_client

    @property
    def idle(self) -> bool:
        """Whether it rests between requests. With an answer that is sent at the end of the round, it does not yet."""
        return self.step is Handler._read_head and not self.held and not self.receiver.buffer

    def abandon(self) -> None:
        try:
            if self.intake is not None:
                self.received = self.intake.received
                self.intake.close()
        finally:
            super().abandon()

    # The steps, in the order in which they are taken.

    def _read_head(self) -> bool:
        """Receive once at most: a client that sends without end must not keep the loop from the others."""
        receiver = self.receiver
        is_new = not receiver.buffer
        if is_new:
            if not receiver.receive():
                return False
            self.started = time.monotonic()
        asked = self.memory.recall(receiver.buffer)
        if asked is not None:
            receiver.buffer = b""
            receiver.skipped = 0
            return self._begin(asked)
        try:
            data = receiver.take_head()
            if data is None and not is_new and receiver.receive():
                data = receiver.take_head()
            if data is None:
                self._await_rest_of_head()
                return False
            return self._begin(self.memory.read(data))
        except ClientGone:
            raise
        except Error as error:
            return self._refuse(error)

    def _begin(self, asked: ParsedRequest) -> bool:
        self.asked, self.framing, self.keep_alive, self.speaks_1_1, self.expects_continue = asked
        if self.is_proxied:
            self.client = self.server.proxies.client(self.asked.fields.get("x-forwarded-for"), self.peer)
        if not self.on_thread:
            answer = self.app.at_once(self.asked)
            if answer is not None:
                self.at_once = True
                return self._go_on_with(answer)
        self.at_once = False
        self.asked = self.asked.from_client(self.client)
        self.begin_way()
        if self.is_proxied and not self._enter_client():
            return self._refuse_client()
        pool = self.server.remote_pool if self.app.is_remote(self.asked) else self.server.pool
        if self.on_thread and pool is self.pool:
            return self._answer()
        self.pool = pool
        return self.hand_over(Handler._answer)

    def _answer(self) -> bool:
        """Have `http.server`'s method for the request's answer it."""
        assert self.asked is not None
        answered: bool = getattr(self, "do_" + self.asked.method, self.do_other)()
        return answered

    def do_GET(self) -> bool:
        """Have the page at the request's path answer it, whatever the method."""
        assert self.asked is not None
        return self._go_on_with(self.app(self.asked))

    # The router knows which methods a path has. HEAD, OPTIONS, TRACE and made-up ones get its 405 too.
    do_POST = do_PUT = do_DELETE = do_other = do_GET

    def _go_on_with(self, answer: Answer) -> bool:
        if isinstance(answer, Response):
            return self.answer(answer)
        self.intake = RequestBody(self.receiver, self.framing, answer)
        response = self.intake.start()
        if response is not None:
            return self._respond(response)
        if self.at_once and self.is_proxied and not self._enter_client():
            self.intake.close()
            return self._refuse_client()
        if self.expects_continue and not self.receiver.buffer and not self.framing.done:
            self.sender.send_now(CONTINUE)
        self.expects_continue = False
        self.step = Handler._receive_body
        self.begin_way()
        return self._wait_for_page()

    def _receive_body(self) -> bool:
        assert self.intake is not None
        if not self.on_thread and not self.at_once:
            return self.hand_over(Handler._receive_body)
        try:
            response = self.intake.go_on()
        except ClientGone:
            raise
        except Error as error:
            response = self.intake.fail(error)
        if response is not None:
            return self._respond(response)
        if self.intake.silent:
            if self.intake.is_slow(self.limits, time.monotonic()):
                return self._respond(self.intake.fail(self._too_slow()))
            return self.await_(TALK, self.limits.body, Handler._time_out_body)
        return self._wait_for_page() and self.take_turns()

    def _wait_for_page(self) -> bool:
        """Have the page go on when it has the result that it waits for, if it waits for one."""
        assert self.intake is not None
        if self.intake.awaited is not None:
            return self.await_result(self.intake.awaited, Handler._receive_body)
        return True

    def _respond(self, response: Response) -> bool:
        intake, self.intake = self.intake, None
        self.received = 0 if intake is None else intake.received
        return self.answer(response)

    def _follow(self) -> bool:
        """What comes behind an answer: the end, the rest of a body, the next request."""
        if self.close_connection:
            return self._take_leave()
        if not self.framing.done:
            self.step = Handler._skip_body
            return True
        self.step = Handler._read_head
        if self.receiver.buffer:
            # Who does not wait for answers gets a thread: there, others have their turn in between.
            return self.take_turns() if self.on_thread else self.hand_over(Handler._read_head)
        return self.on_thread and self.lingers and not self.pool.crowded

    def _skip_body(self) -> bool:
        """Drop the little that a page left unread: cheaper than for the client to connect anew.

        Receives once at most, as `_read_head` does.
        """
        receiver = self.receiver
        if not receiver.buffer and not receiver.receive():
            return False
        _, used = self.framing.decode(memoryview(receiver.buffer))
        receiver.buffer = receiver.buffer[used:]
        if self.framing.done:
            self.step = Handler._read_head
        return self.framing.done and bool(receiver.buffer or self.on_thread)

    def _await_place(self) -> bool:
        """Wait for another connection to become idle or end: one that was answered just now may be about to."""
        self.held = True
        self.server.newcomers.append(self)
        return False

    def welcome(self) -> None:
        """There is a place by now. On the server's loop."""
        self.held = False
        self.step = Handler._read_head
        self.go_on_loop()

    def turn_away(self) -> None:
        """There is none. On the server's loop."""
        self.held = False
        self.step = Handler._refuse_newcomer
        self.go_on_loop()

    def _refuse_newcomer(self) -> bool:
        return self._refuse(Overloaded("There are too many connections, and none of them is idle."))

    def _enter_client(self) -> bool:
        """Count the request for its client, which has come by a proxy. Returns whether it may have one more."""
        key = self.server.admission.enter_client(self.client)
        self.client_key = key or 0
        return key is not None

    def _refuse_client(self) -> bool:
        return self._refuse(Overloaded(f"This client has {self.server.clients.limit} connections already."))

    def refuse_without_thread(self) -> bool:
        error = Overloaded("The server cannot start a thread for the request.")
        if self.response is not None:
            # Part of another answer may have gone out.
            self.abandon()
            return False
        if self.intake is not None:
            return self._respond(self.intake.fail(error))
        return self._refuse(error)

    # The steps that are taken when what was awaited has not come.

    def _time_out_head(self) -> bool:
        return self._refuse(RequestTimeout("The head of the request came too slowly."))

    def _time_out_body(self) -> bool:
        assert self.intake is not None
        if not self.on_thread and not self.at_once:
            return self.hand_over(Handler._time_out_body)
        return self._respond(self.intake.fail(RequestTimeout("The body of the request fell silent.")))

    def _too_slow(self) -> RequestTimeout:
        rate, seconds = self.limits.body_rate, self.limits.body_rate_from
        return RequestTimeout(f"The body of the request came at less than {rate:g} bytes a second for {seconds:g} s.")

    # Ends of steps.

    def _take_leave(self) -> bool:
        # A client that asked for the end, and whose every byte was read, needs no seeing off.
        if not self.keep_alive and self.framing.done and not self.receiver.buffer:
            return self.leave()
        return self.see_off()

    def _await_request(self, now: float) -> None:
        self.step = Handler._read_head
        self.awaits = TALK
        self.deadline = now + self.limits.idle
        self.on_overdue = Handler.leave

    def _await_rest_of_head(self) -> None:
        # A head's time runs from its first byte; empty lines before it are none of its bytes.
        if self.receiver.buffer and self.on_overdue is not Handler._time_out_head:
            self.await_(TALK, self.limits.head, Handler._time_out_head)

    def _refuse(self, error: Error) -> bool:
        """Answer what cannot be read as a request: it tells nothing of where the next one begins."""
        response = refusal(error)
        response.closes = True
        if self.asked is None:
            # Nothing says who it is from.
            self.client = self.peer
        self.keep_alive = True
        return self._respond(response)
