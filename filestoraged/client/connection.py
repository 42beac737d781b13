"""Connections to a daemon, and the idle ones that are kept for the next requests.

Not `http.client.HTTPSConnection` for TLS: a program may have imported `http.client` while `ssl` was hidden.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Iterable

from filestoraged.client.location import Location
from filestoraged.digest import Bytes
from filestoraged.errors import UsageError
from filestoraged.net.bounded_response import BoundedConnection

# Seconds after which a kept connection is not used again: the daemon closes it after 60 s, some proxies after 5 s.
_MAX_IDLE = 4.0

# Connections that are kept: as many threads find one at once.
_MAX_KEPT = 8

# Bytes that are looked at for interim responses, and one or more whole heads of these. Longer ones are read as an
# answer, which bounds them.
_PEEKED = 4096
_INTERIM = re.compile(rb"(?:HTTP/1\.[01] 1[0-9]{2}[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n)+")


class Connection(BoundedConnection):
    """One thread at a time uses it."""

    def __init__(self, location: Location, *, timeout: float, context: ssl.SSLContext | None) -> None:
        super().__init__(location.host, location.port, timeout=timeout)
        self._location = location
        self._context = context
        self.silence_timeout = timeout
        self.idle_since = 0.0

    def connect(self) -> None:
        if self._location.socket_path:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._location.socket_path)
        else:
            super().connect()
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self.host)

    def send_body(self, blocks: Iterable[Bytes]) -> None:
        """Send the body of a request, until its end or until the server answers.

        A refusal comes before the end of the body, and the rest of it would be sent in vain. The connection may break
        behind the answer, so the caller reads that first. Each send may take as long as the timeout.
        """
        for block in blocks:
            left = memoryview(block)
            while left:
                if self._has_answer():
                    return
                left = left[self.sock.send(left) :]

    def set_timeout(self, seconds: float) -> None:
        """Set how long the server may be silent, in a response and while it takes a body."""
        self.silence_timeout = seconds
        self.sock.settimeout(seconds)

    @property
    def is_stale(self) -> bool:
        """Whether the server has closed the idle connection, or sent what was not asked for."""
        return time.monotonic() - self.idle_since > _MAX_IDLE or self._is_readable()

    def _has_answer(self) -> bool:
        """Whether more than interim responses has come, of which proxies send some during an upload that takes long."""
        # By TLS, other messages than an answer arrive, too: only reading would tell.
        if self._context is not None or not self._is_readable():
            return False
        return _INTERIM.fullmatch(self.sock.recv(_PEEKED, socket.MSG_PEEK)) is None

    def _is_readable(self) -> bool:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


class ConnectionPool:
    """Any thread calls it. Connections belong to the process that made them, so a fork is harmless."""

    def __init__(self, location: Location, *, timeout: float, cacert: str | None) -> None:
        """`cacert` is a file of certificates to trust instead of the system's. Raises UsageError if it has none."""
        self.location = location
        self._timeout = timeout
        self._context = _make_context(cacert) if location.scheme == "https" else None
        self._forget()

    def acquire(self) -> Connection:
        """Return a connection. Raises OSError where none can be made."""
        if self._owner != os.getpid():
            # Without closing them: the sockets of a parent are in use there.
            self._forget()
        # A deque's methods are atomic.
        with contextlib.suppress(IndexError):
            while True:
                kept = self._idle.pop()
                if not kept.is_stale:
                    return kept
                kept.close()
        made = Connection(self.location, timeout=self._timeout, context=self._context)
        try:
            made.connect()
        except BaseException:
            made.close()
            raise
        return made

    def release(self, connection: Connection) -> None:
        """Keep a connection whose last answer was read to its end."""
        if connection.sock is None or self._owner != os.getpid() or len(self._idle) >= _MAX_KEPT:
            connection.close()
            return
        connection.set_timeout(self._timeout)
        connection.deadline = math.inf
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections. The next request opens one."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._idle: deque[Connection] = deque()


def _make_context(cacert: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=cacert)
    except OSError as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else "it has no certificates in PEM"
        raise UsageError(f"cannot read the certificates {cacert!r}: {reason or error}") from error
