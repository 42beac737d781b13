"""The response of another machine to one request, received within bounds of bytes and of time.

Whatever the machine sends, a reader waits no longer than the connection says, allocates no more than it has asked for,
and gets an `OSError` or an `http.client.HTTPException`. Syntax is that of RFC 9112, exactly: `http.client` reads a
negative chunk size as "all that comes", and skips responses with the status 100 for ever.

| what | bound |
|---|---|
| a head, and those of interim responses before it | MAX_HEAD bytes, MAX_INTERIM interim responses |
| a line of a chunked body, its trailers | those of `wire.body` |
| a head, or the next bytes of a body with all framing before them | silence_timeout seconds, however they come |
| a body that `read_all` returns | its `limit` in bytes |
| all that comes | the connection's deadline |
"""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.errors import MalformedRequest, quoted
from filestoraged.wire.body import Chunked, Framing, Sized
from filestoraged.wire.grammar import members, parse_decimal
from filestoraged.wire.head import parse_field_lines

# In bytes. Stores and daemons send less than 2 KiB, proxies in front add cookies and policies of some KiB.
MAX_HEAD = 64 * 1024

# Proxies send one for an upload that takes long.
MAX_INTERIM = 8

# Of one read from the socket, in bytes: a body grows as it comes, not as it is announced.
_MAX_PIECE = 256 * 1024

# The same for a body in chunks: of one byte each, they take 30 times as much memory while they are decoded.
_MAX_CHUNKED_PIECE = 32 * 1024

# RFC 9112, section 4. Some servers leave the space in front of an empty reason out.
_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: [\t -~\x80-\xff]*)?\r\n")

_SWITCHING_PROTOCOLS = 101

# They have no body (RFC 9112, section 6.3).
_BODILESS = (204, 304)


class InvalidResponse(http.client.HTTPException):
    """What was received is no response, or exceeds a bound. Another attempt would fail in the same way."""


class SlowResponse(InvalidResponse, TimeoutError):
    """Bytes came, but too slowly. An endpoint that sends nothing is a plain TimeoutError."""


class _StatusLine(NamedTuple):
    minor_version: int
    status: int

    @property
    def is_interim(self) -> bool:
        return self.status < 200


class BoundedConnection(http.client.HTTPConnection):
    """A connection whose responses are bounded. One thread at a time uses it."""

    # Seconds for which the other machine may send none of what is waited for.
    silence_timeout: float

    # When all that is received must have come, by `clock`.
    deadline = math.inf

    # The clock of deadlines, in seconds.
    clock: Callable[[], float] = staticmethod(SYSTEM_CLOCK.now)

    def connect(self) -> None:
        try:
            super().connect()
        except UnicodeError as error:
            # Of the codec "idna", which all names go through: an empty label, or a long one.
            raise socket.gaierror(socket.EAI_NONAME, "invalid host name") from error

    def receive(self) -> BoundedResponse:
        """Receive the head of the response to the request that was sent."""
        return cast(BoundedResponse, self.getresponse())

    def response_class(self, sock: socket.socket, _: int = 0, **settings: Any) -> Any:  # type: ignore[override]
        """What `http.client` makes of the socket for a response."""
        return BoundedResponse(self, sock, settings.get("method"))


