"""The steps of a connection from a response to the next request: the states RESPOND, CONFIRM, NEXT, SKIP and LINGER.

Each function takes the connection as far as it goes, and returns whether the next state's step can be taken at once.
"""

from __future__ import annotations

import logging

from filestoraged.web.connection import LOOP, READABLE, UNPARSED, WRITABLE, Connection
from filestoraged.web.lingering_close import LingeringClose
from filestoraged.web.message import Response
from filestoraged.web.response_head import encode_head
from filestoraged.web.sender import Confirmation, WouldWait
from filestoraged.web.states import NEXT_STATE, Event
from filestoraged.wire.body import NO_BODY

log = logging.getLogger(__name__)

# Needed for each request; see `states`.
_RESPONSE, _SENT, _KEEP_ALIVE = Event.RESPONSE, Event.SENT, Event.KEEP_ALIVE


def respond(connection: Connection, response: Response, event: Event = _RESPONSE) -> bool:
    """Begin to send a response; its connection may end with it."""
    request, parsed = connection.request, connection.parsed
    connection.state = NEXT_STATE[connection.state][event]
    connection.response = response
    is_bodiless = request is not None and request.is_bodiless
    connection.position = response.stop if is_bodiless else response.start
    if response.content is None:
        # Before it is sent: a client that has a response finds it counted.
        sent = response.stop - connection.position
        connection.context.record(connection, response.status, response.kind, sent)
    connection.is_closing = (
        response.closes
        or not parsed.keep_alive
        or connection.context.is_draining
        or (parsed.framing is not NO_BODY and not _is_skippable(connection))
    )
    if connection.is_closing:
        field = b"Connection: close\r\n"
    else:
        # The default of HTTP/1.1.
        field = b"" if parsed.speaks_1_1 else b"Connection: keep-alive\r\n"
    connection.sender.begin(encode_head(response, field))
    return send(connection)


def _is_skippable(connection: Connection) -> bool:
    """Whether the body was read, or so little of it is left that reading it costs less than a new connection."""
    framing = connection.parsed.framing
    if framing.done:
        return True
    is_coming = not connection.parsed.expects_continue or (
        connection.request is not None and connection.request.body.is_wanted
    )
    return is_coming and framing.left <= connection.context.limits.drain_bytes


def continue_response(connection: Connection) -> bool:
    """RESPOND: the client has taken a part."""
    if connection.awaits == LOOP:
        # The result came in this round, and then more input, or the end of it: that is read after the response.
        return False
    return flush(connection) if connection.response is None else send(connection)


def send(connection: Connection) -> bool:
    """RESPOND: send as much as the socket takes; on the loop, hold a small response until the end of the round."""
    response = connection.response
    assert response is not None
    if not connection.is_on_thread and (response.on_received is not None or _may_wait(response)):
        # The loop would hold it, and receipt cannot be confirmed before it is sent.
        return connection.hand_over()
    before = connection.position
    if before < response.stop:
        try:
            connection.position = response.send(connection.sender, before)
        except WouldWait:
            return connection.hand_over()
        if connection.position < response.stop:
            return _send_on(connection, response, before)
    elif not connection.sender.flush():
        return connection.wait_writable()
    if response.on_received is not None:
        connection.confirmation = Confirmation(
            connection.sender,
            connection.receiver,
            connection.context.limits.send,
            connection.context.now(),
            is_proxied=connection.is_proxied,
        )
        connection.move(Event.SENT_UNCONFIRMED)
        return True
    return _end_request(connection, response, _SENT)


def _send_on(connection: Connection, response: Response, before: int) -> bool:
    if not _may_wait(response):
        # Threads that wait for other machines may all wait for what this response holds.
        connection.pool = connection.context.pool
    if connection.position > before and connection.is_on_thread:
        return connection.yield_thread()
    return connection.wait_writable()


def _may_wait(response: Response) -> bool:
    return response.content is not None and response.content.may_wait


