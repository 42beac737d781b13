"""One connection: its fields, what calls it, and where it goes between two steps.

`states.TABLE` says which state follows which; `steps` and `response_steps` have the step of each state. A step goes as
far as the bytes reach. Then the connection waits in the poller, so that a slow client costs no thread, whether it sends
or reads. The loop takes the steps that cannot block; one that may (an upload, a large file, a disk read) is taken by a
thread of a pool. Never by both at once.
"""

from __future__ import annotations

import functools
import logging
import math
import select
import socket
from typing import Protocol

from filestoraged.digest import Bytes
from filestoraged.errors import ClientGone, Error
from filestoraged.web.admission import AdmissionResult
from filestoraged.web.error_responses import failure
from filestoraged.web.lingering_close import LingeringClose
from filestoraged.web.loop_context import LoopContext, Step
from filestoraged.web.message import Answer, Request, Response
from filestoraged.web.pool import Pool
from filestoraged.web.receiver import DONT_WAIT, Receiver
from filestoraged.web.request_cache import ParsedRequest
from filestoraged.web.sender import Confirmation, Sender
from filestoraged.web.sites import Site
from filestoraged.web.states import (
    CLOSED,
    IDLE,
    LINGER,
    NEXT_STATE,
    PLACE,
    RESPOND,
    TABLE,
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
LOOP = -1
RESULT = -2

_MASKS = {
    Wait.NOTHING: THREAD,
    Wait.LOOP: LOOP,
    Wait.READABLE: select.EPOLLIN,
    Wait.WRITABLE: select.EPOLLOUT,
    Wait.CHANGE: select.EPOLLIN | select.EPOLLET,
    Wait.RESULT: RESULT,
}
_AWAITS = {state: _MASKS[row.waits_for] for state, row in TABLE.items()}
READABLE, WRITABLE = _AWAITS[IDLE], _AWAITS[RESPOND]

# The deadline of a body that was silent for too long, until its page gets the error.
OVERDUE = -math.inf

# A head that could not be parsed.
UNPARSED = ParsedRequest(Request(Head("", "", "", (1, 1), {}), 0), NO_BODY)


class Dispatcher(Protocol):
    """Calls the page that a request is for."""

    def answer(self, request: Request) -> Answer: ...


class Connection:
    """Made and started by the loop; see `Handler`."""

    # Ten thousand of them may be idle, and a dictionary would take 300 bytes to 1.5 KiB of each.
    __slots__ = (
        "_client_key",
        "app",
        "awaits",
        "cache",
        "client",
        "confirmation",
        "context",
        "deadline",
        "descriptor",
        "dispatcher",
        "is_closing",
        "is_in_flight",
        "is_inline",
        "is_on_thread",
        "is_proxied",
        "keeps_thread",
        "lingering_close",
        "parsed",
        "peer",
        "pool",
        "position",
        "receiver",
        "request",
        "response",
        "sender",
        "socket",
        "started",
        "state",
        "task",
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
    parsed: ParsedRequest
    request: Request | None
    task: Task | None
    response: Response | None
    position: int
    started: float
    client: str
    # Whether its page runs on the loop; whether it counts as in flight; as which client's, 0 for none.
    is_inline: bool
    is_in_flight: bool
    _client_key: int
    # What follows the response: the end, or a thread that waits a moment for the next request.
    is_closing: bool
    keeps_thread: bool
    # In the states CONFIRM and LINGER.
    confirmation: Confirmation | None
    lingering_close: LingeringClose | None

    def __init__(
        self, context: LoopContext[Connection], socket: socket.socket, peer: str, dispatcher: Dispatcher, site: Site
    ) -> None:
        """`peer` is the address of the other side, UNIX for a Unix socket."""
        self.context = context
        self.socket = socket
        self.descriptor = socket.fileno()
        self.peer = self.client = peer
        self.is_proxied = context.proxies.trust(peer)
        self.dispatcher = dispatcher
        self.app, self.cache = site
        self.receiver = Receiver(socket)
        self.sender = Sender(socket)
        self.pool = context.pool
        self.is_on_thread = False
        self.watched = 0
        self.parsed = UNPARSED
        self.task = None
        self.position = 0
        self.request = None
        self.response = None
        self.started = context.now()
        self._client_key = 0
        self.is_inline = self.is_in_flight = self.is_closing = self.keeps_thread = False
        self.confirmation = None
        self.lingering_close = None
        self.state = IDLE
        self.awaits = READABLE
        self.deadline = self.started + context.limits.idle

    # What the loop calls.

    def start(self, admitted: AdmissionResult) -> None:
        """Take the first steps, unless the connection has to wait for its place."""
        if admitted is AdmissionResult.ADMITTED:
            self.on_event()
            return
        self.state = PLACE
        self.awaits = LOOP
        if admitted is AdmissionResult.WAITING:
            self.context.waiting.append(self)
        else:
            self.on_event()

    def admit(self) -> None:
        """The connection limit has a place now."""
        self.move(Event.ADMITTED)
        self.awaits = READABLE
        self.on_event()

    def on_event(self) -> None:
        """What was awaited has come."""
        self._take_steps(self.context.steps.by_state[self.state])
        self._settle()

    def on_result(self) -> None:
        """The awaited future is done."""
        self.move(Event.RESULT)
        self._run(self.context.steps.by_state[self.state])

    def on_deadline(self) -> None:
        """What was awaited has not come in time."""
        self._run(self.context.steps.on_deadline[self.state])

    def on_no_thread(self) -> None:
        """No thread could be started in time."""
        self._run(self.context.steps.without_thread)

    def flush(self) -> None:
        """Send the response that is held. Called at the end of the round."""
        self._take_steps(self.context.steps.flush)
        self._settle()

    def evict(self) -> None:
        """Close an idle connection."""
        self.move(Event.EVICTED)
        self._settle()

    def cut_off(self) -> None:
        """Close the connection, whatever is in flight."""
        self.abort(Event.ABORTED)
        self._settle()

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests, and nothing of the next one was read."""
        return self.state is IDLE and not self.receiver.buffer

    @property
    def is_lingering(self) -> bool:
        return self.state is LINGER

    @property
    def unread(self) -> Bytes:
        """What is in memory until the client has read it, and is waited for; empty for nothing."""
        if self.awaits != WRITABLE:
            return b""
        if self.response is not None:
            return self.response.body
        return self.sender.held[0] if self.sender.held else b""

    # What a thread of a pool calls.

    def run_on_thread(self) -> None:
        """Take the steps that the loop could not. Waits a moment for the client unless others wait for a thread."""
        self.is_on_thread = True
        self.receiver.flags = DONT_WAIT if self.pool.is_saturated else 0
        self.sender.send_at_once(self.receiver.flags)
        self._take_steps(self.context.steps.by_state[self.state])
        self.is_on_thread = False
        self.receiver.flags = DONT_WAIT
        self.sender.hold()
        self._settle()

    # Between the steps.

    def _run(self, step: Step[Connection]) -> None:
        self._take_steps(step)
        self._settle()

    def _take_steps(self, step: Step[Connection]) -> None:
        """Take steps until something has to be waited for. Raises nothing."""
        steps = self.context.steps.by_state
        try:
            while step(self):
                step = steps[self.state]
        except ClientGone as error:
            log.debug("client %s left: %s", self.client, error)
            self.abort(Event.ABORTED)
        except Exception as error:
            self.fail(error)

    def _settle(self) -> None:
        """Give the connection to what it waits for, or close it. Raises nothing; nothing may follow it."""
        context, awaits = self.context, self.awaits
        if (awaits == LOOP or 0 < awaits == self.watched) and self.state is not CLOSED:
            # Held until the end of the round, or watched already.
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
                assert awaits == RESULT and self.task is not None and self.task.future is not None
                self.awaits = LOOP
                context.completions.expect(self, self.task.future)
                return
        except Exception as error:
            # The kernel may watch no more descriptors. Nothing else would continue this connection.
            self.fail(error)
            context.poller.discard(self)
        context.release(self.socket)

    def move(self, event: Event) -> None:
        self.state = NEXT_STATE[self.state][event]

    def wait(self) -> bool:
        """Wait for what the table says."""
        self.awaits = _AWAITS[self.state]
        return False

    def wait_writable(self) -> bool:
        """Wait until the client has taken a good part of what was sent."""
        self.sender.mark()
        self.deadline = self.context.now() + self.context.limits.send
        return self.wait()

    def hand_over(self) -> bool:
        """A thread takes the step of this state."""
        self.awaits = THREAD
        return False

    def yield_thread(self) -> bool:
        """Continue, unless others wait for the thread: then behind them."""
        if not self.pool.is_saturated:
            return True
        return self.hand_over()

    def fail(self, error: Exception) -> None:
        """The server has failed. A part of a response may have gone out: nothing can follow it. Raises nothing."""
        self.abort(Event.ABORTED, failure(error, self.client))

    def abort(self, event: Event, fault: Error | None = None) -> None:
        """Undo a request in flight, and close. Raises nothing: else the connection would keep its place for ever.

        `fault` is the failure of the server that ends it, None where the client does.
        """
        for undo in (self.close_task, functools.partial(self._close_response, fault), self.end_in_flight):
            try:
                undo()
            except Exception:
                log.exception("undoing a request of client %s failed", self.client)
        if self.state is not CLOSED:
            self.move(event)

    def close_task(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.close()

    def _close_response(self, fault: Error | None) -> None:
        request, response, self.response = self.request, self.response, None
        if response is not None:
            # Behind the last byte, the client may have the whole.
            if fault is not None and response.on_failure is not None and self.position < response.stop:
                response.on_failure()
            response.close()
            if response.content is not None:
                kind = response.kind if fault is None else type(fault).__name__
                self._record(response.status, kind, self.sender.sent)
                fault = None
        elif request is not None:
            cause = ClientGone if fault is None else type(fault)
            self._record(cause.status, cause.__name__, 0)
            fault = None
        if fault is not None:
            # The request was counted when its response was begun.
            self.context.metrics.count_error(type(fault).__name__)
        self.request = None

    def _record(self, status: int, kind: str, sent: int) -> None:
        self.context.record(self, status, kind, sent)

    # A request is in flight while its page runs on a thread, or waits for its body or a result.

    def begin_in_flight(self) -> bool:
        """Returns whether the client may have one more; only clients behind a proxy are counted by requests."""
        if self.is_in_flight:
            return True
        self.is_in_flight = True
        self.context.metrics.request_started()
        if self.is_proxied:
            key = self.context.admission.enter_client(self.client)
            self._client_key = key or 0
            return key is not None
        return True

    def end_in_flight(self) -> None:
        if self.is_in_flight:
            self.is_in_flight = False
            self.context.metrics.request_ended()
            if self._client_key:
                self.context.admission.leave_client(self._client_key)
                self._client_key = 0
