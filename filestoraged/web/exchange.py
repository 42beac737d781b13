"""One request and its response: what a connection has while it serves, and nothing of while it is idle."""

from __future__ import annotations

import functools
import logging
from typing import Any

from filestoraged.errors import ClientGone, Error
from filestoraged.web.loop_context import LoopContext
from filestoraged.web.metrics import FAST, NO_INTERFACE, OTHER
from filestoraged.web.request import Request
from filestoraged.web.request_cache import ParsedRequest
from filestoraged.web.response import Response
from filestoraged.web.sender import Confirmation
from filestoraged.web.task import Task
from filestoraged.wire.body import NO_BODY, Framing
from filestoraged.wire.head import Head

log = logging.getLogger(__name__)

# A head that could not be parsed.
UNPARSED = ParsedRequest(Request(Head("", "", "", (1, 1), {}), 0))


class Exchange:
    """Owned with its connection: by the loop, or the thread that takes the present step.

    Made when a head is complete, or refused. It ends when the response is sent and the body is read or given up.
    """

    __slots__ = (
        "_client_key",
        "client",
        "confirmation",
        "framing",
        "is_closing",
        "is_in_flight",
        "is_inline",
        "keeps_thread",
        "parsed",
        "position",
        "request",
        "response",
        "started",
        "task",
    )

    def __init__(
        self, parsed: ParsedRequest, request: Request | None, framing: Framing, client: str, started: float
    ) -> None:
        """`framing` is that of what still comes of the body; `client` is on whose behalf it is.

        `started` is when its first byte came. No `request` where it is refused.
        """
        self.begin(parsed, request, framing, client, started)
        # The page that runs.
        self.task: Task | None = None
        # The response, and how far it is sent. In the state CONFIRM, whether it has arrived.
        self.response: Response | None = None
        self.position = 0
        self.confirmation: Confirmation | None = None
        # What follows the response: the end, or a thread that waits a moment for the next request.
        self.is_closing = self.keeps_thread = False
        # Whether it counts as in flight: its page runs on a thread, or waits for its body or a result; and as which
        # client's, 0 for none.
        self.is_in_flight = False
        self._client_key = 0

    def begin(
        self, parsed: ParsedRequest, request: Request | None, framing: Framing, client: str, started: float
    ) -> None:
        """Begin, also where it was another one on the loop, which has ended."""
        self.parsed = parsed
        self.request = request
        self.framing = framing
        self.client = client
        self.started = started
        # Whether its page runs on the loop.
        self.is_inline = False

    def begin_in_flight(self, context: LoopContext[Any], *, is_proxied: bool) -> bool:
        """Returns whether the client may have one more; only clients behind a proxy are counted by requests."""
        if self.is_in_flight:
            return True
        self.is_in_flight = True
        context.metrics.add_in_flight(1)
        if is_proxied:
            key = context.admission.enter_client(self.client)
            self._client_key = key or 0
            return key is not None
        return True

    def end_in_flight(self, context: LoopContext[Any]) -> None:
        if self.is_in_flight:
            self.is_in_flight = False
            context.metrics.add_in_flight(-1)
            if self._client_key:
                context.admission.leave_client(self._client_key)
                self._client_key = 0

    def close_task(self) -> None:
        task, self.task = self.task, None
        if task is not None:
            task.close()

    def abandon(self, context: LoopContext[Any], fault: Error | None, sent: int, *, is_on_thread: bool) -> None:
        """Undo what is in flight. Raises nothing.

        `fault` is the failure of the server that ends it, None where the client does; `sent` is as in `record`.
        """
        close_response = functools.partial(self._close_response, context, fault, sent, is_on_thread=is_on_thread)
        for undo in (self.close_task, close_response, functools.partial(self.end_in_flight, context)):
            try:
                undo()
            except Exception:
                log.exception("undoing a request of client %s failed", self.client)

    def _close_response(self, context: LoopContext[Any], fault: Error | None, sent: int, *, is_on_thread: bool) -> None:
        request, response, self.response = self.request, self.response, None
        if response is not None:
            # Behind the last byte, the client may have the whole.
            if fault is not None and response.on_failure is not None and self.position < response.stop:
                response.on_failure()
            response.close()
            if response.content is not None:
                kind = response.kind if fault is None else type(fault).__name__
                self.record(context, response.status, kind, sent, is_on_thread=is_on_thread)
                fault = None
        elif request is not None:
            cause = ClientGone if fault is None else type(fault)
            self.record(context, cause.status, cause.__name__, 0, is_on_thread=is_on_thread)
            fault = None
        if fault is not None:
            # The request was counted when its response was begun.
            context.metrics.count_error(type(fault).__name__)
        self.request = None

    def record(self, context: LoopContext[Any], status: int, kind: str, sent: int, *, is_on_thread: bool) -> None:
        """Log and count the response, or that the client left without one. `sent` is bytes of its body."""
        request = self.request
        seconds = context.now() - self.started
        received = 0 if request is None else request.body.received
        context.access_log.add(self.client, request, status, sent, seconds)
        metrics = context.metrics
        if is_on_thread:
            context.access_log.flush()
            labels = (NO_INTERFACE, OTHER) if request is None or request.labels is None else request.labels
            metrics.count_on_thread(labels, status, kind, received=received, sent=sent, seconds=seconds)
            return
        # The loop flushes and publishes at the end of its round.
        counter = None if request is None else request.counter
        if counter is None:
            if request is None or request.labels is None:
                counter = metrics.loop_counter((NO_INTERFACE, OTHER))
            else:
                # The same for each request with this head.
                counter = request.counter = metrics.loop_counter(request.labels)
        if counter.published:
            metrics.mark_unpublished(counter)
        # Not by a call: a request costs 15 us, and counting it may cost little of that.
        counter.statuses[status] += 1
        counter.sent += sent
        counter.seconds += seconds
        if seconds > FAST or kind or received:
            counter.add_details(received, seconds, kind)


# Of all connections between two requests. Nothing of it is ever changed.
NO_EXCHANGE = Exchange(UNPARSED, None, NO_BODY, "", 0.0)
