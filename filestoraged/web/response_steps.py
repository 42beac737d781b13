"""The steps of a connection from a response to the next request: the states RESPOND, CONFIRM, NEXT, SKIP and LINGER.

Each function takes the connection as far as it goes, and returns whether the next state's step can be taken at once.
"""

from __future__ import annotations

import logging

from filestoraged.web.connection import Connection
from filestoraged.web.exchange import NO_EXCHANGE, UNPARSED
from filestoraged.web.response import Response, encode_head
from filestoraged.web.sender import Confirmation, WouldWait
from filestoraged.web.states import Event
from filestoraged.web.transport import LOOP, READABLE, WRITABLE, LingeringClose
from filestoraged.wire.body import NO_BODY

log = logging.getLogger(__name__)

# Needed for each request; see `states`.
_RESPONSE, _SENT, _KEEP_ALIVE = Event.RESPONSE, Event.SENT, Event.KEEP_ALIVE


def respond(connection: Connection, response: Response, event: Event = _RESPONSE) -> bool:
    """Begin to send a response; its connection may end with it."""
    exchange = connection.exchange
    request, parsed = exchange.request, exchange.parsed
    connection.move(event)
    exchange.response = response
    is_bodiless = request is not None and request.is_bodiless
    position = exchange.position = response.stop if is_bodiless else response.start
    if response.content is None:
        # Before it is sent: a client that has a response finds it counted.
        sent = response.stop - position
        exchange.record(connection.context, response.status, response.kind, sent, is_on_thread=connection.is_on_thread)
    exchange.is_closing = (
        response.closes
        or not parsed.keep_alive
        or connection.context.is_draining
        or (exchange.framing is not NO_BODY and not _is_skippable(connection))
    )
    if exchange.is_closing:
        field = b"Connection: close\r\n"
    else:
        # The default of HTTP/1.1.
        field = b"" if parsed.request.speaks_1_1 else b"Connection: keep-alive\r\n"
    connection.transport.sender.begin(encode_head(response, field, connection.context.date()))
    return send(connection)


def _is_skippable(connection: Connection) -> bool:
    """Whether the body was read, or so little of it is left that reading it costs less than a new connection."""
    exchange = connection.exchange
    request, framing = exchange.request, exchange.framing
    if framing.done:
        return True
    is_coming = not exchange.parsed.expects_continue or (request is not None and request.body.is_wanted)
    return is_coming and framing.left <= connection.context.limits.drain_bytes


def continue_response(connection: Connection) -> bool:
    """RESPOND: the client has taken a part."""
    if connection.transport.awaits == LOOP:
        # The result came in this round, and then more input, or the end of it: that is read after the response.
        return False
    return flush(connection) if connection.exchange.response is None else send(connection)


def send(connection: Connection) -> bool:
    """RESPOND: send as much as the socket takes; on the loop, hold a small response until the end of the round."""
    exchange, sender = connection.exchange, connection.transport.sender
    response = exchange.response
    assert response is not None
    content, on_received = response.content, response.on_received
    if not connection.is_on_thread and (on_received is not None or (content is not None and content.may_wait)):
        # The loop would hold it, and receipt cannot be confirmed before it is sent.
        return connection.hand_over()
    before = exchange.position
    if before < response.stop:
        try:
            if content is None:
                exchange.position = before + sender.write(memoryview(response.body)[before:])
            else:
                exchange.position = content.send(sender, before, response.stop)
        except WouldWait:
            return connection.hand_over()
        if exchange.position < response.stop:
            return _send_on(connection, response, before)
    elif not sender.flush():
        return connection.wait_writable()
    if on_received is not None:
        limits, now = connection.context.limits, connection.context.now()
        receiver, is_proxied = connection.transport.receiver, connection.is_proxied
        exchange.confirmation = Confirmation(sender, receiver, limits.send, now, is_proxied=is_proxied)
        connection.move(Event.SENT_UNCONFIRMED)
        return True
    return _end_request(connection, response, _SENT)


def _send_on(connection: Connection, response: Response, before: int) -> bool:
    if response.content is None or not response.content.may_wait:
        # Threads that wait for other machines may all wait for what this response holds.
        connection.pool = connection.context.pool
    if connection.exchange.position > before and connection.is_on_thread:
        return connection.yield_thread()
    return connection.wait_writable()


