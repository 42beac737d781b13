"""Connections to a server of HTTP, with or without TLS, and those of a process that are kept for the next requests."""

from __future__ import annotations

import http.client
import math
import re
import select
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Bytes
from filestoraged.net.bounded_response import BoundedConnection, BoundedResponse
from filestoraged.net.pool import IdlePool

if TYPE_CHECKING:
    import ssl

# What a connection raises that fails, or that receives something other than HTTP.
FAILURES = (OSError, http.client.HTTPException)

# The ports that a URL need not name, by its scheme.
PORTS = {"http": 80, "https": 443}

# Bytes that are looked at for interim responses, and whole heads of these. Longer ones are read as a response, which
# bounds them.
_PEEKED = 4096
_INTERIM = re.compile(rb"(?:HTTP/1\.[01] 1[0-9]{2}[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n)*")
_HEAD_END = re.compile(rb"\n\r?\n")
_INTERIM_BEGINNINGS = (b"HTTP/1.1 1", b"HTTP/1.0 1")

# Methods whose request has a body, if only an empty one.
_WITH_BODY = ("POST", "PUT", "PATCH")


class ServerAddress(NamedTuple):
    """Where a server listens. `host` may be an address, without brackets."""

    scheme: str
    host: str
    port: int
    # Of a Unix socket, else empty.
    socket_path: str = ""

    def __str__(self) -> str:
        return f"unix:{self.socket_path}" if self.socket_path else f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The Host field: without the port where that is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.socket_path or self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_encrypted(self) -> bool:
        return self.scheme == "https"


class FilePart(NamedTuple):
    """The body of a request: a part of a file, in bytes."""

    file: BinaryIO
    start: int
    size: int


class HttpConnection(BoundedConnection):
    """One thread at a time uses it. Its deadline is for responses and bodies: a server may send a byte a second."""

    # Seconds in which the host must answer.
    connect_timeout: float

    def __init__(self, endpoint: ServerAddress, context: ssl.SSLContext | None = None) -> None:
        """`context` is for TLS. It is not that of `http.client`, which has none where `ssl` was hidden from it."""
        super().__init__(endpoint.host, endpoint.port, timeout=self.connect_timeout)
        self._socket_path = endpoint.socket_path
        self._context = context
        # When its last response was complete, on the clock.
        self.idle_since = -math.inf
        # Whether another request can follow: the last one was sent to its end.
        self.is_whole = True

    @property
    def was_used(self) -> bool:
        """Whether it had a request before, so that the server may have closed it meanwhile."""
        return self.idle_since > -math.inf

    def connect(self) -> None:
        if self._socket_path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.connect_timeout)
            self.sock.connect(self._socket_path)
        else:
            super().connect()
        self.sock.settimeout(self.silence_timeout)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)

    def set_timeout(self, seconds: float) -> None:
        """Set how long the server may be silent, in a response and while it takes a body."""
        self.silence_timeout = seconds
        self.sock.settimeout(seconds)

    def send_head(self, method: str, target: str, fields: Mapping[str, str], size: int) -> None:
        """Send the head of a request whose body has `size` bytes."""
        self.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in fields.items():
            self.putheader(name, value)
        if size or method in _WITH_BODY:
            self.putheader("Content-Length", str(size))
        self.endheaders()

    def send_all(self, data: Bytes) -> None:
        """Send bytes for as long as the server takes some: `sendall` would give all `silence_timeout` together."""
        left = memoryview(data).cast("B")
        while left:
            if self.clock() > self.deadline:
                raise TimeoutError("the body was not taken in time")
            left = left[self.sock.send(left) :]

    def send_file(self, part: FilePart) -> None:
        # `sendfile` where the connection is not encrypted.
        sent = self.sock.sendfile(part.file, part.start, part.size)
        if sent < part.size:
            raise OSError(f"a staged file ended {part.size - sent} bytes before its size")

    def send_blocks(self, blocks: Iterable[Bytes]) -> None:
        """Send the body of a request, until its end or until the server answers.

        A refusal comes before the end of the body, and the rest of it would be sent in vain. The connection may break
        behind the response, so the caller reads that first. Each send may take as long as the timeout.
        """
        self.is_whole = False
        for block in blocks:
            left = memoryview(block)
            while left:
                if self._has_response():
                    return
                left = left[self.sock.send(left) :]
        self.is_whole = True

    def is_stale(self, max_idle: float) -> bool:
        """Whether it was idle for longer, or the server has closed it, or sent what was not asked for."""
        return self.sock is None or self.clock() - self.idle_since > max_idle or self._is_readable()

    def _has_response(self) -> bool:
        """Whether more than interim responses has come, of which proxies send some during an upload that takes long."""
        # By TLS, other messages than a response arrive, too: only reading would tell.
        if self._context is not None or not self._is_readable():
            return False
        return not _is_interim(self.sock.recv(_PEEKED, socket.MSG_PEEK))

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


