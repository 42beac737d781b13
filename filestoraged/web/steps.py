"""The steps of a connection from a request to its response: the states IDLE to WAIT. At the foot, all steps by state.

Each function takes the connection as far as it goes, and returns whether the next state's step can be taken at once.
"""

from __future__ import annotations

import math

from filestoraged.errors import ClientGone, Error, Overloaded, RequestTimeout
from filestoraged.web.connection import Connection
from filestoraged.web.error_responses import refusal
from filestoraged.web.exchange import NO_EXCHANGE, UNPARSED, Exchange
from filestoraged.web.limits import Limits
from filestoraged.web.loop_context import Steps
from filestoraged.web.request import EMPTY_BODY, Body, ReceivedBody, RunsOn
from filestoraged.web.request_body import RequestBody
from filestoraged.web.request_cache import ParsedRequest
from filestoraged.web.response import CONTINUE, Response
from filestoraged.web.response_steps import (
    confirm,
    continue_response,
    discard_input,
    flush,
    follow_response,
    respond,
    skip_body,
)
from filestoraged.web.states import (
    BODY,
    CONFIRM,
    DISPATCH,
    HEAD,
    IDLE,
    LINGER,
    NEXT,
    RESPOND,
    SKIP,
    WAIT,
    Event,
)
from filestoraged.web.task import Task
from filestoraged.wire.body import NO_BODY, Framing
from filestoraged.wire.head import is_head_request

# Needed for each request; see `states`.
_HEAD_COMPLETE, _BODY_WANTED, _RESULT_WANTED = Event.HEAD_COMPLETE, Event.BODY_WANTED, Event.RESULT_WANTED
_REFUSED = Event.REFUSED
_INLINE, _REMOTE = RunsOn.INLINE, RunsOn.REMOTE

# The deadline of a body that was silent for too long, until its page gets the error.
_OVERDUE = -math.inf


def read_head(connection: Connection) -> bool:
    """IDLE, HEAD. Receives once at most: a client that sends without end must not keep the loop from others."""
    receiver = connection.transport.receiver
    is_new = not receiver.buffer
    if is_new:
        if not receiver.receive():
            return connection.wait()
        connection.since = connection.context.now()
    parsed = connection.cache.recall(receiver.buffer)
    if parsed is not None:
        receiver.buffer = b""
        receiver.skipped = 0
        return _dispatch(connection, parsed, NO_BODY, EMPTY_BODY)
    upload = connection.cache.recall_upload(receiver.buffer)
    if upload is not None:
        receiver.buffer = b""
        receiver.skipped = 0
        return _dispatch(connection, upload[0], NO_BODY, ReceivedBody(upload[1]))
    data: bytes | None = None
    try:
        data = receiver.take_head()
        if data is None and not is_new and receiver.receive():
            data = receiver.take_head()
        if data is None:
            return _wait_for_head(connection)
        parsed, framing = connection.cache.read(data)
    except ClientGone:
        raise
    except Error as error:
        return _refuse(connection, error, is_bodiless=is_head_request(data or receiver.buffer))
    body: Body = EMPTY_BODY
    if framing is not NO_BODY:
        context = connection.context
        body = RequestBody(receiver, framing, context.now, context.decoding)
    return _dispatch(connection, parsed, framing, body)


def _wait_for_head(connection: Connection) -> bool:
    # A head's time runs from its first byte; empty lines before it are none of its bytes.
    if connection.transport.receiver.buffer and connection.state is IDLE:
        connection.move(Event.HEAD_STARTED)
        connection.transport.deadline = connection.context.now() + connection.context.limits.head
    return connection.wait()


def _dispatch(connection: Connection, parsed: ParsedRequest, framing: Framing, body: Body) -> bool:
    """Choose where the page runs; on the loop, run it. `framing` is that of what still comes of the body."""
    context, request, client = connection.context, parsed.request, connection.peer
    if connection.is_proxied:
        client = context.proxies.client(request.fields.get("x-forwarded-for"), client)
    if context.spare and not connection.is_on_thread:
        exchange: Exchange = context.spare.pop()
        exchange.begin(parsed, request, framing, client, connection.since)
    else:
        exchange = Exchange(parsed, request, framing, client, connection.since)
    connection.exchange = exchange
    connection.move(_HEAD_COMPLETE)
    if request.match is None:
        connection.app.route(request)
        request.set_loggable()
        # Not before: the route tells whether the path is secret. Shared requests are routed once.
        connection.cache.keep(parsed, framing)
    runs_on = request.runs_on
    if parsed.fault is not None:
        return respond(connection, connection.app.refuse_body(request, parsed.fault))
    if runs_on is _INLINE:
        exchange.is_inline = True
        connection.pool = context.pool
        if body is not EMPTY_BODY:
            exchange.request = request.copy(client, body)
        return run_page(connection)
    if not connection.is_on_thread:
        response = connection.app.answer_early(request)
        if response is not None:
            return respond(connection, response)
    # Other connections may share the request.
    exchange.request = request.copy(client, body)
    if not exchange.begin_in_flight(context, is_proxied=connection.is_proxied):
        return refuse_client(connection)
    pool = context.remote_pool if runs_on is _REMOTE else context.pool
    if connection.is_on_thread and pool is connection.pool:
        return True
    connection.pool = pool
    return connection.hand_over()