def _end_request(connection: Connection, response: Response, event: Event) -> bool:
    """Count and forget the request, whose response is sent, or held by the sender."""
    exchange, context, transport = connection.exchange, connection.context, connection.transport
    if response.content is not None:
        response.content.close()
        sent = transport.sender.sent
        exchange.record(context, response.status, response.kind, sent, is_on_thread=connection.is_on_thread)
    if exchange.is_in_flight:
        exchange.end_in_flight(context)
    # A client that stores objects stores the next one soon. Other requests are the loop's.
    if connection.is_on_thread:
        exchange.keeps_thread = exchange.request is not None and exchange.request.method != "GET"
    exchange.response = exchange.request = None
    now = connection.since = context.now()
    if transport.sender.held:
        # The loop sends the responses of a round at its end.
        transport.awaits = LOOP
        transport.deadline = now + context.limits.send
        context.unsent.append(connection)
        return False
    connection.move(event)
    return follow_response(connection)


def flush(connection: Connection) -> bool:
    """RESPOND: send what the sender holds. Called by the loop at the end of the round."""
    transport = connection.transport
    if not transport.sender.push():
        return connection.wait_writable()
    if transport.awaits == WRITABLE:
        connection.since = connection.context.now()
    connection.move(_SENT)
    return follow_response(connection)


def confirm(connection: Connection) -> bool:
    """CONFIRM: continue when the client's kernel has acknowledged the whole response."""
    exchange, now = connection.exchange, connection.context.now()
    response, confirmation = exchange.response, exchange.confirmation
    assert response is not None and response.on_received is not None and confirmation is not None
    if not confirmation.check(now):
        # No event tells when the queue has become empty.
        connection.transport.deadline = now + connection.context.limits.confirm
        return connection.wait()
    exchange.confirmation = None
    response.on_received()
    return _end_request(connection, response, Event.CONFIRMED)


def follow_response(connection: Connection) -> bool:
    """NEXT: close, skip the rest of the body, or wait for the next request."""
    exchange, transport = connection.exchange, connection.transport
    if exchange.is_closing:
        return _close(connection)
    transport.awaits = READABLE
    transport.deadline = connection.since + connection.context.limits.idle
    framing = exchange.framing
    if framing is not NO_BODY and not framing.done:
        connection.move(Event.UNREAD_BODY)
        return True
    connection.exchange = NO_EXCHANGE
    if not connection.is_on_thread:
        # Its head may be that of a drop, of which nothing is kept.
        exchange.parsed, exchange.framing = UNPARSED, NO_BODY
        connection.context.spare.append(exchange)
    connection.move(_KEEP_ALIVE)
    if transport.receiver.buffer:
        # A client that does not wait for responses gets a thread, where other connections are served in between.
        return connection.yield_thread() if connection.is_on_thread else connection.hand_over()
    return connection.is_on_thread and exchange.keeps_thread and not connection.pool.is_saturated


def skip_body(connection: Connection) -> bool:
    """SKIP: discard the unread body. Receives once at most, as `read_head` does."""
    receiver, framing = connection.transport.receiver, connection.exchange.framing
    if not receiver.buffer and not receiver.receive():
        return connection.wait()
    _, used = framing.decode(memoryview(receiver.buffer))
    receiver.buffer = receiver.buffer[used:]
    if not framing.done:
        return connection.wait()
    connection.exchange = NO_EXCHANGE
    connection.move(Event.SKIPPED)
    return bool(receiver.buffer or connection.is_on_thread) or connection.wait()


def _close(connection: Connection) -> bool:
    # A client that asked for the end, and whose every byte was read, closes when it has read the response.
    exchange, transport = connection.exchange, connection.transport
    connection.exchange = NO_EXCHANGE
    is_read = exchange.framing.done and not transport.receiver.buffer
    if exchange.parsed.keep_alive or not is_read:
        context = connection.context
        try:
            closing = connection.lingering_close = LingeringClose(transport.socket, context.limits, context.now)
        except OSError as error:
            log.debug("client %s left: %s", connection.client, error)
        else:
            connection.move(Event.LINGER)
            transport.deadline = closing.deadline
            return connection.wait()
    connection.move(Event.CLOSE)
    return False


def discard_input(connection: Connection) -> bool:
    """LINGER: discard input until the client closes. Called by the loop."""
    assert connection.lingering_close is not None
    if not connection.lingering_close.discard(connection.context.scratch):
        connection.move(Event.CLOSE)
    connection.transport.deadline = connection.lingering_close.deadline
    return False
