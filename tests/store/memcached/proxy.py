"""Proxies in front of memcached servers that break a chosen command in a chosen way."""

from __future__ import annotations

import contextlib
import enum
import socket
import socketserver
import threading
import unittest
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from tests.store.memcached.servers import Memcached
from tests.support import PATIENCE


class Break(enum.Enum):
    # Close the connection before the server gets the command.
    REFUSED = "refused"
    # Let the server execute it, and close the connection instead of replying.
    UNANSWERED = "unanswered"
    # Send no reply, and let the server execute it after the client's timeout.
    LATE = "late"


class Line:
    """The state that proxies share: the commands so far, and which of them breaks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.commands: list[bytes] = []
        self._held: list[tuple[int, bytes]] = []
        self.mend()

    def mend(self) -> None:
        """Pass everything on from now on, and restart the count."""
        with self._lock:
            self.commands.clear()
            self._at, self._how, self._stays = -1, Break.REFUSED, False

    def break_at(self, number: int, how: Break, *, stays: bool) -> None:
        """Break the command of that number, from 0; with `stays`, all later ones too."""
        self.mend()
        self._at, self._how, self._stays = number, how, stays

    def release(self) -> None:
        """Send the late commands to their servers."""
        held, self._held = self._held, []
        for port, command in held:
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as server:
                server.sendall(command)
                _read_reply(server.makefile("rb"), command)

    def judge(self, command: bytes) -> tuple[bool, Break]:
        """Whether a command passes, and how it breaks if not."""
        with self._lock:
            self.commands.append(command.partition(b"\r\n")[0])
            number = len(self.commands) - 1
            broken = number == self._at or (self._stays and -1 < self._at < number)
            return not broken, self._how if number == self._at or self._how is Break.LATE else Break.REFUSED

    def hold(self, port: int, command: bytes) -> None:
        self._held.append((port, command))


def start_proxies(case: unittest.TestCase, servers: Sequence[Memcached]) -> tuple[Line, list[str]]:
    """Start a proxy for each server, until the end of the test. Returns their shared state and their addresses."""
    line = Line()
    return line, [_start_proxy(case, line, server.port) for server in servers]


def serve(case: unittest.TestCase, handler: type[socketserver.BaseRequestHandler]) -> str:
    """Start a server with that handler, until the end of the test. Returns its address."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    case.addCleanup(server.server_close)
    case.addCleanup(thread.join)
    case.addCleanup(server.shutdown)
    return f"127.0.0.1:{server.server_address[1]}"


def _start_proxy(case: unittest.TestCase, line: Line, port: int) -> str:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            # The replies to one packet of commands are sent one by one.
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE) as server:
                _pass_on(line, self.request, server, port)

    return serve(case, Handler)


def _pass_on(line: Line, client: socket.socket, server: socket.socket, port: int) -> None:
    replies = server.makefile("rb")
    is_late = False
    for command in _commands(client.makefile("rb")):
        passes, how = line.judge(command)
        if not passes and how is Break.REFUSED:
            return
        # Commands on one connection keep their order.
        is_late = is_late or (not passes and how is Break.LATE)
        if is_late:
            line.hold(port, command)
            continue
        server.sendall(command)
        reply = _read_reply(replies, command)
        if not passes:
            return
        client.sendall(reply)


def _commands(stream: BinaryIO) -> Iterator[bytes]:
    while line := stream.readline():
        words = line.split()
        size = int(words[4]) + 2 if words[0] in (b"set", b"add", b"cas") else 0
        yield line + stream.read(size)


def _read_reply(stream: BinaryIO, command: bytes) -> bytes:
    reply = line = stream.readline()
    while line and command.startswith((b"get", b"stats")) and line != b"END\r\n":
        if line.startswith(b"VALUE"):
            reply += stream.read(int(line.split()[3]) + 2)
        line = stream.readline()
        reply += line
    return reply
