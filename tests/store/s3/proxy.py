"""A proxy in front of an S3 store that breaks chosen requests in a chosen way."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
import unittest
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from tests.store.s3.servers import S3Server
from tests.support import PATIENCE

_COPY_SIZE = 64 * 1024

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_EXPECT = re.compile(rb"\r\nexpect: *100-continue\r\n", re.IGNORECASE)
_BODILESS = (b"204", b"304")


class FaultyProxy:
    """Passes requests on to `server`, and applies a fault to those that `fail` names. Its port stays the same."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._rule: _Rule | None = None
        # Set while no fault holds a connection.
        self.mended = threading.Event()
        self.address = ""
        # "METHOD TARGET" of each request so far.
        self.requests: list[str] = []

    def fail(
        self, fault: Fault, *, method: str = "", target: str = "", skip: int = 0, times: int | None = None
    ) -> None:
        """Apply the fault to the requests with that method, and a target that contains `target`.

        `skip` of them pass first, and all pass after `times` faults. It replaces the earlier fault.
        """
        with self._lock:
            self.mended.clear()
            self._rule = _Rule(fault, method, target, skip, times)

    def mend(self) -> None:
        """Pass everything on from now on."""
        with self._lock:
            self._rule = None
            self.mended.set()

    def url(self, bucket: str) -> str:
        return f"http://{self.address}/{bucket}"

    def connect(self) -> socket.socket:
        """Connect to the store."""
        return socket.create_connection(("127.0.0.1", self._server.port), PATIENCE)

    def judge(self, method: str, target: str) -> Fault:
        """Record a request; return what is to be done with it."""
        with self._lock:
            self.requests.append(f"{method} {target}")
            rule = self._rule
            if rule is None or method != (rule.method or method) or rule.target not in target:
                return pass_on
            if rule.skip > 0:
                self._rule = rule._replace(skip=rule.skip - 1)
                return pass_on
            if rule.times == 0:
                return pass_on
            if rule.times is not None:
                self._rule = rule._replace(times=rule.times - 1)
            return rule.fault


class Exchange:
    """One request and its response, which a fault passes on or not."""

    def __init__(self, proxy: FaultyProxy, head: bytes, reader: BinaryIO, client: socket.socket) -> None:
        self.proxy = proxy
        self.head = head
        self.method, self.target = (word.decode() for word in head.split(b" ", 2)[:2])
        self.client = client
        self._reader = reader
        self._size = _length(head) or 0

    @contextlib.contextmanager
    def sent(self) -> Iterator[Answer]:
        """Send the request to the store, for the length of a block; yields the response."""
        with self.proxy.connect() as store, store.makefile("rb") as replies:
            store.sendall(_EXPECT.sub(b"\r\n", self.head))
            for piece in self.body():
                store.sendall(piece)
            head = _read_head(replies)
            yield Answer(head, _body(head, replies, is_head=self.method == "HEAD"))

    def body(self, *, of: float = 1) -> Iterator[bytes]:
        """The body of the request in pieces, or the first part of it."""
        if _EXPECT.search(self.head):
            self.client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = int(self._size * of)
        while left and (piece := self._reader.read(min(left, _COPY_SIZE))):
            left -= len(piece)
            yield piece

    def answer(self, head: bytes, body: bytes) -> None:
        self.client.sendall(head)
        if self.method != "HEAD":
            self.client.sendall(body)


class Answer(NamedTuple):
    """A response of the store. `body` is in pieces, with the framing of chunks."""

    head: bytes
    body: Iterator[bytes]


class _Rule(NamedTuple):
    fault: Fault
    method: str
    target: str
    skip: int
    times: int | None


# Returns whether the connection stays open.
Fault = Callable[[Exchange], bool]


def pass_on(exchange: Exchange) -> bool:
    with exchange.sent() as answer:
        exchange.client.sendall(answer.head)
        for piece in answer.body:
            exchange.client.sendall(piece)
    return b"\r\nconnection: close\r\n" not in answer.head.lower()


def cut_request(exchange: Exchange) -> bool:
    """Close the connections after half of the body has been passed on."""
    with exchange.proxy.connect() as store:
        store.sendall(_EXPECT.sub(b"\r\n", exchange.head))
        for piece in exchange.body(of=0.5):
            store.sendall(piece)
    return False


