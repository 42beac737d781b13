"""One connection: it reads requests, has them answered, and sends the answers, in order.

A handler goes on in steps, each as far as the bytes reach. What a step then waits for is parked, so that a slow client
costs no thread, whether it sends or reads. The server's loop takes the steps that cannot wait; one that may (an
upload, a large file, a disk that has to be asked) is taken by a thread of the pool. Never by both at once.
"""

from __future__ import annotations

import logging
import select
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Callable, Optional

from filestoraged.errors import ClientGone, Error, Overloaded, RequestTimeout
from filestoraged.web.encoder import CONTINUE
from filestoraged.web.intake import Intake
from filestoraged.web.memory import Asked
from filestoraged.web.message import Request, Response
from filestoraged.web.receiver import DONT_WAIT, Receiver
from filestoraged.web.refusals import refusal
from filestoraged.web.sender import Sender, WouldWait
from filestoraged.wire.framing import NO_BODY

if TYPE_CHECKING:
    from filestoraged.web.server import Server

log = logging.getLogger(__name__)

_TALK = select.EPOLLIN
_ROOM = select.EPOLLOUT

# Takes the connection on, as far as it goes. Returns whether the next step can be taken at once. They are kept as
# plain functions: a method bound to its own handler would keep it alive.
_Step = Callable[["Handler"], bool]


