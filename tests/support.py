"""What tests share: a temporary directory, a real server on a free port in this process, and raw sockets."""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from filestoraged.clock import Clock
from filestoraged.daemon.config import Config
from filestoraged.daemon.interfaces import INTERFACES, OPERATIONS
from filestoraged.daemon.services import Services
from filestoraged.daemon.sockets import address_of, close, listen
from filestoraged.daemon.values import Address
from filestoraged.daemon.worker import ServerThread
from filestoraged.store import layout
from filestoraged.store.passwords import Passwords
from filestoraged.web.access_log import access
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.limits import Limits
from filestoraged.web.metrics import Metrics
from filestoraged.web.server import Server
from tests.clock import PATIENT_CLOCK
from tests.runner.judge import judge

# Seconds that a test waits for something at most. Nothing takes that long, not even on a busy machine.
PATIENCE = 20.0

# Made and compared in microseconds.
CHEAP_PASSWORDS = Passwords(cost=2)

_PAUSE = 0.02

_Value = TypeVar("_Value")


def wait_until(
    what: str,
    condition: Callable[[], _Value],
    patience: float = PATIENCE,
    *,
    passing: tuple[type[Exception], ...] = (),
) -> _Value:
    """The one loop of the tests that asks again, where no event tells what others have brought about.

    Returns what the condition returns, once that is true; a `passing` error means not yet. Raises AssertionError, which
    has `what`, after `patience` seconds.
    """
    pause = threading.Event()
    deadline = time.monotonic() + patience
    while True:
        fault: Exception | None = None
        try:
            if value := condition():
                return value
        except passing as error:
            fault = error
        if time.monotonic() > deadline:
            raise AssertionError(f"still not after {patience:.0f} s: {what}") from fault
        pause.wait(_PAUSE)


class TempCase(unittest.TestCase):
    """Gives each test a directory, which is removed after it."""

    # Says which errors a test provokes in the log; any other fails it.
    announce = staticmethod(judge.announce)

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(tempfile.mkdtemp(prefix="filestoraged-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def wait_until(self, what: str, condition: Callable[[], bool]) -> None:
        wait_until(what, condition)

    def files_below(self, directory: Path) -> list[str]:
        """Return the paths of all files below a directory, relative to it, except those of databases and journals."""
        # `os.walk` skips directories that a running daemon removes meanwhile.
        found = [Path(where) / name for where, _, names in os.walk(directory) for name in names]
        paths = sorted(str(path.relative_to(directory)) for path in found if path.is_file())
        skipped = (*layout.DATABASES, layout.DROP_OWNERS, layout.UPLOAD_OWNERS, layout.JOURNAL)
        return [path for path in paths if not path.startswith(skipped) and not layout.is_segment(Path(path).name)]


class RecordingHandler(logging.Handler):
    """Keeps all records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            self.records.append(record)
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the condition holds, which depends on the records alone."""
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE):
                raise AssertionError(f"not logged in {PATIENCE:.0f} s: {what}")


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        return self.fields[":reason"]


class ServerCase(TempCase):
    """Gives each test a server on a free port, in this process, with a store.

    A subclass may set `interfaces`, `config`, `threads`, `connections` and `limits`.
    """

    # Those at their default prefixes; all by default, which take twice as long to start and stop as one.
    interfaces: Collection[str] = ()
    config: dict[str, Any] = {}
    threads = 8
    connections = 1000
    limits = Limits(notice=0.02, last_call=0.1)
    # That of the services. The server's is real: it watches sockets.
    clock: Clock = PATIENT_CLOCK

    def setUp(self) -> None:
        super().setUp()
        self._record = RecordingHandler()
        self.logged = self._record.records
        self.capture_log()
        self.store_path = self.directory / "store"
        # Tests of other things may send any Host.
        given: dict[str, Any] = {"store": str(self.store_path), "workers": 1, "host": ("*",)}
        if self.interfaces:
            given["mounts"] = {INTERFACES[name].prefix: name for name in self.interfaces}
        config = Config(**{**given, **self.config})
        self.server_metrics = Metrics((*INTERFACES, OPERATIONS))
        self.services = Services(
            config, self.server_metrics, [config.mounts], passwords=CHEAP_PASSWORDS, clock=self.clock
        )
        self.before_worker()
        self.listeners = self.open_listeners()
        self.app = self.services.build_app(config.mounts)
        self.addCleanup(self.services.close)
        self.addCleanup(self.services.stop)
        self.connection_limit = ConnectionLimit(self.connections)
        self.addCleanup(self.connection_limit.close)
        self.start_server()

    def before_worker(self) -> None:
        """Called when all is done that the master does, and nothing of what a worker does."""

    def open_listeners(self) -> list[socket.socket]:
        listeners = listen(self.address())
        self.bound = address_of(listeners[0])
        self.addCleanup(close, listeners)
        return listeners

    def make_server(self, **options: Any) -> Server:
        return Server(
            dict.fromkeys(self.listeners, self.app),
            threads=self.threads,
            limits=self.limits,
            connection_limit=self.connection_limit,
            metrics=self.server_metrics,
            **options,
        )

    def start_server(self) -> None:
        self.worker = ServerThread(self.make_server())
        self.worker.start()
        self.addCleanup(self.worker.drain, PATIENCE)

    def address(self) -> Address:
        return Address("127.0.0.1", 0)

    def capture_log(self) -> None:
        """Let `logged` have the records that the server logs during the test."""
        logger = logging.getLogger("filestoraged")
        level = logger.level
        logger.addHandler(self._record)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        self.addCleanup(logger.setLevel, level)
        self.addCleanup(setattr, logger, "propagate", True)
        self.addCleanup(logger.removeHandler, self._record)

    def wait_for_lines(self, text: str, count: int = 1) -> None:
        """Return when the text was logged so often. Access lines are written behind the response."""
        self._record.wait_for(lambda: "\n".join(self.log_lines()).count(text) >= count, f"{count} times {text!r}")

    def log_lines(self, level: int = logging.INFO) -> list[str]:
        return [record.getMessage() for record in list(self.logged) if record.levelno >= level]

    def access_lines(self) -> list[str]:
        """The lines of the access log alone: on a slow machine, background work may warn of something."""
        records = [record for record in list(self.logged) if record.name == access.name]
        return [line for record in records for line in record.getMessage().splitlines()]

    def connect(self) -> socket.socket:
        """Connect to the server; the connection is closed after the test."""
        if self.bound.path:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PATIENCE)
            connection.connect(self.bound.path)
        else:
            connection = socket.create_connection(self.bound[:2], timeout=PATIENCE)
        self.addCleanup(connection.close)
        return connection

    def request(self, method: str, target: str, body: Any = None, **fields: str) -> Answer:
        """Send one request on a new connection. Underscores in names of fields stand for hyphens."""
        client = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        client.sock = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in fields.items()}
            client.request(method, target, body=body, headers=named)
            return _answer(client.getresponse())
        finally:
            client.close()

    def get(self, target: str, **fields: str) -> Answer:
        return self.request("GET", target, **fields)

    def post(self, target: str, body: Any, **fields: str) -> Answer:
        return self.request("POST", target, body, **fields)

    def put(self, target: str, body: Any, **fields: str) -> Answer:
        return self.request("PUT", target, body, **fields)

    def delete(self, target: str, **fields: str) -> Answer:
        return self.request("DELETE", target, **fields)

    def raw(self, data: bytes, *, answers: int = 1) -> list[Answer]:
        """Send raw bytes on a new connection, and read that many responses."""
        connection = self.connect()
        connection.sendall(data)
        return [read_answer(connection) for _ in range(answers)]

    def raw_until_closed(self, data: bytes) -> tuple[list[Answer], bytes]:
        """Send raw bytes; return the responses before the server closes, and the bytes after them."""
        connection = self.connect()
        connection.sendall(data)
        received = read_all(connection)
        answers = []
        while received.startswith(b"HTTP/"):
            answer, received = split_answer(received)
            answers.append(answer)
        return answers, received

    def assert_stored(self, count: int) -> None:
        """Assert that the store holds that many files."""
        self.assertEqual(count, len(self.files_below(self.store_path)))


