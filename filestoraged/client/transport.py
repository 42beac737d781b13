"""Requests to a daemon, and its responses. Refusals become errors here, in `refusals`; nothing is tried twice."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from filestoraged.client.connection import Connection, ConnectionPool
from filestoraged.client.hashing import BLOCK_SIZE
from filestoraged.client.location import Location
from filestoraged.client.refusals import refusal
from filestoraged.digest import Bytes
from filestoraged.errors import BadRequest, ServerUnreachable, UnexpectedResponse, UsageError, quoted
from filestoraged.net.bounded_response import BoundedResponse, InvalidResponse
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

_TOKEN = re.compile(r"[!-~]+")

_BROKEN = "the connection broke"


class Response:
    """A response whose body is not read yet. One thread uses it; it is read to its end, or closed."""

    def __init__(self, raw: BoundedResponse, connection: Connection, pool: ConnectionPool, *, whole: bool):
        """`whole`: the request was sent to its end, so that the connection can be used again."""
        self.status = raw.status
        # By names in lower case.
        self.fields = raw.fields
        self._raw = raw
        # None once another request may use it.
        self._connection: Connection | None = connection
        self._pool = pool
        self._is_whole = whole

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end. Raises ServerUnreachable where the body breaks off."""
        try:
            data = self._raw.read(size)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _failure(error, f"{_BROKEN} within a response") from error
        if self._raw.is_read:
            self._release()
        return data

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
        if self._connection is not None:
            self._connection.deadline = self._connection.clock() + _DOCUMENT_TIMEOUT
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

    def close(self) -> None:
        """Close the connection, unless the body was read to its end and another request may use it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._is_whole and not self._raw.closes:
            self._pool.release(connection)
        else:
            connection.close()


class Transport:
    """Sends requests to one daemon. Any thread calls it."""

    def __init__(
        self, location: Location, *, token: str | None = None, timeout: float = TIMEOUT, cacert: str | None = None
    ) -> None:
        if token is not None and not _TOKEN.fullmatch(token):
            raise UsageError("invalid token: expected visible ASCII characters")
        self.location = location
        self.has_token = token is not None
        self._fields = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._pool = ConnectionPool(location, timeout=timeout, cacert=cacert)

    def request(
        self,
        method: str,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        body: Iterable[Bytes] | None = None,
        size: int = 0,
    ) -> Response:
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
    ) -> Response:
        try:
            connection = self._pool.acquire()
        except OSError as error:
            raise _unreachable(self.location, error) from error
        try:
            _send_head(connection, method, self._target(path), self._host(fields), size)
            whole = body is None or _send_body(connection, body)
            if size:
                connection.set_timeout(_UPLOAD_TIMEOUT)
            raw = connection.receive()
            connection.set_timeout(self._timeout)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _failure(error, _BROKEN) from error
        except BaseException:
            # The source failed, or the program is interrupted: the request is not complete, and nothing is stored.
            connection.close()
            raise
        return Response(raw, connection, self._pool, whole=whole)

    def _target(self, path: str) -> str:
        return self.location.prefix + path or "/"

    def _host(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        return {"Host": self.location.host_field, "User-Agent": "filestoraged", **fields}


class _Tracked:
    """Blocks of a body; knows whether all were handed over."""

    def __init__(self, blocks: Iterable[Bytes]) -> None:
        self._blocks = blocks
        self.ended = False

    def __iter__(self) -> Iterator[Bytes]:
        yield from self._blocks
        self.ended = True


def _send_head(connection: Connection, method: str, target: str, fields: Mapping[str, str], size: int) -> None:
    connection.putrequest(method, target, skip_host=True)
    for name, value in fields.items():
        connection.putheader(name, value)
    if size or method in ("POST", "PUT", "PATCH"):
        connection.putheader("Content-Length", str(size))
    connection.endheaders()


def _send_body(connection: Connection, body: Iterable[Bytes]) -> bool:
    """Send a body. Returns whether all of it was sent: the server may answer before."""
    tracked = _Tracked(body)
    try:
        connection.send_body(tracked)
    except (BrokenPipeError, ConnectionResetError):
        # The server has answered and closed the connection; the answer may still be there.
        return False
    return tracked.ended


def _body_of(response: Response) -> bytes:
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
    return ServerUnreachable(f"{broken}: {_described(error)}")


def _unreachable(location: Location, error: OSError) -> ServerUnreachable:
    reason = error.strerror or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not valid: {error.verify_message}; --cacert names other certificates"
    missing = isinstance(error, socket.gaierror) and error.errno == socket.EAI_NONAME
    may_retry = not missing and not isinstance(error, ssl.SSLCertVerificationError)
    return ServerUnreachable(f"cannot connect to {location.origin}: {reason}", may_retry=may_retry)


def _described(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _shown(response: Response, body: bytes) -> str:
    kind = response.fields.get("content-type", "no type")
    return f"{response.status} with {quoted(body[:40].decode('latin-1'))} ({quoted(kind)})"
