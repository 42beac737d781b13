"""One request to an S3 store and its answer: signed, sent on a kept connection if there is one, and read."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Bytes
from filestoraged.net.bounded_response import BoundedResponse
from filestoraged.store.s3.answers import MAX_BODY_SIZE, REFUSED_CREDENTIALS, Answer, error_of
from filestoraged.store.s3.connection import MAX_IDLE, Connect, ConnectionPool, StoreConnection
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.retries import FAILURES, Retryable
from filestoraged.store.s3.signing import EMPTY_SHA256, Credentials, encode_query, signed_fields
from filestoraged.store.s3.url import Location

NO_FIELDS: Mapping[str, str] = {}

# In bytes. Sending a longer body may take its time; the answer to it gets a time of its own.
_LONG_BODY = 1024 * 1024

# Makes `ConnectionPool.acquire` return a new connection.
_NEVER_USED = -1.0


class FilePart(NamedTuple):
    """The body of a request: a part of a file, in bytes."""

    file: BinaryIO
    start: int
    size: int


Body = Bytes | FilePart


class Request(NamedTuple):
    """A request that is not signed yet. Names of header fields are in lower case."""

    method: str
    key: str = ""
    query: Sequence[tuple[str, str]] = ()
    fields: Mapping[str, str] = NO_FIELDS
    body: Body = b""
    sha256: str = EMPTY_SHA256

    @property
    def size(self) -> int:
        return self.body.size if isinstance(self.body, FilePart) else len(self.body)


class Exchange(NamedTuple):
    """A request that was sent, with the head of its answer. The credentials are those that signed it."""

    connection: StoreConnection
    response: BoundedResponse
    credentials: Credentials


class Transport:
    """Any thread calls it. What fails raises one of FAILURES, or StoreUnavailable without credentials."""

    def __init__(
        self,
        location: Location,
        credentials: CredentialSource,
        *,
        connect: Connect,
        region: str,
        connections: int,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.location = location
        self.pool = ConnectionPool(location, connect, size=connections, clock=clock)
        self._credentials = credentials
        self._region = region

    def exchange(self, request: Request, until: float) -> Exchange:
        """Send a request. Its answer must be complete `until` then, on the monotonic clock.

        The store may have closed a kept connection meanwhile; then a new one is used at once.
        """
        max_idle = MAX_IDLE
        while True:
            credentials = self._credentials.current()
            connection, was_used = self.pool.acquire(max_idle=max_idle)
            try:
                connection.deadline = until
                return Exchange(connection, self._send(connection, request, credentials), credentials)
            except FAILURES as failure:
                connection.close()
                if not was_used or isinstance(failure, TimeoutError):
                    raise
                max_idle = _NEVER_USED
            except BaseException:
                connection.close()
                raise

    def begin(self, request: Request, *, max_idle: float) -> tuple[StoreConnection, Credentials]:
        """Send the head of a request, whose body follows on the connection."""
        credentials = self._credentials.current()
        connection, _ = self.pool.acquire(max_idle=max_idle)
        try:
            self._send_head(connection, request, credentials)
        except BaseException:
            connection.close()
            raise
        return connection, credentials

    def answer_of(self, exchange: Exchange) -> Answer:
        """Read an answer to its end. Raises Retryable where an equal request may succeed."""
        connection, response, credentials = exchange
        try:
            body = response.read_all(MAX_BODY_SIZE)
        except BaseException:
            connection.close()
            raise
        self.pool.finish(connection, response)
        answer = Answer(response.status, response.fields, body)
        if answer.is_retried or (answer.code in REFUSED_CREDENTIALS and self._credentials.reread(credentials)):
            raise Retryable(error_of(answer))
        return answer

    def _send(self, connection: StoreConnection, request: Request, credentials: Credentials) -> BoundedResponse:
        body, size = request.body, request.size
        if size or request.method in ("PUT", "POST"):
            request = request._replace(fields={**request.fields, "content-length": str(size)})
        self._send_head(connection, request, credentials)
        try:
            if isinstance(body, FilePart):
                _send_file(connection, body)
            elif size:
                connection.send_all(body)
        except (BrokenPipeError, ConnectionResetError):
            # The store may have refused the body before its end: its answer says why.
            return connection.receive()
        if size > _LONG_BODY:
            connection.deadline = max(connection.deadline, connection.clock() + connection.silence_timeout)
        return connection.receive()

    def _send_head(self, connection: StoreConnection, request: Request, credentials: Credentials) -> None:
        path, query = self.location.path(request.key), encode_query(request.query)
        fields = signed_fields(
            request.method,
            path,
            query,
            {"host": self.location.authority, **request.fields},
            sha256=request.sha256,
            credentials=credentials,
            region=self._region,
            now=time.time(),
        )
        connection.open()
        target = f"{path}?{query}" if query else path
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in fields.items():
            connection.putheader(name, value)
        connection.endheaders()


def _send_file(connection: StoreConnection, part: FilePart) -> None:
    # `sendfile` where the connection is not encrypted.
    sent = connection.sock.sendfile(part.file, part.start, part.size)
    if sent < part.size:
        raise OSError(f"a staged file ended {part.size - sent} bytes before its size")
