"""The context that all connections of a server share: settings, the loop's instruments, and work for a round's end.

A connection gets all of it as one LoopContext, and nothing else of the server.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from filestoraged.clock import Clock
from filestoraged.errors import Error
from filestoraged.web.access_log import AccessLog
from filestoraged.web.admission import Admission
from filestoraged.web.completion_queue import CompletionQueue
from filestoraged.web.limits import Limits
from filestoraged.web.metrics import Metrics
from filestoraged.web.poller import Poller, Watched
from filestoraged.web.pool import Pool, PoolJob
from filestoraged.web.states import State

log = logging.getLogger(__name__)

# Bytes of the buffer for discarded input.
_SCRATCH = 64 * 1024

# Those of the responses of one round.
_SPARE = 64


class _Connection(Watched, PoolJob, Protocol):
    """What the instruments know of a connection."""

    def flush(self) -> None: ...


_C = TypeVar("_C", bound=_Connection)

# Takes a connection on, as far as it goes. Returns whether the step of its state can be taken at once. They are plain
# functions: a method bound to its own connection would keep it alive.
Step = Callable[[_C], bool]


class Steps(NamedTuple, Generic[_C]):
    """The functions for each state: on its event, on its deadline, and if no thread can be started."""

    by_state: Mapping[State, Step[_C]]
    on_deadline: Mapping[State, Step[_C]]
    # Refuses a connection without a place.
    refuse: Callable[[_C, Error], bool]
    # Sends what a sender holds at the end of a round.
    flush: Step[_C]
    without_thread: Step[_C]


class LoopContext(Generic[_C]):
    """Made by the server, once. The loop owns `scratch` and what is set behind it; all else locks."""

    def __init__(
        self,
        steps: Steps[_C],
        limits: Limits,
        poller: Poller[_C],
        admission: Admission,
        *,
        metrics: Metrics,
        clock: Clock,
        threads: int,
    ) -> None:
        self.now = clock.now
        self.date = clock.date
        self.steps = steps
        self.limits = limits
        self.metrics = metrics
        self.admission = admission
        self.proxies = admission.proxies
        self.poller = poller
        self.completions: CompletionQueue[_C] = CompletionQueue()
        poller.watch(self.completions.descriptor, select.EPOLLIN)
        self.pool: Pool[_C] = Pool(threads, idle=limits.thread, patience=limits.no_thread)
        # For pages that wait for other machines.
        self.remote_pool: Pool[_C] = Pool(threads, idle=limits.thread, patience=limits.no_thread)
        self.access_log = AccessLog()
        # Held by a thread while it decodes chunks.
        self.decoding = threading.Lock()
        # Buffer for discarded input.
        self.scratch = memoryview(bytearray(_SCRATCH))
        # Connections with a response that is sent at the end of the round.
        self.unsent: list[_C] = []
        # Exchanges that ended, for the next ones: to make one takes a twentieth of the time of a small request.
        self.spare: deque[Any] = deque(maxlen=_SPARE)
        self.is_draining = False

    def release(self, connection: socket.socket) -> None:
        """Close a socket and give its place back. Any thread may call it. Raises nothing."""
        try:
            connection.close()
        except OSError:
            log.exception("cannot close a connection")
        finally:
            self.admission.leave(connection)