class Handler(BaseHTTPRequestHandler):
    """What `http.server` asks of a handler, on a receiver and a sender of our own."""

    server: "Server"

    def setup(self) -> None:
        server = self.server
        self.limits = server.limits
        self.receiver = Receiver(self.request)
        self.sender = Sender(self.request)
        self.framing = NO_BODY
        self.expects_continue = False
        self.keep_alive = self.speaks_1_1 = True
        self.asked: Optional[Request] = None
        self.response: Optional[Response] = None
        self.intake: Optional[Intake] = None
        self.close_connection = False
        # Whether a thread has it that may wait.
        self.on_thread = False
        # Whether its answer waits for the end of the loop's round.
        self.held = False
        # Whether it is at its end.
        self.over = False
        self.step: _Step
        self.on_overdue: _Step
        # See `parking`. With nothing awaited, before the end, it is a thread that is waited for.
        self.watched = 0
        self.fileno = self.request.fileno
        self.started = time.monotonic()
        self._await_request(self.started)
        if server.full:
            self.step = Handler._turn_away

    def handle(self) -> None:
        """Go on until something has to be waited for; `finish` then sees to that."""
        try:
            while self.step(self):
                pass
        except ClientGone as error:
            log.debug("%s: %s", self.address_string(), error)
            self._abandon()
        except Exception:
            # Whatever it was, part of an answer may have gone out: nothing can follow it.
            self.server.handle_error(self.request, self.client_address)
            self._abandon()

    def finish(self) -> None:
        if self.held:
            return
        if self.over:
            self.server.parking.take(self)
            self.server.close_request(self.request)
        elif self.awaits:
            self.server.parking.park(self)
        else:
            self.server.parking.take(self)
            self.server.pool.submit(self.go_on_thread)

    def go_on_loop(self) -> None:
        """Go on because what was awaited has come. On the server's loop."""
        self.handle()
        self.finish()

    def go_on_thread(self) -> None:
        """Go on where the loop could not. On a thread of the pool, which lingers unless others wait for one."""
        self.on_thread = True
        self.receiver.flags = DONT_WAIT if self.server.pool.crowded else 0
        self.sender.send_at_once(self.receiver.flags)
        self.handle()
        self.on_thread = False
        self.receiver.flags = DONT_WAIT
        self.sender.hold()
        self.finish()

    def give_up(self) -> None:
        """Go on without what was awaited: it has not come in time. On the server's loop."""
        self.step = self.on_overdue
        self.go_on_loop()

    @property
    def idle(self) -> bool:
        """Whether it rests between requests."""
        return self.step is Handler._read_head and not self.receiver.buffer

    @property
    def seen_off(self) -> bool:
        """Whether all is said, and it is only read on."""
        return self.step is Handler._read_on

    def address_string(self) -> str:
        return self.client_address[0] if self.client_address else "unix"

    # The steps, in the order in which they are taken.

    def _read_head(self) -> bool:
        receiver = self.receiver
        if not receiver.buffer:
            if not receiver.receive():
                return False
            self.started = time.monotonic()
        asked = self.server.memory.recall(receiver.buffer)
        if asked is not None:
            receiver.buffer = b""
            return self._begin(asked)
        try:
            data = receiver.take_head()
            while data is None:
                if not receiver.receive():
                    self._await_rest_of_head()
                    return False
                data = receiver.take_head()
            return self._begin(self.server.memory.read(data))
        except ClientGone:
            raise
        except Error as error:
            return self._refuse(error)

    def _begin(self, asked: Asked) -> bool:
        self.asked, self.framing, self.keep_alive, self.speaks_1_1, self.expects_continue = asked
        # Storing and removing wait for the disk; only a question is answered where it was read.
        if self.on_thread or (self.framing is NO_BODY and self.asked.method == "GET"):
            return self._answer()
        return self._hand_over(Handler._answer)

    def _answer(self) -> bool:
        """Have `http.server`'s method for the request's answer it."""
        assert self.asked is not None
        answered: bool = getattr(self, "do_" + self.asked.method, self.do_other)()
        return answered

    def do_GET(self) -> bool:
        """Have the page at the request's path answer it, whatever the method."""
        assert self.asked is not None
        answer = self.server.app(self.asked)
        if isinstance(answer, Response):
            return self._respond(answer)
        self.intake = Intake(self.receiver, self.framing, answer)
        response = self.intake.start()
        if response is not None:
            return self._respond(response)
        if self.expects_continue and not self.receiver.buffer and not self.framing.done:
            self.sender.send_now(CONTINUE)
        self.expects_continue = False
        self.step = Handler._receive_body
        return True

    # The router knows which methods a path has. HEAD, OPTIONS, TRACE and made-up ones get its 405 too.
    do_POST = do_PUT = do_DELETE = do_other = do_GET

    def _receive_body(self) -> bool:
        assert self.intake is not None
        if not self.on_thread:
            return self._hand_over(Handler._receive_body)
        try:
            response = self.intake.go_on()
        except ClientGone:
            raise
        except Error as error:
            response = self.intake.fail(error)
        if response is not None:
            return self._respond(response)
        if self.intake.silent:
            return self._await(_TALK, self.limits.body, Handler._time_out_body)
        return self._take_turns()

    def _respond(self, response: Response) -> bool:
        self.intake = None
        self.response = response
        # An answer to HEAD has no body, whatever its head says.
        is_bodiless = self.asked is not None and self.asked.method == "HEAD"
        self.position = response.stop if is_bodiless else response.start
        self._decide(response)
        # HTTP/1.1 goes on unless told otherwise.
        connection = "" if self.speaks_1_1 and not self.close_connection else self._connection_field()
        self.sender.begin(self.server.encoder.head(response, connection))
        self.step = Handler._send
        return self._send()

    def _send(self) -> bool:
        response = self.response
        assert response is not None
        before = self.position
        if before < response.stop:
            try:
                self.position = response.send(self.sender, before)
            except WouldWait:
                return self._hand_over(Handler._send)
            if self.position < response.stop:
                if self.position > before and self.on_thread:
                    return self._take_turns()
                return self._await(_ROOM, self.limits.send, Handler._cut_off)
        elif not self.sender.flush():
            return self._await(_ROOM, self.limits.send, Handler._cut_off)
        return self._end_request(response)

    def _end_request(self, response: Response) -> bool:
        response.close()
        ended = time.monotonic()
        self.server.log_access(self, response.status, ended)
        self.response = self.asked = None
        self.started = ended
        self._await_request(ended)
        if self.on_thread:
            return self._follow()
        # The loop sends the answers of a round at its end.
        self.held = True
        self.server.outbox.append(self)
        return False

    def push(self) -> None:
        """Send the answer that is held. On the server's loop."""
        self.held = False
        try:
            if not self.sender.push():
                self.step = Handler._push_on
                self._await(_ROOM, self.limits.send, Handler._cut_off)
            elif not self._rests():
                self.step = Handler._follow
                self.handle()
        except ClientGone:
            self._leave()
        self.finish()

    def _push_on(self) -> bool:
        if not self.sender.push():
            return self._await(_ROOM, self.limits.send, Handler._cut_off)
        self._await_request(time.monotonic())
        return self._follow()

    def _rests(self) -> bool:
        return not self.close_connection and self.framing.done and not self.receiver.buffer

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
            return self._take_turns() if self.on_thread else self._hand_over(Handler._read_head)
        # Lingering is for threads.
        return self.on_thread and not self.server.pool.crowded

    def _skip_body(self) -> bool:
        """Drop the little that a page left unread: cheaper than for the client to connect anew."""
        receiver = self.receiver
        while not self.framing.done:
            if not receiver.buffer and not receiver.receive():
                return False
            _, used = self.framing.decode(memoryview(receiver.buffer))
            receiver.buffer = receiver.buffer[used:]
        self.step = Handler._read_head
        return True

    def _read_on(self) -> bool:
        """Drop what a client still sends that has got its answer. On the server's loop, as all that follow."""
        try:
            received = self.request.recv_into(self.server.scratch, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            received = 0
        self.farewell_left -= received
        if not received or self.farewell_left <= 0:
            return self._leave()
        self.deadline = min(time.monotonic() + self.limits.farewell, self.farewell_end)
        return False

    def _turn_away(self) -> bool:
        return self._refuse(Overloaded("There are too many connections."))

    def _leave(self) -> bool:
        self.over = True
        return False

    # The steps that are taken when what was awaited has not come.

    def _time_out_head(self) -> bool:
        return self._refuse(RequestTimeout("The head of the request came too slowly."))

    def _time_out_body(self) -> bool:
        assert self.intake is not None
        if not self.on_thread:
            return self._hand_over(Handler._time_out_body)
        return self._respond(self.intake.fail(RequestTimeout("The body of the request fell silent.")))

    def _cut_off(self) -> bool:
        raise ClientGone("The client takes nothing any more.")

    # What a step leaves behind. Those that end one return what it returns.

    def _await_request(self, now: float) -> None:
        self.step = Handler._read_head
        self.awaits = _TALK
        self.deadline = now + self.limits.idle
        self.on_overdue = Handler._leave

    def _await_rest_of_head(self) -> None:
        # A head's time runs from its first byte; empty lines before it are none of its bytes.
        if self.receiver.buffer and self.on_overdue is not Handler._time_out_head:
            self._await(_TALK, self.limits.head, Handler._time_out_head)

    def _await(self, events: int, timeout: float, on_overdue: _Step) -> bool:
        self.awaits = events
        self.deadline = time.monotonic() + timeout
        self.on_overdue = on_overdue
        return False

    def _hand_over(self, step: _Step) -> bool:
        """Have a thread of the pool take `step`."""
        self.step = step
        self.awaits = 0
        return False

    def _take_turns(self) -> bool:
        """Go on, unless others wait for the thread: then behind them."""
        if not self.server.pool.crowded:
            return True
        self.awaits = 0
        return False

    def _take_leave(self) -> bool:
        """Close the connection. One whose client may still be sending is half-closed and read on.

        Closing a socket with unread bytes resets it, and takes the answer along.
        """
        # A client that asked for the end, and whose every byte was read, needs no seeing off.
        if not self.keep_alive and self.framing.done and not self.receiver.buffer:
            return self._leave()
        try:
            self.request.shutdown(socket.SHUT_WR)
        except OSError:
            return self._leave()
        self.farewell_left = self.limits.farewell_bytes
        self.farewell_end = time.monotonic() + self.limits.farewell_total
        self.step = Handler._read_on
        return self._await(_TALK, self.limits.farewell, Handler._leave)

    def _refuse(self, error: Error) -> bool:
        """Answer what cannot be read as a request: it tells nothing of where the next one begins."""
        response = refusal(error)
        response.closes = True
        self.keep_alive = True
        return self._respond(response)

    def _abandon(self) -> None:
        """Undo what was under way: the client is gone, or as good as that."""
        if self.intake is not None:
            self.intake.close()
        if self.response is not None:
            self.response.close()
            self.server.log_access(self, self.response.status, time.monotonic())
        elif self.asked is not None:
            self.server.log_access(self, ClientGone.status, time.monotonic())
        self._leave()

    def _decide(self, response: Response) -> None:
        """Decide whether the connection goes on behind this answer."""
        framing = self.framing
        drainable = framing.done or (framing.left <= self.limits.drain_bytes and not self.expects_continue)
        self.close_connection = response.closes or not drainable or not self.keep_alive or self.server.draining

    def _connection_field(self) -> str:
        if self.close_connection:
            return "Connection: close\r\n"
        return "Connection: keep-alive\r\n"