def _is_interim(data: bytes) -> bool:
    """Whether these are interim responses alone. The last one may not have come whole."""
    if not data or len(data) == _PEEKED:
        return False
    matched = _INTERIM.match(data)
    rest = data if matched is None else data[matched.end() :]
    # One that has come whole is none of them.
    if _HEAD_END.search(rest):
        return False
    return any(each.startswith(rest[: len(each)]) for each in _INTERIM_BEGINNINGS)


class ConnectionPool:
    """Connections to one server. Any thread calls it."""

    def __init__(
        self, make: Callable[[], HttpConnection], *, size: int, max_idle: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """`size` is how many idle ones are kept, each for `max_idle` seconds at most."""
        self._make = make
        self._max_idle = max_idle
        self._clock = clock
        self._idle: IdlePool[HttpConnection] = IdlePool(size)

    def __len__(self) -> int:
        return len(self._idle)

    def acquire(self, *, max_idle: float = math.inf) -> HttpConnection:
        """Return a connection. Raises OSError where none can be made.

        One that was idle for longer than `max_idle` seconds is not used; a negative number asks for a new one.
        """
        while (kept := self._idle.acquire()) is not None:
            if not kept.is_stale(min(max_idle, self._max_idle)):
                # The last request may have had less time, or more.
                kept.sock.settimeout(kept.silence_timeout)
                return kept
            kept.close()
        made = self._make()
        made.clock = self._clock.now
        try:
            made.connect()
        except BaseException:
            made.close()
            raise
        return made

    def release(self, connection: HttpConnection) -> None:
        """Keep a connection whose last response was read to its end."""
        connection.idle_since = self._clock.now()
        connection.deadline = math.inf
        self._idle.release(connection)

    def close(self) -> None:
        """Close the idle connections. The next request opens one."""
        self._idle.close()


class HttpExchange:
    """A request that was sent, and its response, whose body is not read yet. One thread at a time uses it.

    It is read to its end, or closed.
    """

    def __init__(self, connection: HttpConnection, response: BoundedResponse, pool: ConnectionPool) -> None:
        self.status = response.status
        # By names in lower case.
        self.fields = response.fields
        # Of the body, in bytes; None where the head has none.
        self.size = response.size
        self._response = response
        # None once another request may use it.
        self._connection: HttpConnection | None = connection
        self._pool = pool

    def limit(self, until: float) -> None:
        """Set when the last byte must have come, on the clock of the connection."""
        if self._connection is not None:
            self._connection.deadline = until

    def limit_time(self, timeout: float) -> None:
        """Set how many seconds from now on the last byte may take."""
        if self._connection is not None:
            self._connection.deadline = self._connection.clock() + timeout

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end. Raises one of FAILURES."""
        try:
            data = self._response.read(size)
        except BaseException:
            self.close()
            raise
        if self._response.is_read:
            self.close()
        return data

    def read_all(self, limit: int) -> bytes:
        """Return the whole body. Raises InvalidResponse where it has more than `limit` bytes."""
        try:
            return self._response.read_all(limit)
        finally:
            self.close()

    def close(self) -> None:
        """Keep the connection if another request can follow on it, else close it. A second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.is_whole and self._response.is_read and not self._response.closes:
            self._pool.release(connection)
        else:
            connection.close()


def tls_context(cafile: str | None = None) -> ssl.SSLContext:
    """Return a context that trusts the certificates of a file, or of the system, or those that SSL_CERT_FILE names.

    Raises OSError where the file has none.
    """
    # It takes 1 MiB, which a process without TLS does not need.
    import ssl

    return ssl.create_default_context(cafile=cafile)
