"""A worker's server: `http.server`'s, with one loop that watches all its sockets and a pool of threads beside it.

The loop accepts, reads heads and answers what needs no waiting; see `handler`. It waits for nothing but the next event.
"""

from __future__ import annotations

import errno
import logging
import math
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping
from http.server import ThreadingHTTPServer
from typing import Any

from filestoraged.web.acceptor import Acceptor, prepare, set_timeouts
from filestoraged.web.access_log import AccessLog
from filestoraged.web.admission import Admission, AdmissionResult
from filestoraged.web.answering import Answering
from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.completion_queue import CompletionQueue
from filestoraged.web.connection import Connection
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.counters import FAST
from filestoraged.web.eviction import Eviction
from filestoraged.web.handler import Handler
from filestoraged.web.limits import Limits
from filestoraged.web.message import App, Request
from filestoraged.web.metrics import NOWHERE, OTHER, Line, Metrics
from filestoraged.web.poller import Poller
from filestoraged.web.pool import Pool
from filestoraged.web.sites import Site, Sites
from filestoraged.web.trusted_proxies import TrustedProxies

log = logging.getLogger(__name__)

# Running out of these is no reason to stop, nor to spin: connections that end give them back.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# Seconds between two lines about either in the log.
_QUIET = 10.0

# How long those who were answered while they sent may go on reading, when all else is done, in seconds.
_FAREWELL = 1.0

# Events that are handled before their answers go out.
_ROUND = 64

# What the loop reads into what nobody wants.
_SCRATCH = 64 * 1024