class BoundedResponse:
    """A response whose body is not read yet. One thread at a time uses it. `size` is None where the head has none."""

    # For `http.client`, which would close the connection before the body is read.
    will_close = False

    def __init__(self, connection: BoundedConnection, sock: socket.socket, method: str | None) -> None:
        self.status = 0
        # By names in lower case. Values of one name are joined with ", ".
        self.fields: Mapping[str, str] = {}
        # Whether the connection ends behind it.
        self.closes = False
        self._source = _Source(connection, sock)
        self._file = io.BufferedReader(self._source, 64 * 1024)
        self._method = method
        # None where the body ends with the connection.
        self._framing: Framing | None = None
        self._is_read = False

    @property
    def size(self) -> int | None:
        return None if self._framing is None else self._framing.size

    @property
    def is_read(self) -> bool:
        """Whether the body was read to its end."""
        return self._is_read if self._framing is None else self._framing.done

    def begin(self) -> None:
        """Receive the head. `http.client` calls it."""
        self._source.wait_for_all()
        left = MAX_HEAD
        for _ in range(MAX_INTERIM + 1):
            head = self._receive_head(left)
            left -= len(head)
            line, fields = _parse_head(head)
            if line.status == _SWITCHING_PROTOCOLS:
                raise InvalidResponse("the response switches to another protocol")
            if not line.is_interim:
                break
        else:
            raise InvalidResponse(f"more than {MAX_INTERIM} interim responses")
        self.status, self.fields = line.status, fields
        self._frame(line)

    def read(self, size: int) -> bytes:
        """Return so many bytes of the body, fewer only at its end, or at that of the connection.

        Then the next call raises IncompleteRead.
        """
        piece = self._read_piece(size)
        if len(piece) == size or not piece:
            return piece
        # Not a list: a piece may be a byte.
        collected = bytearray(piece)
        with contextlib.suppress(http.client.IncompleteRead):
            while len(collected) < size and (piece := self._read_piece(size - len(collected))):
                collected += piece
        return bytes(collected)

    def read_all(self, limit: int) -> bytes:
        """Return the whole body. Raises InvalidResponse where it has more than `limit` bytes."""
        if (self.size or 0) > limit:
            raise InvalidResponse(f"a response of {self.size} bytes: expected at most {limit}")
        body = self.read(limit + 1)
        if len(body) > limit:
            raise InvalidResponse(f"a response of more than {limit} bytes")
        if not self.is_read:
            raise http.client.IncompleteRead(body)
        return body

    def isclosed(self) -> bool:
        """Whether the connection can have another request; for `http.client`."""
        return self.is_read

    def close(self) -> None:
        """Does nothing: the connection owns the socket. For `http.client`."""

    def _frame(self, line: _StatusLine) -> None:
        """Find out where the body ends. RFC 9112, section 6.3."""
        coding, length = self.fields.get("transfer-encoding"), self.fields.get("content-length")
        options = members(self.fields.get("connection", "").lower())
        self.closes = "close" in options or (line.minor_version == 0 and "keep-alive" not in options)
        if self._method == "HEAD" or line.status in _BODILESS:
            self._framing = Sized(0)
        elif coding is not None:
            if coding.strip(" \t").lower() != "chunked":
                raise InvalidResponse(f"unknown transfer coding {quoted(coding)}: expected chunked")
            self._framing = Chunked()
            # Section 6.1: another machine on the way may have read the other field.
            self.closes = self.closes or length is not None or line.minor_version == 0
        elif length is not None:
            size = parse_decimal(length)
            if size is None:
                raise InvalidResponse(f"invalid Content-Length {quoted(length)}: expected a decimal number")
            self._framing = Sized(size)
        else:
            self.closes = True

    def _receive_head(self, limit: int) -> bytes:
        """Return a head with its empty line. Raises RemoteDisconnected where the connection ends before."""
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):
            line = self._file.readline(limit + 1 - len(head))
            head += line
            if len(head) > limit:
                raise InvalidResponse(f"the head of the response exceeds {MAX_HEAD} bytes")
            if not line.endswith(b"\n"):
                raise http.client.RemoteDisconnected("the connection ended before the response")
            if not line.endswith(b"\r\n"):
                raise InvalidResponse(f"a line of the head ends with LF: {quoted(line.decode('latin-1'))}")
            if len(head) == len(line):
                # At once: another protocol may have no empty line.
                _parse_status_line(line)
        return bytes(head)

    def _read_piece(self, size: int) -> bytes:
        """Return some bytes of the body, `size` at most, none at its end."""
        if self.is_read or not size:
            return b""
        if isinstance(self._framing, Chunked):
            self._source.wait_for_all()
            return self._read_chunks(self._framing, min(size, _MAX_CHUNKED_PIECE))
        self._source.wait_for_each()
        left = math.inf if self._framing is None else self._framing.left
        data = self._file.read(int(min(size, left, _MAX_PIECE)))
        if self._framing is None:
            self._is_read = not data
        elif data:
            self._framing.decode(memoryview(data))
        else:
            raise http.client.IncompleteRead(b"", int(left))
        return data

    def _read_chunks(self, framing: Chunked, size: int) -> bytes:
        decoded = bytearray()
        while not decoded and not framing.done:
            data = self._file.read1(size)
            if not data:
                raise http.client.IncompleteRead(b"")
            try:
                pieces, _ = framing.decode(memoryview(data))
            except MalformedRequest as error:
                raise InvalidResponse(str(error)) from error
            for piece in pieces:
                decoded += piece
        return bytes(decoded)


class _Source(io.RawIOBase):
    """The bytes of a connection. What is waited for must come whole in time, not only a byte of it."""

    def __init__(self, connection: BoundedConnection, sock: socket.socket) -> None:
        self._connection = connection
        self._sock = sock
        self._until = math.inf
        self._each_counts = False
        self._has_come = False

    def wait_for_all(self) -> None:
        """Begin to wait for framing, which must come whole: if each byte counted, it could come for ever."""
        self.wait_for_each()
        self._each_counts = False

    def wait_for_each(self) -> None:
        """Begin to wait for bytes of a body. With each, the time begins anew."""
        self._until = self._connection.clock() + self._connection.silence_timeout
        self._each_counts = True
        self._has_come = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        connection = self._connection
        left = min(self._until, connection.deadline) - connection.clock()
        try:
            if left <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(left)
            count = self._sock.recv_into(buffer)
        except TimeoutError as error:
            if not self._has_come and connection.clock() < connection.deadline:
                raise
            raise SlowResponse("the response is not complete in time") from error
        if self._each_counts:
            self.wait_for_each()
        else:
            self._has_come = True
        return count


def _parse_head(head: bytes) -> tuple[_StatusLine, Mapping[str, str]]:
    line = _parse_status_line(head)
    fields: dict[str, str] = {}
    try:
        pairs = parse_field_lines(head, head.index(b"\r\n") + 2)
    except MalformedRequest as error:
        raise InvalidResponse(str(error)) from error
    for name, value in pairs:
        if name not in fields:
            fields[name] = value
        elif name != "content-length" or value != fields[name]:
            fields[name] += f", {value}"
    return line, fields


def _parse_status_line(line: bytes) -> _StatusLine:
    matched = _STATUS_LINE.match(line)
    if matched is None:
        raise InvalidResponse(f"invalid status line {quoted(line.decode('latin-1'))}: expected HTTP/1.1")
    return _StatusLine(int(matched[1]), int(matched[2]))
