"""A server without the machine: simulated connections, a clock that the test advances, and steps on the test's thread.

The pages and the store are the real ones. So what a page awaits is done by real threads, and waited for.
"""

from __future__ import annotations

import io
import select
import socket
from collections import deque
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from filestoraged.web.limits import Limits
from filestoraged.web.pool import PoolJob
from filestoraged.web.sender import Sender, WouldWait
from filestoraged.web.server import Server
from filestoraged.web.transport import Transport
from tests.clock import VirtualClock
from tests.support import PATIENCE, ServerCase, read_answer

if TYPE_CHECKING:
    _Socket = socket.socket
else:
    # A client is taken for a socket, and has the few methods that tests call.
    _Socket = object

# Beyond those that the kernel gives.
_FIRST_DESCRIPTOR = 1_000_000

# More than a server takes for any input of the tests.
_MAX_STEPS = 100_000


class Machine:
    """The sockets, the threads and the time of servers, each of which has a poller of its own."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.sockets: dict[int, SimulatedSocket] = {}
        self.workers: list[tuple[Server, SimulatedEpoll]] = []
        self.pool = SimulatedPool()
        # Whether a server waits for what its pages await: the threads of a store. False where the test does that.
        self.has_store = True

    def open(self, kind: type[SimulatedSocket]) -> Any:
        opened = kind(self, _FIRST_DESCRIPTOR + len(self.sockets))
        self.sockets[opened.descriptor] = opened
        return opened

    def add(self, make_server: Callable[..., Server]) -> Server:
        epoll = SimulatedEpoll(self.sockets)
        server = make_server(clock=self.clock, epoll=epoll, transport=SimulatedTransport)
        # A test hands in one that is none.
        server.context.pool = server.context.remote_pool = self.pool  # type: ignore[assignment]
        # The kernel does not know simulated listeners.
        acceptor = server._acceptor
        acceptor._waiting = lambda: {each for each in acceptor._listeners if self.sockets[each].events}  # type: ignore[method-assign]
        self.workers.append((server, epoll))
        return server

    def run(self) -> None:
        """Let the servers do all that they can do without more input, room or time."""
        for server, _ in self.workers:
            server.run_round(0)
        for _ in range(_MAX_STEPS):
            if not sum(self._step(server, epoll) for server, epoll in self.workers):
                return
        raise AssertionError("the loop is kept busy")

    def _step(self, server: Server, epoll: SimulatedEpoll) -> bool:
        """Returns whether there was something to do."""
        is_expecting = self.has_store and bool(server.context.completions.expected)
        if not epoll.ready() and not self.pool.run() and not is_expecting:
            return False
        server.run_round(PATIENCE if self.has_store and server.context.completions.expected else 0)
        return True


class SimulatedSocket:
    """The server's end, which has the methods of a socket, and what its client does.

    `room` is how many bytes it takes before the client reads.
    """

    family = socket.AF_INET

    def __init__(self, machine: Machine, descriptor: int) -> None:
        self.machine = machine
        self.descriptor = descriptor
        self.input = b""
        self.output = bytearray()
        self.room = 1 << 62
        # Of the client: it sends no more; it has gone. Of the server: it sends no more; it has closed.
        self.has_ended = self.is_reset = self.is_shut = self.is_closed = False
        # Whether something has happened that an edge-triggered watch has not reported.
        self.has_changed = False

    # What the server calls.

    def fileno(self) -> int:
        return self.descriptor

    def recv(self, size: int, flags: int = 0) -> bytes:
        if self.is_reset:
            raise ConnectionResetError(104, "Connection reset by peer")
        if not self.input and not self.has_ended:
            raise BlockingIOError
        data = self.input[:size]
        if not flags & socket.MSG_PEEK:
            self.input = self.input[size:]
        return data

    def recv_into(self, buffer: memoryview, _: int, flags: int) -> int:
        data = self.recv(len(buffer), flags)
        buffer[: len(data)] = data
        return len(data)

    def send(self, data: Any, _: int = 0) -> int:
        if self.is_reset:
            raise BrokenPipeError(32, "Broken pipe")
        taken = bytes(data)[: self.room - len(self.output)]
        if not taken:
            raise BlockingIOError
        self.output += taken
        return len(taken)

    def sendmsg(self, buffers: Any, _: Any, flags: int) -> int:
        return self.send(b"".join(buffers), flags)

    def shutdown(self, _: int) -> None:
        if self.is_reset:
            raise OSError(107, "Transport endpoint is not connected")
        self.is_shut = True

    def close(self) -> None:
        self.is_closed = True

    def getsockopt(self, *_: Any) -> int:
        return 104 if self.is_reset else 0

    def setsockopt(self, *_: Any) -> None:
        pass

    def setblocking(self, _: bool) -> None:
        pass

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80

    @property
    def events(self) -> int:
        readable = bool(self.input) or self.has_ended or self.is_reset
        # As in Linux: the first byte of room is none.
        writable = 3 * len(self.output) <= 2 * self.room or self.is_reset
        return select.EPOLLIN * readable | select.EPOLLOUT * writable


class SimulatedListener(SimulatedSocket):
    def __init__(self, machine: Machine, descriptor: int) -> None:
        super().__init__(machine, descriptor)
        self.waiting: deque[tuple[SimulatedSocket, str]] = deque()

    def accept(self) -> tuple[SimulatedSocket, Any]:
        if not self.waiting:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        connection, address = self.waiting.popleft()
        # A client of a Unix socket has no address.
        return connection, (address, 1) if address else ""

    @property
    def events(self) -> int:
        return select.EPOLLIN * bool(self.waiting)


class Client(_Socket):
    """The client's end, with the methods of a socket. It waits for nothing: what has not come when the server can do no
    more does not come.
    """

    def __init__(self, connection: SimulatedSocket) -> None:
        self.connection = connection

    def sendall(self, data: Any, _: int = 0, /) -> None:
        if self.connection.is_closed:
            raise BrokenPipeError
        self.connection.input += data
        self._change()

    def send_nothing_more(self) -> None:
        self.connection.has_ended = True
        self._change()

    def close(self) -> None:
        """Reset the connection."""
        self.connection.is_reset = True
        self._change()

    def recv(self, size: int, _: int = 0, /) -> bytes:
        connection = self.connection
        if not connection.output:
            connection.machine.run()
        data = bytes(connection.output[:size])
        del connection.output[:size]
        connection.has_changed = True
        if not data and not connection.is_shut and not connection.is_closed:
            raise AssertionError("the server sends nothing, and does not close")
        return data

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed, by itself or because of what the client did."""
        return self.connection.is_closed

    def makefile(self, _: str) -> io.BufferedReader:  # type: ignore[override]
        return io.BufferedReader(_Raw(self))

    def _change(self) -> None:
        self.connection.has_changed = True
        self.connection.machine.run()


