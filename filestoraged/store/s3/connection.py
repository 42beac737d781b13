"""A connection to an S3 store, and the connections of a process that are kept for the next requests."""

from __future__ import annotations

import math
import os
import select
from collections import deque
from collections.abc import Callable

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Bytes
from filestoraged.net.bounded_response import BoundedConnection, BoundedResponse
from filestoraged.store.s3.url import Location

# Seconds. A host that does not answer within that is not reached; a SYN is sent again after 1 s and 3 s.
CONNECT_TIMEOUT = 4.0

# Seconds of silence of a store, in an answer or while it takes a body.
SILENCE_TIMEOUT = 12.0

# Seconds after which a kept connection is not used again. Stores close idle ones after 5 s (Go) to 65 s (Ceph).
MAX_IDLE = 30.0


class StoreConnection(BoundedConnection):
    """One thread at a time uses it. Its deadline is for answers and bodies: a store may send a byte a second."""

    silence_timeout = SILENCE_TIMEOUT

    def __init__(self, location: Location) -> None:
        super().__init__(location.host, location.port, timeout=CONNECT_TIMEOUT)
        # When its last answer was complete, on the monotonic clock.
        self.idle_since = 0.0

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(self.silence_timeout)

    def open(self) -> None:
        """Connect if it is not, and wait for the store as long as for any request: the last may have had less time."""
        if self.sock is None:
            self.connect()
        else:
            self.sock.settimeout(self.silence_timeout)

    def send_all(self, data: Bytes) -> None:
        """Send bytes for as long as the store takes some: `sendall` would give all `silence_timeout` together."""
        left = memoryview(data).cast("B")
        while left:
            if self.clock() > self.deadline:
                raise TimeoutError("the store has not taken the body in time")
            left = left[self.sock.send(left) :]

    @property
    def is_stale(self) -> bool:
        """Whether the store has closed the idle connection, or sent what was not asked for."""
        if self.sock is None or self.clock() - self.idle_since > MAX_IDLE:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


# How a connection is made: `StoreConnection` itself, or a `TLSConnector`.
Connect = Callable[[Location], StoreConnection]


class ConnectionPool:
    """Any thread calls it. Connections belong to the process that made them, so a fork is harmless."""

    def __init__(self, location: Location, connect: Connect, *, size: int, clock: Clock = SYSTEM_CLOCK) -> None:
        """`size` is how many idle connections are kept."""
        self._location = location
        self._connect = connect
        self._size = size
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._idle: deque[StoreConnection] = deque()

    def acquire(self, *, max_idle: float = MAX_IDLE) -> tuple[StoreConnection, bool]:
        """Return a connection, and whether it was used before. One that was idle for longer than `max_idle` is not."""
        if self._owner != os.getpid():
            # Without closing them: the sockets of a parent are in use there.
            self._reset()
        while self._idle:
            try:
                # The one used last, so that those which a peak has left become old.
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.is_stale and self._clock.now() - connection.idle_since <= max_idle:
                return connection, True
            connection.close()
        connection = self._connect(self._location)
        connection.clock = self._clock.now
        return connection, False

    def release(self, connection: StoreConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        if connection.sock is None or self._owner != os.getpid():
            return
        connection.idle_since = self._clock.now()
        connection.deadline = math.inf
        self._idle.append(connection)
        while len(self._idle) > self._size:
            self._idle.popleft().close()

    def finish(self, connection: StoreConnection, response: BoundedResponse) -> None:
        """Keep a connection if another request can use it behind a response, else close it."""
        if response.is_read and not response.closes:
            self.release(connection)
        else:
            connection.close()

    @property
    def idle(self) -> int:
        """The number of connections that are kept for the next requests."""
        return len(self._idle)

    def close(self) -> None:
        """Close the idle connections. The next request opens one."""
        while self._idle:
            self._idle.pop().close()