def run_page(connection: Connection) -> bool:
    """DISPATCH: run the page on the loop or the thread that its route declares."""
    exchange = connection.exchange
    if not exchange.is_inline and not connection.is_on_thread:
        return connection.hand_over()
    task, request = exchange.task, exchange.request
    if task is None:
        assert request is not None
        answer = connection.app.answer(request)
        if isinstance(answer, Response):
            return respond(connection, answer)
        task = exchange.task = Task(connection.app, request, answer)
    return _follow_page(connection, task, task.run())


def _follow_page(connection: Connection, task: Task, response: Response | None) -> bool:
    """Do what the page wants next."""
    exchange = connection.exchange
    if response is not None:
        exchange.task = None
        return respond(connection, response)
    if not exchange.begin_in_flight(connection.context, is_proxied=connection.is_proxied):
        exchange.close_task()
        return refuse_client(connection)
    if task.future is not None:
        connection.move(_RESULT_WANTED)
        connection.transport.deadline = math.inf
        return connection.wait()
    if connection.state is not BODY:
        connection.move(_BODY_WANTED)
    body = _body(connection)
    if not body.is_wanted and body.open() and exchange.parsed.expects_continue:
        connection.transport.sender.send_now(CONTINUE)
    return True


def receive_body(connection: Connection) -> bool:
    """BODY: receive and feed the page, for one quantum at most."""
    exchange, body, limits = connection.exchange, _body(connection), connection.context.limits
    task = exchange.task
    assert task is not None
    if not exchange.is_inline and not connection.is_on_thread:
        return connection.hand_over()
    if connection.transport.deadline == _OVERDUE:
        error = RequestTimeout(f"No byte of the request body for {limits.body:g} s.")
        return _follow_page(connection, task, task.fail(error))
    try:
        response = task.receive(body)
    except ClientGone:
        raise
    except Error as error:
        response = task.fail(error)
    if response is not None or task.future is not None:
        return _follow_page(connection, task, response)
    # Not as of now: the page may have been slow with what arrived then.
    if body.is_slow(limits, body.arrived):
        return _follow_page(connection, task, task.fail(_too_slow(limits)))
    if not body.is_silent:
        return connection.yield_thread()
    connection.transport.deadline = body.arrived + limits.body
    return connection.wait()


def _body(connection: Connection) -> RequestBody:
    request = connection.exchange.request
    assert request is not None and isinstance(request.body, RequestBody)
    return request.body


def ignore(connection: Connection) -> bool:
    """WAIT: what the client sends meanwhile is read after the response. Called by the loop."""
    connection.context.poller.unregister(connection)
    return False


def _refuse(connection: Connection, error: Error, event: Event = _REFUSED, *, is_bodiless: bool = False) -> bool:
    """Answer in place of a page, and close: where the next request begins is not known, or not wanted."""
    response = refusal(error)
    response.closes = True
    if is_bodiless:
        response.start = response.stop
    if connection.exchange is NO_EXCHANGE:
        # Nothing says on whose behalf a proxy has sent it.
        connection.exchange = Exchange(UNPARSED, None, NO_BODY, connection.peer, connection.since)
    connection.exchange.parsed = UNPARSED
    connection.exchange.framing = NO_BODY
    return respond(connection, response, event)


def refuse_client(connection: Connection) -> bool:
    """DISPATCH behind a proxy: the client has too many requests in flight."""
    return _refuse(connection, connection.context.admission.refusal_of_client())


def refuse_without_thread(connection: Connection) -> bool:
    error = Overloaded("The server cannot start a thread for the request.")
    exchange = connection.exchange
    if exchange.response is not None:
        # Part of it may have gone out.
        connection.fail(error)
        return False
    if exchange.task is not None:
        return _follow_page(connection, exchange.task, exchange.task.fail(error))
    return _refuse(connection, error)


# Deadlines.


def _time_out(connection: Connection) -> bool:
    connection.abort(Event.DEADLINE)
    return False


def _time_out_head(connection: Connection) -> bool:
    seconds = connection.context.limits.head
    error = RequestTimeout(f"The request head was not complete {seconds:g} s after its first byte.")
    return _refuse(connection, error, Event.DEADLINE, is_bodiless=is_head_request(connection.transport.receiver.buffer))


def _time_out_body(connection: Connection) -> bool:
    """The step raises the error in the page, on a thread where the page runs on one."""
    connection.move(Event.DEADLINE)
    connection.transport.deadline = _OVERDUE
    return True


def _check_progress(connection: Connection) -> bool:
    if connection.transport.sender.has_progressed():
        # The client takes little, not nothing.
        return connection.wait_writable()
    return _time_out(connection)


def _too_slow(limits: Limits) -> RequestTimeout:
    rate, seconds = limits.body_rate, limits.body_rate_from
    return RequestTimeout(f"The request body came at less than {rate:g} bytes a second for {seconds:g} s.")


STEPS: Steps[Connection] = Steps(
    by_state={
        IDLE: read_head,
        HEAD: read_head,
        DISPATCH: run_page,
        BODY: receive_body,
        WAIT: ignore,
        RESPOND: continue_response,
        CONFIRM: confirm,
        NEXT: follow_response,
        SKIP: skip_body,
        LINGER: discard_input,
    },
    on_deadline={
        IDLE: _time_out,
        HEAD: _time_out_head,
        BODY: _time_out_body,
        RESPOND: _check_progress,
        CONFIRM: confirm,
        SKIP: _time_out,
        LINGER: _time_out,
    },
    refuse=_refuse,
    flush=flush,
    without_thread=refuse_without_thread,
)
