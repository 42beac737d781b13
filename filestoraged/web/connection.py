"""One connection: its fields, the step of each state, and where it goes between two steps.

`states.TABLE` says which state follows which; this class acts on it. A step goes as far as the bytes reach. Then the
connection waits in the poller, so that a slow client costs no thread, whether it sends or reads. The loop takes the
steps that cannot block; one that may (an upload, a large file, a disk read) is taken by a thread of a pool. Never by
both at once: where this class says "loop or thread", it is the one that takes the present step.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from filestoraged.errors import ClientGone, Error, Overloaded, RequestTimeout
from filestoraged.web.admission import AdmissionResult
from filestoraged.web.error_responses import refusal
from filestoraged.web.limits import Limits
from filestoraged.web.lingering_close import LingeringClose
from filestoraged.web.loop_context import LoopContext
from filestoraged.web.message import EMPTY_BODY, Answer, Request, Response, RunsOn
from filestoraged.web.pool import Pool
from filestoraged.web.receiver import DONT_WAIT, Receiver
from filestoraged.web.request_body import RequestBody
from filestoraged.web.request_cache import ParsedRequest
from filestoraged.web.response_head import CONTINUE, encode_head
from filestoraged.web.sender import Confirmation, Sender, WouldWait
from filestoraged.web.sites import Site
from filestoraged.web.states import (
    BODY,
    CLOSED,
    CONFIRM,
    DISPATCH,
    HEAD,
    IDLE,
    LINGER,
    NEXT,
    NEXT_STATE,
    PLACE,
    RESPOND,
    SKIP,
    TABLE,
    WAIT,
    Event,
    State,
    Wait,
)
from filestoraged.web.task import Task
from filestoraged.wire.body import NO_BODY
from filestoraged.wire.head import Head

log = logging.getLogger(__name__)

# `Connection.awaits` is an epoll mask, or one of these.
THREAD = 0
_LOOP = -1
_RESULT = -2

# Members of Event that are needed for each request; see `states`.
_HEAD_COMPLETE, _RESPONSE, _SENT, _KEEP_ALIVE = Event.HEAD_COMPLETE, Event.RESPONSE, Event.SENT, Event.KEEP_ALIVE
_BODY_WANTED, _RESULT_WANTED, _REFUSED, _ABORTED = Event.BODY_WANTED, Event.RESULT_WANTED, Event.REFUSED, Event.ABORTED
_INLINE, _REMOTE = RunsOn.INLINE, RunsOn.REMOTE

_MASKS = {
    Wait.NOTHING: THREAD,
    Wait.LOOP: _LOOP,
    Wait.READABLE: select.EPOLLIN,
    Wait.WRITABLE: select.EPOLLOUT,
    Wait.CHANGE: select.EPOLLIN | select.EPOLLET,
    Wait.RESULT: _RESULT,
}
_AWAITS = {state: _MASKS[row.waits_for] for state, row in TABLE.items()}
READABLE, WRITABLE = _AWAITS[IDLE], _AWAITS[RESPOND]

# The deadline of a body that was silent for too long, until its page is told.
_OVERDUE = -math.inf

# Takes a connection on, as far as it goes. Returns whether the step of its state can be taken at once. They are kept as
# plain functions: a method bound to its own connection would keep it alive.
Step = Callable[["Connection"], bool]


class Dispatcher(Protocol):
    """Calls the page that a request is for."""

    def answer(self, request: Request) -> Answer: ...


class Connection:
    """Made and started by the loop; see `Handler`."""

    # Ten thousand of them may be idle, and a dictionary would take 300 bytes to 1.5 KiB of each.
    __slots__ = (
        "_app",
        "_cache",
        "_client_key",
        "_confirmation",
        "_context",
        "_dispatcher",
        "_is_closing",
        "_is_in_flight",
        "_is_inline",
        "_is_proxied",
        "_keeps_thread",
        "_lingering_close",
        "_parsed",
        "_peer",
        "_position",
        "_task",
        "awaits",
        "client",
        "deadline",
        "descriptor",
        "is_on_thread",
        "pool",
        "receiver",
        "request",
        "response",
        "sender",
        "socket",
        "started",
        "state",
        "watched",
    )

    # What is waited for: an epoll mask, or one of the constants above. Owner: the loop or the thread that takes the
    # present step, as of all fields that have no other one.
    awaits: int
    # Until when, on the monotonic clock.
    deadline: float
    state: State
    # What epoll watches for. Owner: the poller.
    watched: int
    # The halves of the connection.
    receiver: Receiver
    sender: Sender
    # Whether a thread takes the present step; and where the next thread is found.
    is_on_thread: bool
    pool: Pool[Connection]
    # The present request: its parsed head, the page that runs, its response, and how far that is sent; when its first
    # byte came, and on whose behalf.
    _parsed: ParsedRequest
    request: Request | None
    _task: Task | None
    response: Response | None
    _position: int
    started: float
    client: str
    # Whether its page runs on the loop; whether it counts as in flight; as which client's, 0 for none.
    _is_inline: bool
    _is_in_flight: bool
    _client_key: int
    # What follows the response: the end, or a thread that waits a moment for the next request.
    _is_closing: bool
    _keeps_thread: bool
    # In the states CONFIRM and LINGER.
    _confirmation: Confirmation | None
    _lingering_close: LingeringClose | None

    def __init__(
        self, context: LoopContext[Connection], socket: socket.socket, peer: str, dispatcher: Dispatcher, site: Site
    ) -> None:
        """`peer` is the address of the other side, UNIX for a Unix socket."""
        self._context = context
        self.socket = socket
        self.descriptor = socket.fileno()
        self._peer = self.client = peer
        self._is_proxied = context.proxies.trust(peer)
        self._dispatcher = dispatcher
        self._app, self._cache = site
        self.receiver = Receiver(socket)
        self.sender = Sender(socket)
        self.pool = context.pool
        self.is_on_thread = False
        self.watched = 0
        self._parsed = _UNPARSED
        self._task = None
        self._position = 0
        self.request = None
        self.response = None
        self.started = time.monotonic()
        self._client_key = 0
        self._is_inline = self._is_in_flight = self._is_closing = self._keeps_thread = False
        self._confirmation = None
        self._lingering_close = None
        self.state = IDLE
        self.awaits = READABLE
        self.deadline = self.started + context.limits.idle

    # What the loop calls.

    def start(self, admitted: AdmissionResult) -> None:
        """Take the first steps, unless the connection has to wait for its place."""
        if admitted is AdmissionResult.WELCOME:
            self._run(Connection._read_head)
            return
        self.state = PLACE
        self.awaits = _LOOP
        if admitted is AdmissionResult.FULL:
            self._context.waiting.append(self)
        else:
            self._run(Connection._refuse_client)

    def admit(self) -> None:
        """The connection limit has a place now."""
        self._move(Event.ADMITTED)
        self.awaits = READABLE
        self._run(Connection._read_head)

    def turn_away(self) -> None:
        """No place has come free in time."""
        self._run(Connection._refuse_place)

    def on_event(self) -> None:
        """What was awaited has come."""
        self._run(_STEPS[self.state])

    def on_result(self) -> None:
        """The awaited future is done."""
        self._run(Connection._continue_page)

    def on_deadline(self) -> None:
        """What was awaited has not come in time."""
        self._run(Connection._expire)

    def on_no_thread(self) -> None:
        """No thread could be started in time."""
        self._run(Connection._refuse_without_thread)

    def flush(self) -> None:
        """Send the response that is held. Called at the end of the round."""
        self._run(Connection._flush)

    def evict(self) -> None:
        """Close an idle connection."""
        self._move(Event.EVICTED)
        self._settle()

    def cut_off(self) -> None:
        """Close the connection, whatever is in flight."""
        self._abort(_ABORTED)
        self._settle()

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests, and nothing of the next one was read."""
        return self.state is IDLE and not self.receiver.buffer

    @property
    def is_lingering(self) -> bool:
        return self.state is LINGER

    # What a thread of a pool calls.

    def run_on_thread(self) -> None:
        """Take the steps that the loop could not. Waits a moment for the client unless others wait for a thread."""
        self.is_on_thread = True
        self.receiver.flags = DONT_WAIT if self.pool.crowded else 0
        self.sender.send_at_once(self.receiver.flags)
        self._steps(_STEPS[self.state])
        self.is_on_thread = False
        self.receiver.flags = DONT_WAIT
        self.sender.hold()
        self._settle()

    # Between the steps.

    def _run(self, step: Step) -> None:
        self._steps(step)
        self._settle()

    def _steps(self, step: Step) -> None:
        """Take steps until something has to be waited for. Raises nothing."""
        try:
            while step(self):
                step = _STEPS[self.state]
        except ClientGone as error:
            log.debug("client %s left: %s", self.client, error)
            self._abort(_ABORTED)
        except Exception:
            # Part of a response may have gone out: nothing can follow it.
            log.exception("connection of client %s failed", self.client)
            self._abort(_ABORTED)

    def _settle(self) -> None:
        """Give the connection to what it waits for, or close it. Raises nothing; nothing may follow it."""
        context, awaits = self._context, self.awaits
        if awaits == _LOOP and self.state is not CLOSED:
            return
        try:
            if self.state is CLOSED:
                context.poller.unregister(self)
            elif awaits > 0:
                context.poller.register(self)
                return
            elif awaits == THREAD:
                context.poller.unregister(self)
                self.pool.submit(self)
                return
            else:
                assert awaits == _RESULT and self._task is not None and self._task.future is not None
                self.awaits = _LOOP
                context.completions.expect(self, self._task.future)
                return
        except Exception:
            # The kernel may watch no more descriptors. Nothing else would continue this connection.
            log.exception("connection of client %s failed", self.client)
            self._abort(_ABORTED)
            context.poller.discard(self)
        context.release(self.socket)

    def _move(self, event: Event) -> None:
        self.state = NEXT_STATE[self.state][event]

    def _wait(self) -> bool:
        """Wait for what the table says."""
        self.awaits = _AWAITS[self.state]
        return False

    def _wait_writable(self) -> bool:
        """Wait until the client has taken a good part of what was sent."""
        self.sender.mark()
        self.deadline = time.monotonic() + self._context.limits.send
        return self._wait()

    def _hand_over(self) -> bool:
        """A thread takes the step of this state."""
        self.awaits = THREAD
        return False

    def _yield_thread(self) -> bool:
        """Continue, unless others wait for the thread: then behind them."""
        if not self.pool.crowded:
            return True
        return self._hand_over()

    def _abort(self, event: Event) -> None:
        """Undo what is in flight, and end. Raises nothing: else the connection would keep its place for ever."""
        for undo in (Connection._close_task, Connection._close_response, Connection._end_in_flight):
            try:
                undo(self)
            except Exception:
                log.exception("undoing a request of client %s failed", self.client)
        if self.state is not CLOSED:
            self._move(event)

    def _close_task(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.close()

    def _close_response(self) -> None:
        request, response, self.response = self.request, self.response, None
        if response is None:
            if request is not None:
                self._record(ClientGone.status, ClientGone.__name__, 0)
        else:
            response.close()
            if response.content is not None:
                self._record(response.status, response.kind, self.sender.sent)
        self.request = None

    def _record(self, status: int, kind: str, sent: int) -> None:
        self._context.record(self, status, kind, sent, time.monotonic())

    # The steps: one for each state, in the order of the table.

    def _read_head(self) -> bool:
        """IDLE, HEAD. Receives once at most: a client that sends without end must not keep the loop from others."""
        receiver = self.receiver
        is_new = not receiver.buffer
        if is_new:
            if not receiver.receive():
                return self._wait()
            self.started = time.monotonic()
        parsed = self._cache.recall(receiver.buffer)
        if parsed is not None:
            receiver.buffer = b""
            receiver.skipped = 0
            return self._dispatch(parsed)
        try:
            data = receiver.take_head()
            if data is None and not is_new and receiver.receive():
                data = receiver.take_head()
            if data is None:
                return self._wait_for_head()
            parsed = self._cache.read(data)
        except ClientGone:
            raise
        except Error as error:
            return self._refuse(error)
        return self._dispatch(parsed)

    def _wait_for_head(self) -> bool:
        # A head's time runs from its first byte; empty lines before it are none of its bytes.
        if self.receiver.buffer and self.state is IDLE:
            self._move(Event.HEAD_STARTED)
            self.deadline = time.monotonic() + self._context.limits.head
        return self._wait()

    def _dispatch(self, parsed: ParsedRequest) -> bool:
        """Choose where the page runs; on the loop, run it."""
        context = self._context
        self._parsed = parsed
        request = self.request = parsed.request
        self.state = NEXT_STATE[self.state][_HEAD_COMPLETE]
        if self._is_proxied:
            self.client = context.proxies.client(request.fields.get("x-forwarded-for"), self._peer)
        runs_on = self._app.route(request)
        self._is_inline = True
        if runs_on is _INLINE:
            self.pool = context.pool
            if parsed.framing is not NO_BODY:
                self._own_request()
            return self._run_page()
        if not self.is_on_thread:
            response = self._app.answer_early(request)
            if response is not None:
                return self._respond(response)
        self._is_inline = False
        self._own_request()
        if not self._begin_in_flight():
            return self._refuse_client()
        pool = context.remote_pool if runs_on is _REMOTE else context.pool
        if self.is_on_thread and pool is self.pool:
            return True
        self.pool = pool
        return self._hand_over()

    def _own_request(self) -> None:
        """Replace the request, which other connections may share, by one with a body and a client."""
        assert self.request is not None
        framing = self._parsed.framing
        body = EMPTY_BODY if framing is NO_BODY else RequestBody(self.receiver, framing)
        self.request = self.request.copy(self.client, body)

    def _run_page(self) -> bool:
        """DISPATCH."""
        if not self._is_inline and not self.is_on_thread:
            return self._hand_over()
        task = self._task
        if task is not None:
            return self._follow_page(task, task.resume())
        assert self.request is not None
        answer = self._dispatcher.answer(self.request)
        if isinstance(answer, Response):
            return self._respond(answer)
        task = self._task = Task(self._app, self.request, answer)
        return self._follow_page(task, task.start())

    def _continue_page(self) -> bool:
        self._move(Event.RESULT)
        return self._run_page()

    def _follow_page(self, task: Task, response: Response | None) -> bool:
        """Do what the page wants next."""
        if response is not None:
            self._task = None
            return self._respond(response)
        if not self._begin_in_flight():
            self._close_task()
            return self._refuse_client()
        if task.future is not None:
            self._move(_RESULT_WANTED)
            self.deadline = math.inf
            return self._wait()
        if self.state is not BODY:
            self._move(_BODY_WANTED)
        body = self._body
        if not body.is_wanted and body.open() and self._parsed.expects_continue:
            self.sender.send_now(CONTINUE)
        return True

    def _receive_body(self) -> bool:
        """BODY."""
        task, body, limits = self._task, self._body, self._context.limits
        assert task is not None
        if not self._is_inline and not self.is_on_thread:
            return self._hand_over()
        if self.deadline == _OVERDUE:
            return self._follow_page(
                task, task.fail(RequestTimeout(f"No byte of the request body for {limits.body:g} s."))
            )
        try:
            response = task.receive(body)
        except ClientGone:
            raise
        except Error as error:
            response = task.fail(error)
        if response is not None or task.future is not None:
            return self._follow_page(task, response)
        if not body.is_silent:
            return self._yield_thread()
        now = time.monotonic()
        if body.is_slow(limits, now):
            return self._follow_page(task, task.fail(_too_slow(limits)))
        self.deadline = now + limits.body
        return self._wait()

    @property
    def _body(self) -> RequestBody:
        assert self.request is not None and isinstance(self.request.body, RequestBody)
        return self.request.body

    def _ignore(self) -> bool:
        """WAIT: what the client sends meanwhile is read after the response. Called by the loop."""
        self._context.poller.unregister(self)
        return False

    def _respond(self, response: Response, event: Event = _RESPONSE) -> bool:
        request, parsed = self.request, self._parsed
        self.state = NEXT_STATE[self.state][event]
        self.response = response
        # A response to HEAD has no body, whatever its head says.
        is_bodiless = request is not None and request.method == "HEAD"
        self._position = response.stop if is_bodiless else response.start
        if response.content is None:
            # Before it is sent: a client that has a response finds it counted.
            sent = response.stop - self._position
            self._context.record(self, response.status, response.kind, sent, time.monotonic())
        self._is_closing = (
            response.closes
            or not parsed.keep_alive
            or self._context.is_draining
            or (parsed.framing is not NO_BODY and not self._is_skippable())
        )
        if self._is_closing:
            field = "Connection: close\r\n"
        else:
            # The default of HTTP/1.1.
            field = "" if parsed.speaks_1_1 else "Connection: keep-alive\r\n"
        self.sender.begin(encode_head(response, field))
        return self._send()

    def _is_skippable(self) -> bool:
        """Whether the body was read, or so little of it is left that reading it costs less than a new connection."""
        framing = self._parsed.framing
        if framing.done:
            return True
        is_coming = not self._parsed.expects_continue or (self.request is not None and self.request.body.is_wanted)
        return is_coming and framing.left <= self._context.limits.drain_bytes

    def _send(self) -> bool:
        """RESPOND."""
        response = self.response
        if response is None:
            return self._flush()
        if response.on_received is not None and not self.is_on_thread:
            # The loop would hold it, and whether it is received is not known before it is sent.
            return self._hand_over()
        before = self._position
        if before < response.stop:
            try:
                self._position = response.send(self.sender, before)
            except WouldWait:
                return self._hand_over()
            if self._position < response.stop:
                return self._send_on(before)
        elif not self.sender.flush():
            return self._wait_writable()
        return self._finish_response(response)

    def _send_on(self, before: int) -> bool:
        # Sending waits for no other machine; and those who do may all wait for what this response holds.
        self.pool = self._context.pool
        if self._position > before and self.is_on_thread:
            return self._yield_thread()
        return self._wait_writable()

    def _finish_response(self, response: Response) -> bool:
        if response.on_received is not None:
            self._confirmation = Confirmation(self.sender, self.receiver, self._context.limits.send)
            self._move(Event.SENT_UNCONFIRMED)
            return True
        self._end_request(response)
        if self.is_on_thread:
            self.state = NEXT_STATE[self.state][_SENT]
            return self._follow_response()
        # The loop sends the responses of a round at its end.
        self.awaits = _LOOP
        self.deadline = self.started + self._context.limits.send
        self._context.unsent.append(self)
        return False

    def _end_request(self, response: Response) -> None:
        response.close()
        if response.content is not None:
            self._record(response.status, response.kind, self.sender.sent)
        if self._is_in_flight:
            self._end_in_flight()
        # A client that stores objects stores the next one soon. Other requests are the loop's.
        self._keeps_thread = self.request is not None and self.request.method != "GET"
        self.response = self.request = None
        self.started = time.monotonic()

    def _flush(self) -> bool:
        if not self.sender.push():
            return self._wait_writable()
        if self.awaits == WRITABLE:
            self.started = time.monotonic()
        self.state = NEXT_STATE[self.state][_SENT]
        return self._follow_response()

    def _confirm(self) -> bool:
        """CONFIRM."""
        response, confirmation = self.response, self._confirmation
        assert response is not None and response.on_received is not None and confirmation is not None
        if not confirmation.check():
            # No event tells when the queue has become empty.
            self.deadline = time.monotonic() + self._context.limits.confirm
            return self._wait()
        self._confirmation = None
        response.on_received()
        self._end_request(response)
        self._move(Event.CONFIRMED)
        return True

    def _follow_response(self) -> bool:
        """NEXT."""
        if self._is_closing:
            return self._close()
        self.awaits = READABLE
        self.deadline = self.started + self._context.limits.idle
        framing = self._parsed.framing
        if framing is not NO_BODY and not framing.done:
            self._move(Event.UNREAD_BODY)
            return True
        self.state = NEXT_STATE[self.state][_KEEP_ALIVE]
        if self.receiver.buffer:
            # A client that does not wait for responses gets a thread: there, others have their turn in between.
            return self._yield_thread() if self.is_on_thread else self._hand_over()
        return self.is_on_thread and self._keeps_thread and not self.pool.crowded

    def _skip_body(self) -> bool:
        """SKIP. Receives once at most, as `_read_head` does."""
        receiver, framing = self.receiver, self._parsed.framing
        if not receiver.buffer and not receiver.receive():
            return self._wait()
        _, used = framing.decode(memoryview(receiver.buffer))
        receiver.buffer = receiver.buffer[used:]
        if not framing.done:
            return self._wait()
        self._move(Event.SKIPPED)
        return bool(receiver.buffer or self.is_on_thread) or self._wait()

    def _close(self) -> bool:
        # A client that asked for the end, and whose every byte was read, closes when it has read the response.
        is_read = self._parsed.framing.done and not self.receiver.buffer
        if self._parsed.keep_alive or not is_read:
            try:
                self._lingering_close = LingeringClose(self.socket, self._context.limits)
                self._move(Event.LINGER)
                self.deadline = self._lingering_close.deadline
                return self._wait()
            except OSError as error:
                log.debug("client %s left: %s", self.client, error)
        self._move(Event.CLOSE)
        return False

    def _discard_input(self) -> bool:
        """LINGER. Called by the loop."""
        assert self._lingering_close is not None
        if not self._lingering_close.discard(self._context.scratch):
            self._move(Event.CLOSE)
        self.deadline = self._lingering_close.deadline
        return False

    # Refusals, and what is done on deadlines.

    def _refuse(self, error: Error, event: Event = _REFUSED) -> bool:
        """Answer in place of a page, and close: where the next request begins is not known, or not wanted."""
        response = refusal(error)
        response.closes = True
        if self.request is None:
            # Nothing says on whose behalf a proxy has sent it.
            self.client = self._peer
        self._parsed = _UNPARSED
        return self._respond(response, event)

    def _refuse_place(self) -> bool:
        limit = self._context.admission.limit
        message = f"All {limit} connections are in use, and none of them is idle."
        return self._refuse(Overloaded(message), Event.DEADLINE)

    def _refuse_client(self) -> bool:
        limit = self._context.admission.client_limit
        return self._refuse(Overloaded(f"This client has {limit} connections already."))

    def _refuse_without_thread(self) -> bool:
        error = Overloaded("The server cannot start a thread for the request.")
        if self.response is not None:
            # Part of it may have gone out.
            self._abort(_ABORTED)
            return False
        if self._task is not None:
            return self._follow_page(self._task, self._task.fail(error))
        return self._refuse(error)

    def _expire(self) -> bool:
        """The deadline of the state has passed."""
        limits = self._context.limits
        if self.state is HEAD:
            message = f"The request head was not complete {limits.head:g} s after its first byte."
            return self._refuse(RequestTimeout(message), Event.DEADLINE)
        if self.state is BODY:
            self._move(Event.DEADLINE)
            self.deadline = _OVERDUE
            return True
        if self.state is CONFIRM:
            return self._confirm()
        if self.state is RESPOND and self.sender.has_progressed():
            # The client takes little, not nothing.
            return self._wait_writable()
        self._abort(Event.DEADLINE)
        return False

    # A request is in flight while its page runs on a thread, or waits for its body or a result.

    def _begin_in_flight(self) -> bool:
        """Returns whether the client may have one more; only clients behind a proxy are counted by requests."""
        if self._is_in_flight:
            return True
        self._is_in_flight = True
        self._context.metrics.request_started()
        if self._is_proxied:
            key = self._context.admission.enter_client(self.client)
            self._client_key = key or 0
            return key is not None
        return True

    def _end_in_flight(self) -> None:
        if self._is_in_flight:
            self._is_in_flight = False
            self._context.metrics.request_ended()
            if self._client_key:
                self._context.admission.leave_client(self._client_key)
                self._client_key = 0


def _too_slow(limits: Limits) -> RequestTimeout:
    rate, seconds = limits.body_rate, limits.body_rate_from
    return RequestTimeout(f"The request body came at less than {rate:g} bytes a second for {seconds:g} s.")


# A head that could not be parsed.
_UNPARSED = ParsedRequest(Request(Head("", "", "", (1, 1), {}), 0), NO_BODY, True, True, False)

_STEPS: Mapping[State, Step] = {
    IDLE: Connection._read_head,
    HEAD: Connection._read_head,
    DISPATCH: Connection._run_page,
    BODY: Connection._receive_body,
    WAIT: Connection._ignore,
    RESPOND: Connection._send,
    CONFIRM: Connection._confirm,
    NEXT: Connection._follow_response,
    SKIP: Connection._skip_body,
    LINGER: Connection._discard_input,
}
