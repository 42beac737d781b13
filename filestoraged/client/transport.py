"""Requests to a daemon, and its responses. Refusals become errors here, in `refusals`; nothing is tried twice."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from filestoraged.client.hashing import BLOCK_SIZE
from filestoraged.client.location import DaemonURL
from filestoraged.client.refusals import ServerUnreachable, UnexpectedResponse, refusal
from filestoraged.command_errors import UsageError
from filestoraged.digest import Bytes
from filestoraged.errors import BadRequest, quoted
from filestoraged.net.bounded_response import InvalidResponse
from filestoraged.net.connection import (
    FAILURES,
    ConnectionPool,
    HttpConnection,
    HttpExchange,
    ServerAddress,
    tls_context,
)
from filestoraged.net.pool import describe
from filestoraged.wire.json_text import parse_object

# Seconds that a server may be silent, in a response or while it takes a body.
TIMEOUT = 60.0

# Seconds until the response to an upload begins: the daemon syncs what it has received, or copies it to an S3 store.
_UPLOAD_TIMEOUT = 600.0

# The largest body of a response other than an object, in bytes: a page of a listing has 10,000 entries of 150 bytes.
_MAX_DOCUMENT = 4 * 1024 * 1024

# Seconds until all of it has come, by a slow connection too: a server may send a byte a second.
_DOCUMENT_TIMEOUT = 300.0

# The body of an error is a sentence; a proxy's is a page.
_MAX_REFUSAL = 64 * 1024

# The body of a response that has nothing to say.
_MAX_IGNORED = 64 * 1024

# Seconds after which a kept connection is not used again: the daemon closes it after 60 s, some proxies after 5 s.
_MAX_IDLE = 4.0

# Connections that are kept: as many threads find one at once.
_MAX_KEPT = 8

# Of every request.
_FIELDS = {"User-Agent": "filestoraged", "Accept-Encoding": "identity"}

_TOKEN = re.compile(r"[!-~]+")

_BROKEN = "the connection broke"


class DaemonConnection(HttpConnection):
    def __init__(self, endpoint: ServerAddress, context: ssl.SSLContext | None, *, timeout: float) -> None:
        self.connect_timeout = self.silence_timeout = timeout
        super().__init__(endpoint, context)


class ClientResponse(HttpExchange):
    """A response whose body is not read yet. Its errors are those of a client."""

    def __enter__(self) -> ClientResponse:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end. Raises ServerUnreachable where the body breaks off."""
        try:
            return super().read(size)
        except FAILURES as error:
            raise _failure(error, f"{_BROKEN} within a response") from error

    def require_status(self, status: int) -> None:
        """Raise UnexpectedResponse for another status, of which all from 300 on are raised before."""
        if self.status != status:
            self.close()
            raise UnexpectedResponse(f"the server is no filestoraged: it answered {self.status}")

    def blocks(self) -> Iterator[bytes]:
        while block := self.read(BLOCK_SIZE):
            yield block

    def document(self) -> dict[str, Any]:
        """Return the JSON object that the body is. Raises UnexpectedResponse."""
        body = self.body(_MAX_DOCUMENT)
        try:
            return parse_object(body)
        except BadRequest as error:
            raise UnexpectedResponse(f"the server is no filestoraged: it answered {_shown(self, body)}") from error

    def body(self, limit: int) -> bytes:
        """Return the whole body. Raises UnexpectedResponse if it has more bytes than `limit`, or takes too long."""
        self.limit_time(_DOCUMENT_TIMEOUT)
        collected = bytearray()
        for block in self.blocks():
            collected += block
            if len(collected) > limit:
                self.close()
                raise UnexpectedResponse(f"the server is no filestoraged: its answer exceeds {limit} bytes")
        return bytes(collected)

    def discard(self) -> None:
        """Read the body, so that another request can use the connection."""
        self.body(_MAX_IGNORED)


