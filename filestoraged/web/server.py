"""A worker's server: `http.server`'s, with one loop that watches all its sockets, and pools of threads beside it.

The loop accepts, reads heads and answers what cannot block; see `connection`. It waits for nothing but the next event.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from http.server import ThreadingHTTPServer
from typing import Any

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error
from filestoraged.web.acceptor import Acceptor, prepare_listener, set_options
from filestoraged.web.admission import Admission, Place
from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection import Connection
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.drain import Drain
from filestoraged.web.eviction import Eviction, excess_readers
from filestoraged.web.handler import Handler
from filestoraged.web.limits import Limits
from filestoraged.web.loop_context import LoopContext
from filestoraged.web.metrics import Metrics
from filestoraged.web.poller import Epoll, Poller
from filestoraged.web.sites import App, Site, Sites
from filestoraged.web.steps import STEPS
from filestoraged.web.transport import Transport
from filestoraged.web.trusted_proxies import TrustedProxies

log = logging.getLogger(__name__)

# Running out of these is no reason to stop, nor to spin: connections that end give them back.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# Seconds between two warnings about either in the log.
_QUIET = 10.0

# Seconds after which a thread has given a connection that waits to the poller.
_SETTLED = 0.01

# Events that are handled before responses are sent.
_ROUND = 64


class Server(ThreadingHTTPServer):
    """Serves bound and listening sockets.

    `serve_forever` runs on one thread; `drain` and `shutdown` are called by another, and `server_close` behind them.
    """

    # Of the connection that was accepted last.
    refusal: Error | None = None
    _has_accepted = False
    _must_stop = False
    _next_check = 0.0

    def __init__(
        self,
        apps: Mapping[socket.socket, App],
        *,
        threads: int,
        limits: Limits,
        connection_limit: ConnectionLimit,
        metrics: Metrics,
        proxies: TrustedProxies | None = None,
        clients: ClientLimit | None = None,
        reserved: Collection[socket.socket] = (),
        clock: Clock = SYSTEM_CLOCK,
        epoll: Epoll | None = None,
        transport: Callable[[socket.socket], Transport] = Transport,
    ) -> None:
        """`apps` are what answers, by listener. Connections to `reserved` listeners have places of their own."""
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        # The listener that has a connection to accept; `socketserver` accepts from here.
        self.socket = next(iter(apps))
        self._sites = Sites(apps, limits.request_cache_bytes)
        self._limits = limits
        self._connection_limit = connection_limit
        poller: Poller[Connection] = Poller(epoll)
        admission = Admission(connection_limit, clients, proxies, Eviction(poller, clock.now), reserved=reserved)
        self.context = LoopContext(STEPS, limits, poller, admission, metrics=metrics, clock=clock, threads=threads)
        for listener in apps:
            prepare_listener(listener, limits.linger)
        # Listeners whose connections have inherited the options.
        self._inherited: set[socket.socket] = set()
        self._poll, self._find = poller.poll, poller.find
        self.make_transport = transport
        self._drain = Drain(self.context)
        self._has_started = threading.Event()
        self._has_ended = threading.Event()
        # When each message was logged last.
        self._warned: dict[str, float] = {}
        self._acceptor = Acceptor(
            list(apps), poller, connection_limit, self._accept, lambda: admission.has_place, reserved=reserved
        )

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Accept and serve until drained. The interval is that of the limits."""
        self._has_started.set()
        context = self.context
        try:
            while not self._must_stop:
                self.run_round(self._limits.notice)
            for connection in context.poller.all():
                connection.cut_off()
        finally:
            self._has_ended.set()

    def run_round(self, timeout: float) -> None:
        """Handle what the kernel reports within `timeout` seconds, and the checks that are due. Raises nothing."""
        find = self._find
        try:
            try:
                for descriptor, _ in self._poll(timeout, _ROUND):
                    connection = find(descriptor)
                    if connection is None:
                        self._on_event(descriptor)
                    else:
                        connection.on_event()
                if self.context.now() >= self._next_check:
                    self.service_actions()
            finally:
                # Last: responses are sent before the next event of the same connection. And whatever failed: they are
                # for others.
                self._end_round()
        except Exception:
            log.exception("a round of the server's loop failed")

    def drain(self, timeout: float, on_not_accepting: Callable[[], None] = lambda: None) -> bool:
        """Stop accepting, finish the requests in flight, and stop the loop, which runs or is about to run.

        The loop calls `on_not_accepting` once, when no further connection is accepted. Returns whether all took at most
        `timeout` seconds.
        """
        self.begin_drain(timeout, on_not_accepting)
        self._has_ended.wait()
        return self._drain.is_complete

    def begin_drain(self, timeout: float, on_not_accepting: Callable[[], None] = lambda: None) -> None:
        """Let the loop do what `drain` waits for."""
        self._drain.begin(timeout, on_not_accepting)
        self._next_check = 0.0
        self.context.completions.wake()

    def shutdown(self) -> None:
        """Stop the loop, and return when it has ended. What is in flight is cut off; `drain` finishes it.

        Where the loop was not started, it returns at once, and `serve_forever` ends with its first round.
        """
        self._must_stop = True
        self.context.completions.wake()
        if self._has_started.is_set():
            self._has_ended.wait()

    def server_close(self) -> None:
        """Close the listeners, and the descriptors of the loop, which has ended or was never started."""
        self._acceptor.close()
        for pool in (self.context.pool, self.context.remote_pool):
            pool.close()
        self.context.poller.close()
        self.context.completions.close()

    def service_actions(self) -> None:
        """Every `limits.notice` seconds: deadlines, threads that could not be started, and the drain."""
        context = self.context
        now = self.context.now()
        self._next_check = now + self._limits.notice
        context.metrics.beat(self._connection_limit.own, len(context.poller.all()))
        for connection in context.poller.overdue(now):
            connection.on_deadline()
        self._cut_off_slow_readers(now)
        if context.completions.has_completed:
            # Waking the loop for them has failed.
            self._complete()
        for pool in (context.pool, context.remote_pool):
            for connection in pool.check(now):
                connection.on_no_thread()
        if context.is_draining:
            self._acceptor.close()
            self._must_stop = self._drain.is_over(now)
            return
        context.admission.eviction.forget()
        self._acceptor.check()

    # What `socketserver` calls for a new connection, in this order.

    def get_request(self) -> tuple[socket.socket, Any]:
        admission = self.context.admission
        place = admission.reserve(self.socket)
        if place is Place.NONE and self._acceptor.leave_to_others(self.socket):
            raise BlockingIOError
        try:
            connection, address = self.socket.accept()
            # Over a Unix socket, nothing is inherited, and there is no address.
            if not address or self.socket not in self._inherited:
                set_options(connection, self._limits.linger)
        except OSError as error:
            admission.give_back(place)
            if isinstance(error, BlockingIOError):
                # Those that came before the listener had them, such as the one that systemd starts the daemon for, are
                # accepted.
                self._inherited.add(self.socket)
            if error.errno in _EXHAUSTED:
                self._warn("cannot accept connections for now: %s", error.strerror)
                self._acceptor.on_exhausted()
            raise
        self._has_accepted = True
        client = address[0] if address else None
        self.refusal = admission.enter(connection, client, place)
        if place is Place.NONE:
            self._warn("turning connections away: %d are open, and none is idle", self._connection_limit.count)
        elif self.refusal is not None:
            self._warn("refusing connections of %s: it has %d", client, admission.client_limit)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """On the loop: a handler starts no thread, and returns at once."""
        self.finish_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self.context.release(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("cannot begin a connection of %s", client_address or "a Unix socket")

    def find_site(self, connection: socket.socket) -> Site:
        """The site of the connection that was accepted last."""
        return self._sites.site_of(self.socket, connection)

    # The rest is called by the loop alone.

    def _on_event(self, descriptor: int) -> None:
        if descriptor == self.context.completions.descriptor:
            self._complete()
        else:
            self._acceptor.on_event(descriptor)

    def _complete(self) -> None:
        for connection in self.context.completions.pop_completed():
            connection.on_result()

    def _accept(self, listener: socket.socket) -> bool:
        """Accept a connection and start it. Returns whether there was one."""
        self.socket = listener
        self._has_accepted = False
        # The step of `serve_forever` that accepts one connection; its hooks are above.
        self._handle_request_noblock()  # type: ignore[attr-defined]
        return self._has_accepted

    def _end_round(self) -> None:
        """Send the responses of a round as one batch: clients that share a process are woken once."""
        context = self.context
        # Before they are sent: a client that has a response finds it counted.
        context.metrics.publish()
        unsent, context.unsent = context.unsent, []
        for connection in unsent:
            connection.flush()
        context.access_log.flush()
        if context.admission.refused:
            # Behind their responses.
            self._cut_off_refused()
        acceptor = self._acceptor
        if (acceptor.is_paused or acceptor.is_full) and not context.is_draining:
            # Behind the responses: a connection that has got one is idle.
            acceptor.end_round()

    def _cut_off_refused(self) -> None:
        """Keep refused connections within their limit: a client that does not close may take 30 s."""
        for refused in self.context.admission.excess_refused():
            connection = self.context.poller.find(refused.fileno())
            if connection is not None:
                connection.cut_off()

    def _cut_off_slow_readers(self, now: float) -> None:
        """Keep responses in memory within their limit."""
        # Not those that a thread is giving to the poller at this moment.
        latest = now + self._limits.send - _SETTLED
        waiting = [each for each in self.context.poller.all() if each.unread and each.transport.deadline < latest]
        slow = excess_readers(waiting, self._limits.unread_bytes)
        if slow:
            size = self._limits.unread_bytes
            self._warn("cutting slow clients off: more than %d bytes of responses are unread", size)
        for connection in slow:
            connection.cut_off()

    def _warn(self, message: str, *values: object) -> None:
        now = self.context.now()
        if now - self._warned.get(message, -math.inf) >= _QUIET:
            log.warning(message, *values)
            self._warned[message] = now