class Server(ThreadingHTTPServer):
    """Serves bound and listening sockets. `serve_forever` runs on one thread; `drain` is called by another."""

    def __init__(
        self,
        apps: Mapping[socket.socket, App],
        *,
        threads: int,
        limits: Limits,
        room: ConnectionLimit,
        meter: Metrics,
        proxies: TrustedProxies | None = None,
        clients: ClientLimit | None = None,
        reserved: Collection[socket.socket] = (),
    ) -> None:
        """`apps` has who answers, by the listener that a request comes by.

        Connections by the `reserved` ones have places of their own. Without `clients`, one may have all the others.
        """
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        # The one that has a connection to accept, and what is there.
        self.socket = next(iter(apps))
        self._sites = Sites(apps)
        self.limits = limits
        self.room = room
        self.meter = meter
        self.proxies = proxies or TrustedProxies()
        self.clients = clients or ClientLimit(room.limit, room.limit)
        self.pool: Pool[Connection] = Pool(threads, idle=limits.thread, patience=limits.no_thread)
        # For requests that wait for other machines.
        self.remote_pool: Pool[Connection] = Pool(threads, idle=limits.thread, patience=limits.no_thread)
        self.parking = Poller()
        self.wakes = CompletionQueue()
        self.parking.watch(self.wakes.bell, select.EPOLLIN)
        self.scratch = memoryview(bytearray(_SCRATCH))
        self.draining = False
        # Connections that have an answer to send at the end of the round.
        self.outbox: list[Answering] = []
        self._access = AccessLog()
        self._drain_end = self._rest_end = math.inf
        self._finished = False
        self._drained = threading.Event()
        self._next_check = 0.0
        self._accepted = False
        # What becomes of the connection that is coming in.
        self.verdict = AdmissionResult.WELCOME
        # Whether idle connections are to be looked for at the end of the round.
        self._looks_for_idle = False
        # Those that wait for a place, in their order.
        self.newcomers: deque[Handler] = deque()
        # Connections to reserved listeners.
        apart: set[socket.socket] = set()
        self._eviction = Eviction(self.parking, room, limits.idle, apart)
        self.admission = Admission(room, self.clients, self.proxies, self._eviction, reserved=reserved, apart=apart)
        self._warned = -_QUIET
        for listener in apps:
            prepare(listener, limits.linger)
        self._door = Acceptor(list(apps), self.parking, room, self._accept, self._eviction.give_way)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept and serve until drained."""
        poll, find = self.parking.poll, self.parking.find
        while not self._drained.is_set():
            try:
                try:
                    for descriptor, _ in poll(self.limits.notice, _ROUND):
                        connection = find(descriptor)
                        if connection is None:
                            self._on_event(descriptor)
                        else:
                            connection.go_on_loop()
                    if time.monotonic() >= self._next_check:
                        self.service_actions()
                finally:
                    # Last of all: what is answered in a round is sent before the next event of the same connection.
                    # And whatever failed: those answers are of others.
                    self._send_answers()
            except Exception:
                log.exception("a round of the server's loop failed")
        self._end()

    def _on_event(self, descriptor: int) -> None:
        if descriptor == self.wakes.bell:
            self._wake()
        else:
            self._door.on_event(descriptor)

    def _wake(self) -> None:
        for connection in self.wakes.take():
            connection.wake()

    def _send_answers(self) -> None:
        """Send all answers of a round in a row, which wakes clients that wait together once and not each by itself."""
        if self.newcomers:
            self._seat_newcomers()
        # Before they go out: whoever has an answer finds it counted.
        self.meter.publish()
        outbox, self.outbox = self.outbox, []
        for connection in outbox:
            connection.push()
        self._access.flush()
        if not self.draining:
            self._door.end_round()
        if self._looks_for_idle:
            # Behind the answers: who has got one is idle.
            self._looks_for_idle = False
            self._eviction.look()

    def service_actions(self) -> None:
        """What is to be done every now and then: see whose time is over, and whether all is done."""
        now = time.monotonic()
        self._next_check = now + self.limits.notice
        self.meter.beat(self.room.own, len(self.parking.all()))
        for connection in self.parking.overdue(now):
            connection.give_up()
        if self.wakes.waiting:
            # Ringing for them has failed.
            self._wake()
        for pool in (self.pool, self.remote_pool):
            for connection in pool.retry(now):
                connection.go_without_thread()
        if self.draining:
            self._drain(now)
            return
        self._looks_for_idle = True
        for newcomer in self.newcomers:
            # Not a moment after it came, when another worker was asked already: that would cost two their places.
            if now - newcomer.started >= self.limits.notice:
                self._eviction.ask()
        self._door.look_around()

    def drain(self, timeout: float) -> bool:
        """Accept nothing more, and finish what is under way. Returns whether that took at most `timeout` seconds."""
        now = time.monotonic()
        self._drain_end = now + timeout
        self._rest_end = now + self.limits.last_call
        self.draining = True
        self._next_check = 0.0
        self.wakes.ring()
        self._drained.wait()
        # Not by the loop: it may be at its end before it was rung for.
        self.wakes.close()
        return self._finished

    # What `socketserver` asks on the way of a new connection, in this order.

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, address = self.socket.accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._run_out(error)
            raise
        if not address:
            # Over TCP, it has these from its listener.
            set_timeouts(connection, self.limits.linger)
        self._accepted = True
        self.verdict = self.admission.enter(connection, address[0] if address else None, self.socket)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room, if only to be told that there is none."""
        if self.verdict is AdmissionResult.CLIENT_FULL:
            self._warn("refusing connections of %s: it has %d", client_address[0], self.clients.limit)
        elif self.verdict is AdmissionResult.CLOSED:
            self._warn("closing connections without an answer: %d are open", self.room.count)
        return self.verdict is not AdmissionResult.CLOSED

    def process_request(self, request: Any, client_address: Any) -> None:
        self.finish_request(request, client_address)

    def close_request(self, request: Any) -> None:
        try:
            request.close()
        except OSError:
            self.handle_error(request, None)
        finally:
            self.admission.leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("a connection of %s failed", client_address or "a Unix socket")

    # What handlers ask.

    def find_site(self, connection: socket.socket) -> Site:
        """What the connection that is coming in has come to."""
        return self._sites.find(self.socket, connection)

    def note(self, handler: Answering, status: int, kind: str, sent: int, ended: float) -> None:
        """Log and count a request that was answered, with so many bytes of a body."""
        asked = handler.asked
        seconds = ended - handler.started
        self._access.note(handler.client, asked, status, sent, seconds)
        if handler.on_thread:
            self._access.flush()
            self.meter.note_on_thread(_line(asked), status, kind, received=handler.received, sent=sent, seconds=seconds)
            return
        # The loop flushes and publishes at the end of its round.
        tally = None if asked is None else asked.tally
        if tally is None:
            tally = self.meter.on_loop(_line(asked))
            if asked is not None:
                # It is the same whenever that is asked again.
                asked.tally = tally
        if tally.published:
            self.meter.expect(tally)
        # Not by a call: a request costs 15 us, and counting it may cost little of that.
        tally.statuses[status] += 1
        tally.sent += sent
        tally.seconds += seconds
        if seconds > FAST or kind or handler.received:
            tally.note_more(handler.received, seconds, kind)

    # The rest is for the loop alone.

    def _accept(self, listener: socket.socket) -> bool:
        """Take a connection and begin to serve it. Returns whether there was one."""
        self.socket = listener
        self._accepted = False
        # The step of `serve_forever` that takes one connection; its hooks are above.
        self._handle_request_noblock()  # type: ignore[attr-defined]
        return self._accepted

    def _seat_newcomers(self) -> None:
        """Give those that wait a place where there is one by now; turn those away that have waited for too long."""
        overdue = time.monotonic() - self.limits.place
        while self.newcomers:
            first = self.newcomers[0]
            if not self.draining and self.admission.seat(first.request):
                self.newcomers.popleft().welcome()
            elif self.draining or first.started <= overdue:
                self._seat_at_last(self.newcomers.popleft())
            else:
                return

    def _seat_at_last(self, newcomer: Handler) -> None:
        if not self.draining and self.admission.seat_at_last(newcomer.request):
            newcomer.welcome()
            return
        self._warn("turning connections away: %d are open, and none is idle", self.room.count)
        newcomer.turn_away()

    def _run_out(self, error: OSError) -> None:
        self._warn("cannot accept connections for now: %s", error.strerror)
        self._door.stand_back()

    def _warn(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if now - self._warned >= _QUIET:
            log.warning(message, *values)
            self._warned = now

    def _drain(self, now: float) -> None:
        """Let go of connections that rest, and see whether any other is left."""
        self._door.close()
        for connection in self.parking.all():
            if connection.idle and now >= self._rest_end:
                connection.give_up()
        left = self.parking.all()
        busy = self.pool.busy or self.remote_pool.busy or self.wakes.expected
        if busy or not all(connection.seen_off for connection in left):
            over = now >= self._drain_end
        else:
            self._finished = True
            self._drain_end = min(self._drain_end, now + _FAREWELL)
            over = not left or now >= self._drain_end
        if over:
            self._drained.set()

    def _end(self) -> None:
        for connection in self.parking.all():
            connection.cut_off()
        self.parking.close()


def _line(asked: Request | None) -> Line:
    """What a request is counted as, also one that could not be read."""
    return (NOWHERE, OTHER) if asked is None or asked.line is None else asked.line