class ClientTransport:
    """Sends requests to one daemon. Any thread calls it."""

    def __init__(
        self, location: DaemonURL, *, token: str | None = None, timeout: float = TIMEOUT, cacert: str | None = None
    ) -> None:
        if token is not None and not _TOKEN.fullmatch(token):
            raise UsageError("invalid token: expected visible ASCII characters")
        self.location = location
        self.has_token = token is not None
        self._fields = _FIELDS if token is None else {**_FIELDS, "Authorization": f"Bearer {token}"}
        self._timeout = timeout
        context = _make_context(cacert) if location.endpoint.is_encrypted else None
        self._pool = ConnectionPool(
            lambda: DaemonConnection(location.endpoint, context, timeout=timeout), size=_MAX_KEPT, max_idle=_MAX_IDLE
        )

    def request(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        body: Iterable[Bytes] | None = None,
        size: int = 0,
    ) -> ClientResponse:
        """Send a request with a body of `size` bytes, and return the response, of a status below 300.

        `path` follows the prefix of the location, and is percent-encoded. Raises ServerUnreachable, UnexpectedResponse,
        and the error that the response is.
        """
        response = self._exchange(method, path, {**self._fields, **(fields or {})}, body, size)
        if response.status < 300:
            return response
        with response:
            raise refusal(method, response.status, response.fields, _body_of(response))

    def close(self) -> None:
        self._pool.close()

    def _exchange(
        self, method: str, path: str, fields: Mapping[str, str], body: Iterable[Bytes] | None, size: int
    ) -> ClientResponse:
        try:
            connection = self._pool.acquire()
        except OSError as error:
            raise _unreachable(self.location.endpoint, error) from error
        try:
            fields = {"Host": self.location.endpoint.authority, **fields}
            connection.send_head(method, self.location.prefix + path or "/", fields, size)
            if body is not None:
                _send_body(connection, body)
            if size:
                connection.set_timeout(_UPLOAD_TIMEOUT)
            raw = connection.receive()
            connection.set_timeout(self._timeout)
        except FAILURES as error:
            connection.close()
            raise _failure(error, _BROKEN) from error
        except BaseException:
            # The source failed, or the program is interrupted: the request is not complete, and nothing is stored.
            connection.close()
            raise
        return ClientResponse(connection, raw, self._pool)


def _send_body(connection: HttpConnection, body: Iterable[Bytes]) -> None:
    # The server has answered and closed the connection; the response may still be there.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send_blocks(body)


def _body_of(response: ClientResponse) -> bytes:
    """Return the body of a refusal, nothing where it is none of the daemon."""
    try:
        return response.body(_MAX_REFUSAL)
    except (ServerUnreachable, UnexpectedResponse):
        return b""


def _failure(error: OSError | http.client.HTTPException, broken: str) -> ServerUnreachable | UnexpectedResponse:
    """The error of a failed exchange; `broken` says what has happened to the connection, if something has."""
    if isinstance(error, InvalidResponse):
        return UnexpectedResponse(f"the server is no filestoraged: {error}")
    if isinstance(error, http.client.IncompleteRead):
        return ServerUnreachable(f"{broken}: {error.expected or 'some'} bytes of the response are missing")
    return ServerUnreachable(f"{broken}: {describe(error)}")


def _unreachable(endpoint: ServerAddress, error: OSError) -> ServerUnreachable:
    reason = error.strerror or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not valid: {error.verify_message}; --cacert names other certificates"
    missing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
    may_retry = not missing and not isinstance(error, ssl.SSLCertVerificationError)
    return ServerUnreachable(f"cannot connect to {endpoint}: {reason}", may_retry=may_retry)


def _make_context(cacert: str | None) -> ssl.SSLContext:
    try:
        return tls_context(cacert)
    except OSError as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else "it has no certificates in PEM"
        raise UsageError(f"cannot read the certificates {cacert!r}: {reason or error}") from error


def _shown(response: ClientResponse, body: bytes) -> str:
    kind = response.fields.get("content-type", "no type")
    return f"{response.status} with {quoted(body[:40].decode('latin-1'))} ({quoted(kind)})"
