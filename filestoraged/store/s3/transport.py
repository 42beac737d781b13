"""One request to an S3 store and its answer: signed, sent on a kept connection if there is one, and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.digest import Bytes
from filestoraged.net.bounded_response import BoundedResponse
from filestoraged.net.connection import (
    FAILURES,
    ConnectionPool,
    FilePart,
    HttpConnection,
    HttpExchange,
    ServerAddress,
    tls_context,
)
from filestoraged.store.s3.answers import MAX_BODY_SIZE, REFUSED_CREDENTIALS, Answer, error_of
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.retries import Retryable
from filestoraged.store.s3.signing import EMPTY_SHA256, Credentials, encode_query, signed_fields
from filestoraged.store.s3.url import StoreURL

if TYPE_CHECKING:
    import ssl

NO_FIELDS: Mapping[str, str] = {}

# Seconds for which a connection is kept. Stores close idle ones after 5 s (Go) to 65 s (Ceph).
_MAX_IDLE = 30.0

# In bytes. Sending a longer body may take its time; the answer to it gets a time of its own.
_LONG_BODY = 1024 * 1024

# Makes `ConnectionPool.acquire` return a new connection.
_NEVER_USED = -1.0

Body = Bytes | FilePart


class StoreConnection(HttpConnection):
    # A host that does not answer within that is not reached; a SYN is sent again after 1 s and 3 s.
    connect_timeout = 4.0

    silence_timeout = 12.0


# How a connection is made: `StoreConnection` itself, or one of a test. The context is None without TLS.
Connect = Callable[[ServerAddress, "ssl.SSLContext | None"], StoreConnection]


class S3Request(NamedTuple):
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


class SignedExchange(HttpExchange):
    """A request that was sent, with the head of its answer. The credentials are those that signed it."""

    def __init__(
        self, connection: HttpConnection, response: BoundedResponse, pool: ConnectionPool, credentials: Credentials
    ) -> None:
        super().__init__(connection, response, pool)
        self.credentials = credentials


class SignedTransport:
    """Any thread calls it. What fails raises one of FAILURES, or StoreUnavailable without credentials."""

    def __init__(
        self,
        location: StoreURL,
        credentials: CredentialSource,
        *,
        connect: Connect,
        region: str,
        connections: int,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.location = location
        # The certificates are read once.
        context = tls_context() if location.endpoint.is_encrypted else None
        self.pool = ConnectionPool(
            lambda: connect(location.endpoint, context), size=connections, max_idle=_MAX_IDLE, clock=clock
        )
        self._credentials = credentials
        self._region = region
        self._clock = clock

    def exchange(self, request: S3Request, until: float) -> SignedExchange:
        """Send a request. Its answer must be complete `until` then, on the monotonic clock.

        The store may have closed a kept connection meanwhile; then a new one is used at once.
        """
        max_idle = _MAX_IDLE
        while True:
            credentials = self._credentials.current()
            connection = self.pool.acquire(max_idle=max_idle)
            try:
                connection.deadline = until
                self._send_head(connection, request, request.size, credentials)
                _send_body(connection, request)
                return self.receive(connection, credentials)
            except FAILURES as failure:
                connection.close()
                if not connection.was_used or isinstance(failure, TimeoutError):
                    raise
                max_idle = _NEVER_USED
            except BaseException:
                connection.close()
                raise

    def begin(self, request: S3Request, size: int, *, max_idle: float) -> tuple[HttpConnection, Credentials]:
        """Send the head of a request, whose body of `size` bytes follows on the connection."""
        credentials = self._credentials.current()
        connection = self.pool.acquire(max_idle=max_idle)
        try:
            self._send_head(connection, request, size, credentials)
        except BaseException:
            connection.close()
            raise
        return connection, credentials

    def receive(self, connection: HttpConnection, credentials: Credentials) -> SignedExchange:
        """Receive the head of the answer to a request that was sent."""
        try:
            return SignedExchange(connection, connection.receive(), self.pool, credentials)
        except BaseException:
            connection.close()
            raise

    def answer_of(self, exchange: SignedExchange) -> Answer:
        """Read an answer to its end. Raises Retryable where an equal request may succeed."""
        answer = Answer(exchange.status, exchange.fields, exchange.read_all(MAX_BODY_SIZE))
        if answer.is_retried or (answer.code in REFUSED_CREDENTIALS and self._credentials.reread(exchange.credentials)):
            raise Retryable(error_of(answer))
        return answer

    def _send_head(self, connection: HttpConnection, request: S3Request, size: int, credentials: Credentials) -> None:
        path, query = self.location.path(request.key), encode_query(request.query)
        fields = signed_fields(
            request.method,
            path,
            query,
            {"host": self.location.endpoint.authority, **request.fields},
            sha256=request.sha256,
            credentials=credentials,
            region=self._region,
            now=self._clock.date(),
        )
        connection.send_head(request.method, f"{path}?{query}" if query else path, fields, size)


def _send_body(connection: HttpConnection, request: S3Request) -> None:
    try:
        if isinstance(request.body, FilePart):
            connection.send_file(request.body)
        else:
            connection.send_all(request.body)
    except (BrokenPipeError, ConnectionResetError):
        # The store may have refused the body before its end: its answer says why.
        connection.is_whole = False
    else:
        if request.size > _LONG_BODY:
            connection.deadline = max(connection.deadline, connection.clock() + connection.silence_timeout)