def read(blob: BinaryIO) -> bytes:
    """Read a stored object to its end, and close it."""
    with blob:
        return blob.read()


def read_all(connection: socket.socket) -> bytes:
    """Read until the peer closes."""
    received = bytearray()
    while True:
        data = connection.recv(65536)
        if not data:
            return bytes(received)
        received += data


def read_answer(connection: socket.socket) -> Answer:
    """Read one response, and no byte of the next."""
    received = bytearray()
    while not received.endswith(b"\r\n\r\n"):
        data = connection.recv(1)
        if not data:
            raise AssertionError(f"closed within a head: {bytes(received)!r}")
        received += data
    length = _parse_head(bytes(received))[1].get("content-length", "0")
    while len(received) - bytes(received).index(b"\r\n\r\n") - 4 < int(length):
        data = connection.recv(1)
        if not data:
            raise AssertionError(f"closed within a body: {bytes(received)!r}")
        received += data
    return split_answer(bytes(received))[0]


def split_answer(received: bytes) -> tuple[Answer, bytes]:
    """Split received bytes into the first response and the rest."""
    head, _, rest = received.partition(b"\r\n\r\n")
    status, fields = _parse_head(head)
    length = int(fields.get("content-length", "0"))
    return Answer(status, fields, rest[:length]), rest[length:]


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    _, status, reason = lines[0].split(" ", 2)
    fields = {":reason": reason}
    for line in lines[1:]:
        name, _, value = line.partition(": ")
        fields[name.lower()] = value
    return int(status), fields


def _answer(response: http.client.HTTPResponse) -> Answer:
    fields = {name.lower(): value for name, value in response.getheaders()}
    fields[":reason"] = response.reason
    return Answer(response.status, fields, response.read())


def in_threads(count: int, work: Any) -> list[Any]:
    """Call `work(number)` on `count` threads at the same time; return the results in order.

    Raises the first exception of a thread.
    """
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait(PATIENCE)
        try:
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def ago(seconds: float) -> float:
    """A time of the wall clock, for files and rows that are to be old, or ahead if it is negative."""
    return time.time() - seconds


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, and that no other process gets until this one has ended.

    A socket without SO_REUSEADDR binds a port that is nobody else's. As it sets that then, and does not listen, servers
    that set it may bind the port; the system chooses it for no other socket.
    """
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    port: int = holder.getsockname()[1]
    # Until the process ends.
    holder.detach()
    return port


def changed(data: bytes) -> bytes:
    """The bytes with another last one: a fixed one might be the same where they are random."""
    return data[:-1] + bytes([data[-1] ^ 1])


def find_program(name: str) -> str:
    """Return the path of a program. A missing one fails the test: tests are not skipped."""
    path: str | None = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise AssertionError(f"{name} is not installed; bin/test installs it where it may")
    return path
