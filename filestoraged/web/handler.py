"""One connection: it reads requests, has them answered, and sends the answers, in order.

A handler outlives the thread that serves it. While a connection talks, one thread of the pool owns it; when it
falls silent the handler parks it and the thread goes; the next that picks it up calls `resume`.
"""

from __future__ import annotations

import logging
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Optional

from filestoraged.errors import ClientGone, Error
from filestoraged.web.encoder import CONTINUE
from filestoraged.web.message import Request, Response
from filestoraged.web.receiver import ReceivedBody, Receiver
from filestoraged.web.refusals import refusal
from filestoraged.web.sender import Sender
from filestoraged.wire.framing import body_framing
from filestoraged.wire.head import parse_head

if TYPE_CHECKING:
    from filestoraged.web.server import Server

log = logging.getLogger(__name__)
access = logging.getLogger("filestoraged.access")


class Handler(BaseHTTPRequestHandler):
    """What `http.server` asks of a handler, on a receiver and a sender of our own."""

    server: "Server"

    def setup(self) -> None:
        self.limits = self.server.limits
        if self.request.family != socket.AF_UNIX:
            # An answer in two segments would wait 40 ms for Nagle's algorithm.
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.receiver = Receiver(self.request, self.limits)
        self.sender = Sender(self.request, self.limits.send)
        self.close_connection = False
        # Whether bytes may be on their way that nobody will ask for.
        self.unread = False

    def handle(self) -> None:
        """Serve the connection while it talks; `finish` then sees what becomes of it."""
        try:
            while not self.close_connection and self.receiver.has_next(self._patience()):
                self.handle_one_request()
        except ClientGone as error:
            log.debug("%s: %s", self.address_string(), error)
            self.close_connection, self.unread = True, False
        except Exception:
            # Whatever it was, part of an answer may have gone out: nothing can follow it.
            self.server.handle_error(self.request, self.client_address)
            self.close_connection, self.unread = True, False

    def finish(self) -> None:
        if not self.close_connection:
            self.server.parking.park(self.request, self._on_talk)
        elif self.unread:
            self.server.parking.see_off(self.request)
        else:
            self.request.close()

    def resume(self) -> None:
        """Go on with a connection that was parked. On a thread of the pool."""
        self.handle()
        self.finish()

    def handle_one_request(self) -> None:
        self.started = time.monotonic()
        self.asked: Optional[Request] = None
        self.sender.sent = 0
        try:
            head = parse_head(self.receiver.read_head())
            framing = body_framing(head)
            on_start = self._send_continue if head.expects_continue else None
        except ClientGone:
            raise
        except Error as error:
            # What cannot be read as a request tells nothing of where the next one begins.
            self.close_connection = self.unread = True
            self._send(refusal(error), "Connection: close\r\n")
            return
        self.head = head
        self.body = ReceivedBody(self.receiver, framing, on_start)
        self.asked = Request(head, self.body)
        answer = getattr(self, "do_" + head.method, self.do_other)
        answer()

    def do_GET(self) -> None:
        """Have the page at the request's path answer it, whatever the method."""
        assert self.asked is not None
        try:
            response = self.server.app(self.asked)
        except ClientGone as error:
            self._log_access(error.status)
            raise
        self._decide(response)
        self._send(response, self._connection_field())
        if not self.close_connection:
            self._drain_body()

    # The router knows which methods a path has. HEAD, OPTIONS, TRACE and made-up ones get its 405 too.
    do_POST = do_PUT = do_DELETE = do_other = do_GET

    def address_string(self) -> str:
        return self.client_address[0] if self.client_address else "unix"

    def _patience(self) -> float:
        """How long to wait for the next request before parking. Nobody lingers while others wait for a thread."""
        return 0 if self.server.draining or self.server.pool.crowded else self.limits.next_request

    def _send_continue(self) -> None:
        self.sender.send_now(CONTINUE)

    def _decide(self, response: Response) -> None:
        """Decide whether the connection goes on behind this answer."""
        drainable = self.body.done or (self.body.left <= self.limits.drain_bytes and not self.body.awaits_continue)
        self.close_connection = response.closes or not drainable or not self.head.keep_alive or self.server.draining
        # A client that asked for the end, and whose every byte was read, needs no seeing off.
        self.unread = self.head.keep_alive or not self.body.done or bool(self.receiver.buffer)

    def _connection_field(self) -> str:
        if self.close_connection:
            return "Connection: close\r\n"
        return "" if self.head.version >= (1, 1) else "Connection: keep-alive\r\n"

    def _drain_body(self) -> None:
        """Read the little that a page left unread: cheaper than for the client to connect anew."""
        try:
            for _ in self.body:
                pass
        except Error as error:
            raise ClientGone("The rest of a body did not come.") from error

    def _send(self, response: Response, connection: str) -> None:
        try:
            self.sender.begin(self.server.encoder.head(response, connection))
            if self.asked is None or self.asked.method != "HEAD":
                self._send_body(response)
            self.sender.finish()
        finally:
            response.close()
            self._log_access(response.status)

    def _send_body(self, response: Response) -> None:
        if response.content is None:
            if response.body:
                self.sender.write(response.body)
        elif response.size:
            response.content.send(self.sender, response.start, response.stop)

    def _log_access(self, status: int) -> None:
        if not access.isEnabledFor(logging.INFO):
            return
        asked = self.asked
        access.info(
            "%s %s %s %d %d %.6f",
            self.address_string(),
            asked.method if asked else "-",
            asked.loggable if asked else "-",
            status,
            self.sender.sent,
            time.monotonic() - self.started,
        )

    def _on_talk(self) -> None:
        self.server.pool.submit(self.resume)
