"""One connection: who has it, what it waits for, and how it ends. What is said on it is `handler`'s business.

It goes on in steps, each as far as the bytes reach. What a step then waits for is parked, so that a slow client costs
no thread, whether it sends or reads. The server's loop takes the steps that cannot wait; one that may (an upload, a
large file, a disk that has to be asked) is taken by a thread of the pool. Never by both at once.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from filestoraged.errors import ClientGone
from filestoraged.web.receiver import DONT_WAIT, Receiver
from filestoraged.web.sender import Sender
from filestoraged.web.trusted_proxies import UNIX

if TYPE_CHECKING:
    from filestoraged.web.server import Server

log = logging.getLogger(__name__)

# What a connection may await: bytes, or room for them.
TALK = select.EPOLLIN
ROOM = select.EPOLLOUT
# Or any sign of the other side, once.
SIGN = select.EPOLLIN | select.EPOLLET

# Takes a connection on, as far as it goes. Returns whether the next step can be taken at once. They are kept as plain
# functions: a method bound to its own connection would keep it alive.
Step = Callable[[Any], bool]


class Connection(BaseHTTPRequestHandler):
    """What `http.server` asks of a handler, but for the requests themselves. A subclass has the first step."""

    # Ten thousand of them may rest, and a dictionary would take 300 bytes to 1.5 KiB of each.
    __slots__ = (
        "awaits",
        "client",
        "client_address",
        "deadline",
        "farewell_end",
        "farewell_left",
        "fileno",
        "held",
        "is_proxied",
        "limits",
        "on_overdue",
        "on_result",
        "on_thread",
        "over",
        "pool",
        "receiver",
        "request",
        "result",
        "sender",
        "sending",
        "server",
        "step",
        "unread",
        "watched",
    )

    server: Server
    step: Step
    # What is awaited: epoll's events; with none, before the end, it is a thread. Until when, on the monotonic clock;
    # and the step to take then.
    awaits: int
    deadline: float
    on_overdue: Step
    on_result: Step

    def setup(self) -> None:
        # Who the client is: the other side, but for what a trusted proxy says of each request.
        self.client = self.peer
        self.is_proxied = self.server.proxies.trust(self.client)
        self.limits = self.server.limits
        self.receiver = Receiver(self.request)
        self.sender = Sender(self.request)
        self.fileno = self.request.fileno
        # Where it finds a thread.
        self.pool = self.server.pool
        # Whether a thread has it that may wait.
        self.on_thread = False
        # Whether the loop goes on with it by itself: at the end of its round, or when there is a result.
        self.held = False
        self.result: Future[Any] | None = None
        # Whether it is at its end.
        self.over = False
        # What it is watched for; see `parking`.
        self.watched = 0

    def handle(self) -> None:
        """Go on until something has to be waited for; `finish` then sees to that. Raises nothing."""
        try:
            while self.step(self):
                pass
        except ClientGone as error:
            log.debug("%s: %s", self.address_string(), error)
            self._end_early()
        except Exception:
            # Whatever it was, part of an answer may have gone out: nothing can follow it.
            self.server.handle_error(self.request, self.client_address)
            self._end_early()

    def finish(self) -> None:
        """Hand the connection to what it waits for, or close it. Raises nothing: others of the round come next."""
        try:
            if self.held:
                if self.result is not None:
                    result, self.result = self.result, None
                    self.server.wakes.expect(self, result)
                return
            if not self.over:
                if self.awaits:
                    self.server.parking.park(self)
                else:
                    self.server.parking.take(self)
                    self.pool.submit(self)
                return
            self.server.parking.take(self)
        except Exception:
            # The kernel may watch no more of them. Nothing would go on with this one.
            self.server.handle_error(self.request, self.client_address)
            if not self.over:
                self._end_early()
            self.server.parking.forget(self)
        self.server.close_request(self.request)

    def _end_early(self) -> None:
        """End the connection, even where undoing what is in flight fails: else it would keep its place for ever."""
        try:
            self.abandon()
        except Exception:
            self.server.handle_error(self.request, self.client_address)
        self.held = False
        self.over = True

    def go_on_loop(self) -> None:
        """Go on because what was awaited has come. On the server's loop."""
        self.handle()
        self.finish()

    def go_on_thread(self) -> None:
        """Go on where the loop could not. On a thread of the pool, which lingers unless others wait for one."""
        self.on_thread = True
        self.receiver.flags = DONT_WAIT if self.pool.crowded else 0
        self.sender.send_at_once(self.receiver.flags)
        self.handle()
        self.on_thread = False
        self.receiver.flags = DONT_WAIT
        self.sender.hold()
        self.finish()

    def wake(self) -> None:
        """Go on because there is a result. On the server's loop."""
        self.held = False
        self.step = self.on_result
        self.go_on_loop()

    def give_up(self) -> None:
        """Go on without what was awaited: it has not come in time. On the server's loop."""
        self.step = self.on_overdue
        self.go_on_loop()

    def end_idle(self) -> None:
        """Close an idle connection because another one needs its place. On the server's loop."""
        self.step = Connection.leave
        self.go_on_loop()

    def cut_off(self) -> None:
        """Close the connection, whatever is in flight. On the server's loop."""
        self._end_early()
        self.finish()

    def go_without_thread(self) -> None:
        """Go on where it waited for a thread and none could be started. On the server's loop."""
        self.step = type(self).refuse_without_thread
        self.go_on_loop()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        raise NotImplementedError

    @property
    def seen_off(self) -> bool:
        """Whether all is said, and it is only read on."""
        return self.step is Connection._read_on

    @property
    def peer(self) -> str:
        """The address of the other side."""
        return self.client_address[0] if self.client_address else UNIX

    def address_string(self) -> str:
        return self.client

    def abandon(self) -> None:
        """Undo what is under way: the client is gone, or as good as that."""
        self.leave()

    def refuse_without_thread(self) -> bool:
        """The step of a connection that no thread could be started for."""
        raise NotImplementedError

    # Ends of steps: each returns what the step then returns.

    def await_(self, events: int, timeout: float, on_overdue: Step) -> bool:
        self.awaits = events
        self.deadline = time.monotonic() + timeout
        self.on_overdue = on_overdue
        return False

    def await_room(self) -> bool:
        """Go on with the same step when the client has taken a good deal of what it was sent."""
        self.unread = self.sender.unread
        self.sending = self.step
        return self.await_(ROOM, self.limits.send, Connection._cut_off)

    def await_result(self, result: Future[Any], step: Step) -> bool:
        """Go on with `step` when there is a result. What the client says meanwhile waits."""
        self.held = True
        self.result = result
        self.on_result = step
        self.deadline = math.inf
        self.step = Connection._let_wait
        return False

    def hand_over(self, step: Step) -> bool:
        """Have a thread of the pool take `step`."""
        self.step = step
        self.awaits = 0
        return False

    def take_turns(self) -> bool:
        """Go on, unless others wait for the thread: then behind them."""
        if not self.pool.crowded:
            return True
        self.awaits = 0
        return False

    def see_off(self) -> bool:
        """Half-close the connection and read it on, because the client may still be sending.

        Closing a socket with unread bytes resets it, and takes the answer along.
        """
        try:
            self.request.shutdown(socket.SHUT_WR)
        except OSError:
            return self.leave()
        self.farewell_left = self.limits.farewell_bytes
        self.farewell_end = time.monotonic() + self.limits.farewell_total
        self.step = Connection._read_on
        return self.await_(TALK, self.limits.farewell, Connection.leave)

    def leave(self) -> bool:
        self.over = True
        return False

    def _let_wait(self) -> bool:
        """The client said something before it was answered. On the server's loop."""
        self.server.parking.take(self)
        return False

    def _read_on(self) -> bool:
        """Drop what a client still sends that has got its answer. On the server's loop."""
        try:
            received = self.request.recv_into(self.server.scratch, 0, DONT_WAIT)
        except BlockingIOError:
            return False
        except OSError:
            received = 0
        self.farewell_left -= received
        if not received or self.farewell_left <= 0:
            return self.leave()
        self.deadline = min(time.monotonic() + self.limits.farewell, self.farewell_end)
        return False

    def _cut_off(self) -> bool:
        if self.sender.unread < self.unread:
            # It takes little, not nothing.
            self.step = self.sending
            return self.await_room()
        raise ClientGone("The client takes nothing any more.")
