"""Answers: how one is sent on a connection, and counted, and what shows that it has come."""

from __future__ import annotations

import time

from filestoraged.errors import ClientGone
from filestoraged.web.connection import SIGN, TALK, Connection
from filestoraged.web.message import Request, Response
from filestoraged.web.response_head import encode_head
from filestoraged.web.sender import WouldWait
from filestoraged.wire.body import NO_BODY, Framing

# How often it is looked whether the last bytes of an answer have come, in seconds.
_LOOK = 0.1


class Answering(Connection):
    """The steps from an answer to the next request. A subclass reads requests."""

    __slots__ = (
        "asked",
        "client_key",
        "close_connection",
        "expects_continue",
        "framing",
        "keep_alive",
        "lingers",
        "position",
        "received",
        "response",
        "speaks_1_1",
        "started",
        "under_way",
        "unread_since",
    )

    def setup(self) -> None:
        super().setup()
        # What was asked, and in which way.
        self.asked: Request | None = None
        self.framing: Framing = NO_BODY
        self.expects_continue = False
        self.keep_alive = self.speaks_1_1 = True
        # Bytes of its body that have come.
        self.received = 0
        # What is being sent.
        self.response: Response | None = None
        # Whether the connection ends with it.
        self.close_connection = False
        # Whether it is counted among those under way: what is answered at once is not.
        self.under_way = False
        # What it is counted by among the requests of its client, where a proxy has sent it; 0 where it is not.
        self.client_key = 0
        # Whether a thread waits for the next request.
        self.lingers = False
        self.started = time.monotonic()

    def abandon(self) -> None:
        try:
            if self.response is not None:
                self.response.close()
                if self.response.content is not None:
                    self.server.note(self, self.response.status, self.response.kind, self.sender.sent, time.monotonic())
            elif self.asked is not None:
                self.server.note(self, ClientGone.status, ClientGone.__name__, 0, time.monotonic())
        finally:
            self._end_way()
            super().abandon()

    def answer(self, response: Response) -> bool:
        """Send an answer to what was asked."""
        self.response = response
        # An answer to HEAD has no body, whatever its head says.
        is_bodiless = self.asked is not None and self.asked.method == "HEAD"
        self.position = response.stop if is_bodiless else response.start
        if response.content is None:
            # Before it goes out: whoever has an answer finds it counted.
            self.server.note(self, response.status, response.kind, response.stop - self.position, time.monotonic())
        self._decide(response)
        self.sender.begin(encode_head(response, self._connection_field()))
        self.step = Answering._send
        return self._send()

    def _send(self) -> bool:
        response = self.response
        assert response is not None
        if response.on_received is not None and not self.on_thread:
            # The loop would hold it, and whether it is received is not known before it is sent.
            return self.hand_over(Answering._send)
        before = self.position
        if before < response.stop:
            try:
                self.position = response.send(self.sender, before)
            except WouldWait:
                return self.hand_over(Answering._send)
            if self.position < response.stop:
                # Sending waits for no other machine; and those who do may all wait for what this answer holds.
                self.pool = self.server.pool
                if self.position > before and self.on_thread:
                    return self.take_turns()
                return self.await_room()
        elif not self.sender.flush():
            return self.await_room()
        return self._end_sending(response)

    def _end_sending(self, response: Response) -> bool:
        if response.on_received is None:
            return self._end_request(response)
        self.unread, self.unread_since = self.sender.unread, time.monotonic()
        self.step = Answering._await_receipt
        return True

    def _await_receipt(self) -> bool:
        """Go on when the client's side has taken all of the answer: what was only sent may still get lost."""
        response = self.response
        assert response is not None and response.on_received is not None
        unread, now = self.sender.unread, time.monotonic()
        # In this order: a peer that dies sets the error of a Unix socket first, and then empties its queue.
        if self.receiver.is_broken:
            raise ClientGone("The client hung up.")
        if not unread:
            response.on_received()
            return self._end_request(response)
        if unread < self.unread:
            self.unread, self.unread_since = unread, now
        elif now - self.unread_since > self.limits.send:
            raise ClientGone("The client takes nothing any more.")
        # Nothing tells when it has, so it is looked at now and then; and when the client goes on or hangs up.
        return self.await_(SIGN, _LOOK, Answering._await_receipt)

    def _end_request(self, response: Response) -> bool:
        response.close()
        ended = time.monotonic()
        if response.content is not None:
            self.server.note(self, response.status, response.kind, self.sender.sent, ended)
        if self.under_way:
            self._end_way()
        # Who stores something goes on storing. Other requests are the loop's, even if this one was not.
        self.lingers = self.asked is not None and self.asked.method != "GET"
        self.response = self.asked = None
        self.received = 0
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
        self.step = Answering._push
        self.go_on_loop()

    def _push(self) -> bool:
        if not self.sender.push():
            return self.await_room()
        if self.awaits != TALK:
            self._await_request(time.monotonic())
        return self._follow()

    def begin_way(self) -> None:
        if not self.under_way:
            self.under_way = True
            self.server.meter.begin()

    def _end_way(self) -> None:
        if self.under_way:
            self.under_way = False
            self.server.meter.end()
            if self.client_key:
                self.server.admission.leave_client(self.client_key)
                self.client_key = 0

    def _await_request(self, now: float) -> None:
        """Have another request be what is awaited next."""
        raise NotImplementedError

    def _follow(self) -> bool:
        """Go on behind an answer."""
        raise NotImplementedError

    def _decide(self, response: Response) -> None:
        """Decide whether the connection goes on behind this answer."""
        framing = self.framing
        drainable = framing.done or (framing.left <= self.limits.drain_bytes and not self.expects_continue)
        self.close_connection = response.closes or not drainable or not self.keep_alive or self.server.draining

    def _connection_field(self) -> str:
        if self.close_connection:
            return "Connection: close\r\n"
        # HTTP/1.1 goes on unless told otherwise.
        return "" if self.speaks_1_1 else "Connection: keep-alive\r\n"