def cut_response(exchange: Exchange) -> bool:
    """Close the connection after half of the response's body."""
    with exchange.sent() as answer:
        body = b"".join(answer.body)
        exchange.client.sendall(answer.head + body[: len(body) // 2])
    return False


def close_after(exchange: Exchange) -> bool:
    """Pass the response on, and close the connection behind it, as the response says."""
    with exchange.sent() as answer:
        exchange.client.sendall(answer.head[:-2] + b"Connection: close\r\n\r\n")
        for piece in answer.body:
            exchange.client.sendall(piece)
    return False


def leave_unanswered(exchange: Exchange) -> bool:
    """Have the store carry out the request, and close the connection instead of answering."""
    with exchange.sent() as answer:
        for _ in answer.body:
            pass
    return False


def hang(exchange: Exchange) -> bool:
    """Take the request, and never answer; the connection stays open until the proxy is mended."""
    for _ in exchange.body():
        pass
    exchange.proxy.mended.wait()
    return False


def take_nothing(exchange: Exchange) -> bool:
    """Read no byte of the request's body; the connection stays open until the proxy is mended."""
    exchange.proxy.mended.wait()
    return False


def hang_in_response(exchange: Exchange) -> bool:
    """Send half of the response's body and no more; the connection stays open until the proxy is mended."""
    with exchange.sent() as answer:
        body = b"".join(answer.body)
        exchange.client.sendall(answer.head + body[: len(body) // 2])
        exchange.proxy.mended.wait()
    return False


def flip_bit(exchange: Exchange) -> bool:
    """Change one bit in the middle of the response's body, whose length stays."""
    with exchange.sent() as answer:
        body = bytearray(b"".join(answer.body))
        if body:
            body[len(body) // 2] ^= 1
        exchange.client.sendall(answer.head + body)
    return True


def shorten(exchange: Exchange) -> bool:
    """Send half of the response's body, and a Content-Length that says so."""
    with exchange.sent() as answer:
        body = b"".join(answer.body)
        half = body[: len(body) // 2]
        exchange.client.sendall(_LENGTH.sub(b"\r\nContent-Length: %d\r\n" % len(half), answer.head) + half)
    return True


def trickle(seconds: float) -> Fault:
    """Wait that long before each 64 KiB of the response."""

    def fault(exchange: Exchange) -> bool:
        with exchange.sent() as answer:
            exchange.client.sendall(answer.head)
            for piece in answer.body:
                exchange.proxy.mended.wait(seconds)
                exchange.client.sendall(piece)
        return True

    return fault


def refuse(status: int, code: str, message: str = "refused by the proxy") -> Fault:
    """Answer an S3 error without asking the store."""
    text = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return respond(status, text.encode())


def respond(status: int, body: bytes) -> Fault:
    """Answer these bytes, which may be no XML, without asking the store."""

    def fault(exchange: Exchange) -> bool:
        for _ in exchange.body():
            pass
        head = f"HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        exchange.answer(head.encode(), body)
        return True

    return fault


def replace_field(name: str, value: str) -> Fault:
    """Pass the response on with another value of a header field."""
    field = re.compile(rb"\r\n" + re.escape(name.encode()) + rb": *[^\r]*\r\n", re.IGNORECASE)

    def fault(exchange: Exchange) -> bool:
        with exchange.sent() as answer:
            exchange.client.sendall(field.sub(f"\r\n{name}: {value}\r\n".encode(), answer.head))
            for piece in answer.body:
                exchange.client.sendall(piece)
        return True

    return fault


def start_proxy(case: unittest.TestCase, server: S3Server) -> FaultyProxy:
    """Start a proxy in front of the server, until the end of the test."""
    proxy = FaultyProxy(server)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            with contextlib.suppress(OSError):
                _serve(proxy, self.request)

    listening = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    proxy.address = f"127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    case.addCleanup(listening.server_close)
    case.addCleanup(thread.join)
    case.addCleanup(listening.shutdown)
    case.addCleanup(proxy.mend)
    return proxy


def _serve(proxy: FaultyProxy, client: socket.socket) -> None:
    with client.makefile("rb") as reader:
        while head := _read_head(reader):
            exchange = Exchange(proxy, head, reader, client)
            if not proxy.judge(exchange.method, exchange.target)(exchange):
                return


def _read_head(reader: BinaryIO) -> bytes:
    """Read a head; returns nothing at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = reader.readline()
        if not line:
            return b""
        head += line
    # An informational response precedes the final one.
    return _read_head(reader) if head.startswith(b"HTTP/1.1 1") else head


def _length(head: bytes) -> int | None:
    found = _LENGTH.search(head)
    return int(found[1]) if found else None


def _body(head: bytes, reader: BinaryIO, *, is_head: bool) -> Iterator[bytes]:
    """The body of a response as it was sent, in pieces."""
    if is_head or head[9:12] in _BODILESS:
        return
    if _CHUNKED.search(head):
        yield from _chunks(reader)
        return
    left = _length(head) or 0
    while left and (piece := reader.read(min(left, _COPY_SIZE))):
        left -= len(piece)
        yield piece


def _chunks(reader: BinaryIO) -> Iterator[bytes]:
    while line := reader.readline():
        size = int(line.split(b";")[0], 16)
        yield line + reader.read(size + 2)
        if not size:
            return