class _Raw(io.RawIOBase):
    def __init__(self, client: Client) -> None:
        self._client = client

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._client.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class SimulatedEpoll:
    """Reports what simulated sockets have, and asks the kernel for real descriptors, such as pipes."""

    def __init__(self, sockets: dict[int, SimulatedSocket]) -> None:
        self._sockets = sockets
        self._masks: dict[int, int] = {}
        self._real = select.poll()

    def register(self, descriptor: int, mask: int) -> None:
        self._masks[descriptor] = mask
        if descriptor not in self._sockets:
            self._real.register(descriptor, select.POLLIN)
        elif mask & select.EPOLLET:
            self._sockets[descriptor].has_changed = True

    modify = register

    def unregister(self, descriptor: int) -> None:
        if descriptor not in self._masks:
            raise FileNotFoundError(2, "No such file or directory")
        del self._masks[descriptor]
        if descriptor not in self._sockets:
            self._real.unregister(descriptor)

    def ready(self, timeout: float = 0) -> list[tuple[int, int]]:
        """What `poll` would report. Real descriptors first: results come before input."""
        simulated = []
        for descriptor, mask in self._masks.items():
            if descriptor in self._sockets:
                each = self._sockets[descriptor]
                if mask & each.events and (each.has_changed or not mask & select.EPOLLET):
                    simulated.append((descriptor, mask & each.events))
        return self._real.poll(0 if simulated else timeout * 1000) + simulated

    def poll(self, timeout: float, maximum: int) -> list[tuple[int, int]]:
        events = self.ready(timeout)[:maximum]
        for descriptor, _ in events:
            if descriptor in self._sockets:
                self._sockets[descriptor].has_changed = False
        return events

    def close(self) -> None:
        self._masks.clear()


class SimulatedPool:
    """Jobs that run one after the other, on the test's thread, when the loop has nothing to do."""

    def __init__(self) -> None:
        self._jobs: deque[PoolJob] = deque()
        self.is_saturated = False
        # Without threads, jobs are given back: `test_pool` tests after which time.
        self.has_threads = True

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: PoolJob) -> None:
        self._jobs.append(job)

    def check(self, _: float) -> list[PoolJob]:
        if self.has_threads:
            return []
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def close(self) -> None:
        pass

    def run(self) -> bool:
        """Returns whether there was a job."""
        if not self._jobs or not self.has_threads:
            return False
        self._jobs.popleft().run_on_thread()
        return True


class _Sender(Sender):
    @property
    def unread(self) -> int:
        return len(self._connection.output)  # type: ignore[attr-defined]

    def sendfile(self, descriptor: int, start: int, stop: int) -> int:
        if self._holds:
            raise WouldWait
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(start)
            return self.write(file.read(min(stop - start, 1 << 20)))


class SimulatedTransport(Transport):
    __slots__ = ()

    def make_sender(self) -> Sender:
        return _Sender(self.socket)


class SimulatedCase(ServerCase):
    """The tests of ServerCase over simulated connections, with the limits of the contract in virtual time."""

    interfaces: Collection[str] = ("files",)
    limits = Limits()

    def open_listeners(self) -> list[Any]:
        self.machine = Machine()
        self.listener = self.machine.open(SimulatedListener)
        return [self.listener]

    def start_server(self) -> None:
        self.server = self.machine.add(self.make_server)
        self.context = self.server.context
        self.addCleanup(self.server.server_close)

    def connect(self, address: str = "127.0.0.1") -> Client:
        connection = self.machine.open(SimulatedSocket)
        self.listener.waiting.append((connection, address))
        self.machine.run()
        return Client(connection)

    def greeted(self, count: int) -> list[Client]:
        """Open connections that have had a response. The first is idle longest."""
        connections = [self.connect() for _ in range(count)]
        for connection in connections:
            # More than the least interval between two scans for idle connections.
            self.machine.clock.advance(0.01)
            connection.sendall(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.assertEqual(200, read_answer(connection).status)
        return connections

    def pass_time(self, seconds: float) -> None:
        self.machine.clock.advance(seconds)
        self.machine.run()
