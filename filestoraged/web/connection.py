"""One connection: its fields, what calls it, and where it goes between two steps.

`states.TABLE` says which state follows which; `steps` and `response_steps` have the step of each state. A step goes as
far as the bytes reach. Then the connection waits in the poller, so that a slow client costs no thread, whether it sends
or reads. The loop takes the steps that cannot block; one that may (an upload, a large file, a disk read) is taken by a
thread of a pool. Never by both at once.
"""

from __future__ import annotations

import logging
import select

from filestoraged.digest import Bytes
from filestoraged.errors import ClientGone, Error
from filestoraged.web.error_responses import failure
from filestoraged.web.exchange import NO_EXCHANGE, Exchange
from filestoraged.web.loop_context import LoopContext, Step
from filestoraged.web.pool import Pool
from filestoraged.web.receiver import DONT_WAIT
from filestoraged.web.sites import Site
from filestoraged.web.states import CLOSED, IDLE, INITIAL, LINGER, TABLE, Event, State, Wait
from filestoraged.web.transport import LOOP, READABLE, RESULT, THREAD, WRITABLE, LingeringClose, Transport

log = logging.getLogger(__name__)

_MASKS = {
    Wait.NOTHING: THREAD,
    Wait.READABLE: READABLE,
    Wait.WRITABLE: WRITABLE,
    Wait.CHANGE: READABLE | select.EPOLLET,
    Wait.RESULT: RESULT,
}
_AWAITS = {state: _MASKS[row.waits_for] for state, row in TABLE.items()}


class Connection:
    """Made and started by the loop; see `Handler`. Its owner, the loop or a thread, has its transport and exchange."""

    # Ten thousand of them may be idle, and a dictionary would take 300 bytes to 1.5 KiB of each.
    __slots__ = (
        "app",
        "cache",
        "context",
        "exchange",
        "is_on_thread",
        "is_proxied",
        "lingering_close",
        "peer",
        "pool",
        "since",
        "state",
        "transport",
    )

    # Changed by `move` alone.
    state: State
    # The present request; NO_EXCHANGE between two.
    exchange: Exchange
    # When the present request's first byte came; between two, when the last one ended.
    since: float
    # Whether a thread takes the present step; and where the next thread is found.
    is_on_thread: bool
    pool: Pool[Connection]
    # In the state LINGER.
    lingering_close: LingeringClose | None

    def __init__(
        self,
        context: LoopContext[Connection],
        transport: Transport,
        peer: str,
        *,
        site: Site,
    ) -> None:
        """`peer` is the address of the other side, UNIX for a Unix socket."""
        self.context = context
        self.transport = transport
        self.peer = peer
        self.is_proxied = context.proxies.trust(peer)
        self.app, self.cache = site
        self.pool = context.pool
        self.is_on_thread = False
        self.exchange = NO_EXCHANGE
        self.since = context.now()
        self.lingering_close = None
        self.state = INITIAL
        transport.awaits = _AWAITS[INITIAL]
        transport.deadline = self.since + context.limits.idle

    # What the loop calls.

    def on_refusal(self, error: Error) -> None:
        """It has no place: the answer is the error."""
        refuse = self.context.steps.refuse
        self._run(lambda connection: refuse(connection, error))

    def on_event(self) -> None:
        """What was awaited has come."""
        self._take_steps()
        self._settle()

    def on_result(self) -> None:
        """The awaited future is done."""
        self.move(Event.RESULT)
        self._take_steps()
        self._settle()

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
        return self.state is IDLE and not self.transport.receiver.buffer

    @property
    def is_lingering(self) -> bool:
        return self.state is LINGER

    @property
    def unread(self) -> Bytes:
        """What is in memory until the client has read it, and is waited for; empty for nothing."""
        response, held = self.exchange.response, self.transport.sender.held
        if self.transport.awaits != WRITABLE:
            return b""
        if response is not None:
            return response.body
        return held[0] if held else b""

    # What a thread of a pool calls.

    def run_on_thread(self) -> None:
        """Take the steps that the loop could not. Waits a moment for the client unless others wait for a thread."""
        self.is_on_thread = True
        self.transport.begin_thread(DONT_WAIT if self.pool.is_saturated else 0)
        self._take_steps()
        self.is_on_thread = False
        self.transport.end_thread()
        self._settle()

    # Between the steps.

    def _run(self, step: Step[Connection]) -> None:
        self._take_steps(step)
        self._settle()

    def _take_steps(self, first: Step[Connection] | None = None) -> None:
        """Take steps until something has to be waited for. Raises nothing."""
        steps = self.context.steps.by_state
        step = first or steps[self.state]
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
        context, transport = self.context, self.transport
        awaits = transport.awaits
        if (awaits == LOOP or 0 < awaits == transport.watched) and self.state is not CLOSED:
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
                task = self.exchange.task
                assert awaits == RESULT and task is not None and task.future is not None
                transport.awaits = LOOP
                context.completions.expect(self, task.future)
                return
        except Exception as error:
            # The kernel may watch no more descriptors. Nothing else would continue this connection.
            self.fail(error)
            context.poller.discard(self)
        context.release(transport.socket)

    def move(self, event: Event) -> None:
        """The one place where a state changes."""
        self.state = self.state.next[event]

    def wait(self) -> bool:
        """Wait for what the table says."""
        self.transport.awaits = _AWAITS[self.state]
        return False

    def wait_writable(self) -> bool:
        """Wait until the client has taken a good part of what was sent."""
        self.transport.sender.mark()
        self.transport.deadline = self.context.now() + self.context.limits.send
        return self.wait()

    def hand_over(self) -> bool:
        """A thread takes the step of this state."""
        self.transport.awaits = THREAD
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
        sent = self.transport.sender.sent
        self.exchange.abandon(self.context, fault, sent, is_on_thread=self.is_on_thread)
        if self.state is not CLOSED:
            self.move(event)

    # Of the present request.

    @property
    def client(self) -> str:
        """On whose behalf it is; between two requests, the peer."""
        return self.exchange.client or self.peer