def _end_request(connection: Connection, response: Response, event: Event) -> bool:
    """Count and forget the request, whose response is sent, or held by the sender."""
    response.close()
    if response.content is not None:
        connection.context.record(connection, response.status, response.kind, connection.sender.sent)
    if connection.is_in_flight:
        connection.end_in_flight()
    # A client that stores objects stores the next one soon. Other requests are the loop's.
    connection.keeps_thread = connection.request is not None and connection.request.method != "GET"
    connection.response = connection.request = None
    now = connection.started = connection.context.now()
    if connection.sender.held:
        # The loop sends the responses of a round at its end.
        connection.awaits = LOOP
        connection.deadline = now + connection.context.limits.send
        connection.context.unsent.append(connection)
        return False
    connection.state = NEXT_STATE[connection.state][event]
    return follow_response(connection)


def flush(connection: Connection) -> bool:
    """RESPOND: send what the sender holds. Called by the loop at the end of the round."""
    if not connection.sender.push():
        return connection.wait_writable()
    if connection.awaits == WRITABLE:
        connection.started = connection.context.now()
    connection.state = NEXT_STATE[connection.state][_SENT]
    return follow_response(connection)


def confirm(connection: Connection) -> bool:
    """CONFIRM: continue when the client's kernel has acknowledged the whole response."""
    response, confirmation = connection.response, connection.confirmation
    assert response is not None and response.on_received is not None and confirmation is not None
    now = connection.context.now()
    if not confirmation.check(now):
        # No event tells when the queue has become empty.
        connection.deadline = now + connection.context.limits.confirm
        return connection.wait()
    connection.confirmation = None
    response.on_received()
    return _end_request(connection, response, Event.CONFIRMED)


def follow_response(connection: Connection) -> bool:
    """NEXT: close, skip the rest of the body, or wait for the next request."""
    if connection.is_closing:
        return _close(connection)
    connection.awaits = READABLE
    connection.deadline = connection.started + connection.context.limits.idle
    framing = connection.parsed.framing
    if framing is not NO_BODY and not framing.done:
        connection.move(Event.UNREAD_BODY)
        return True
    # A connection that waits keeps nothing of its last request in memory.
    connection.parsed = UNPARSED
    connection.state = NEXT_STATE[connection.state][_KEEP_ALIVE]
    if connection.receiver.buffer:
        # A client that does not wait for responses gets a thread, where other connections are served in between.
        return connection.yield_thread() if connection.is_on_thread else connection.hand_over()
    return connection.is_on_thread and connection.keeps_thread and not connection.pool.is_saturated


def skip_body(connection: Connection) -> bool:
    """SKIP: discard the unread body. Receives once at most, as `read_head` does."""
    receiver, framing = connection.receiver, connection.parsed.framing
    if not receiver.buffer and not receiver.receive():
        return connection.wait()
    _, used = framing.decode(memoryview(receiver.buffer))
    receiver.buffer = receiver.buffer[used:]
    if not framing.done:
        return connection.wait()
    connection.parsed = UNPARSED
    connection.move(Event.SKIPPED)
    return bool(receiver.buffer or connection.is_on_thread) or connection.wait()


def _close(connection: Connection) -> bool:
    # A client that asked for the end, and whose every byte was read, closes when it has read the response.
    parsed, connection.parsed = connection.parsed, UNPARSED
    is_read = parsed.framing.done and not connection.receiver.buffer
    if parsed.keep_alive or not is_read:
        try:
            connection.lingering_close = LingeringClose(
                connection.socket, connection.context.limits, connection.context.now
            )
            connection.move(Event.LINGER)
            connection.deadline = connection.lingering_close.deadline
            return connection.wait()
        except OSError as error:
            log.debug("client %s left: %s", connection.client, error)
    connection.move(Event.CLOSE)
    return False


def discard_input(connection: Connection) -> bool:
    """LINGER: discard input until the client closes. Called by the loop."""
    assert connection.lingering_close is not None
    if not connection.lingering_close.discard(connection.context.scratch):
        connection.move(Event.CLOSE)
    connection.deadline = connection.lingering_close.deadline
    return False
