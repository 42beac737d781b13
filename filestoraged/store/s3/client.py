"""What an S3 store is asked, each request a method that is sent again after failures.

Equal names are equal bytes, so every request may be sent again, except the streamed body of `begin_put`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.errors import Error, NotFound
from filestoraged.net.connection import FilePart, HttpConnection, HttpExchange
from filestoraged.store.s3.answers import Answer, ListingPage, error_of, parse_listing
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.retries import OPERATION_TIMEOUT, StoreCalls
from filestoraged.store.s3.signing import Credentials
from filestoraged.store.s3.traffic import Traffic
from filestoraged.store.s3.transfers import GetTransfer, PutTransfer
from filestoraged.store.s3.transport import (
    NO_FIELDS,
    Body,
    Connect,
    S3Request,
    SignedExchange,
    SignedTransport,
    StoreConnection,
)
from filestoraged.store.s3.url import StoreURL
from filestoraged.wire.dates import parse_date
from filestoraged.wire.grammar import parse_decimal

# The header field that keeps the SHA-256 of an object which is not named by it.
SHA256_FIELD = "x-amz-meta-sha256"

# The header field of a SHA-256 that the store itself computes, compares and keeps. Most stores ignore it.
CHECKSUM_FIELD = "x-amz-checksum-sha256"

# Makes the store refuse to replace an object, where it supports that.
IF_NEW: Mapping[str, str] = {"if-none-match": "*"}

# Seconds for which a kept connection may have been idle that gets a body which cannot be sent again. Stores close idle
# connections later, so none is closed while the body begins.
_MAX_IDLE_OF_STREAM = 2.0

# Seconds for which a bucket that has answered is taken to exist: an answer to HEAD does not say what is missing.
_BUCKET_TTL = 10.0

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class ObjectHead(NamedTuple):
    """What a store says of an object. `modified` is in seconds since 1970; `sha256` is empty if it keeps none."""

    size: int
    modified: int
    etag: str
    sha256: str


class S3Client:
    """Any thread calls it. Keys are those within the location's prefix.

    Every method raises StoreUnavailable where the store cannot be reached or refuses the request, and StorageFull. It
    ends at `until` on the clock, apart from the time that a body takes; by default after OPERATION_TIMEOUT.
    """

    def __init__(
        self,
        location: StoreURL,
        credentials: CredentialSource,
        *,
        connect: Connect = StoreConnection,
        region: str = "us-east-1",
        connections: int = 32,
        traffic: Traffic | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`connections` is how many idle ones are kept."""
        self.location = location
        self.traffic = traffic or Traffic()
        self.clock = clock
        self._transport = SignedTransport(
            location, credentials, connect=connect, region=region, connections=connections, clock=clock
        )
        self._calls = StoreCalls(str(location), self.traffic, clock)
        self._bucket_seen = -math.inf

    def deadline(self, timeout: float = OPERATION_TIMEOUT) -> float:
        """The end of an operation that begins now, on the clock."""
        return self.clock.now() + timeout

    # Objects.

    def head(self, key: str, *, until: float | None = None) -> ObjectHead:
        """Raises NotFound."""
        until = until or self.deadline()
        answer = self.send(S3Request("HEAD", key), until=until)
        if answer.status == 404 and self.clock.now() - self._bucket_seen > _BUCKET_TTL:
            # The answer has no body, so the bucket may be missing as well.
            self.check_bucket(until=until)
        return parse_head(self.good(answer, key).fields)

    def get(
        self, key: str, start: int = 0, stop: int | None = None, *, etag: str = "", until: float | None = None
    ) -> GetTransfer:
        """Begin to read an object from `start` on, up to `stop` if that is given. Raises NotFound.

        With an `etag`, raises PreconditionFailed where the store has another object under the key by now.
        """
        fields = {}
        if start or stop is not None:
            fields["range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        if etag:
            fields["if-match"] = f'"{etag}"'
        request, end = S3Request("GET", key, fields=fields), until or self.deadline()
        return self._calls.call(lambda: self._download(self._transport.exchange(request, end), start, key), end)

    def put(
        self,
        key: str,
        body: Body,
        *,
        sha256: str | None = None,
        fields: Mapping[str, str] = NO_FIELDS,
        query: Sequence[tuple[str, str]] = (),
        until: float | None = None,
    ) -> Answer:
        """Store an object whose bytes have that digest, which is computed without one. Returns a good answer.

        With `if-none-match: *` among the fields, raises PreconditionFailed where the key is in use.
        """
        if sha256 is None:
            assert not isinstance(body, FilePart)
            sha256 = hashlib.sha256(body).hexdigest()
        return self.request(S3Request("PUT", key, query, fields, body, sha256), until=until)

    def begin_put(self, key: str, size: int, sha256: str, fields: Mapping[str, str] = NO_FIELDS) -> PutTransfer:
        """Begin to store an object of `size` bytes, which are then written to the result as they come."""
        if self._calls.breaker.suspect:
            # One thread finds out whether it answers again. A body that is begun has no answer for long.
            self.check_bucket()
        request = S3Request("PUT", key, fields=fields, sha256=sha256)
        connection, credentials = self._calls.call(
            lambda: self._transport.begin(request, size, max_idle=_MAX_IDLE_OF_STREAM), self.deadline(), answered=False
        )
        return PutTransfer(
            connection,
            size,
            finish=lambda: self._finish_upload(connection, credentials, key),
            note_failure=self._calls.breaker.note_failure,
        )

    def delete(self, key: str, *, until: float | None = None) -> None:
        """Delete an object, if there is one."""
        with contextlib.suppress(NotFound):
            self.request(S3Request("DELETE", key), until=until)

    # The bucket.

    def list(
        self, prefix: str = "", *, after: str = "", delimiter: str = "", limit: int = 1000, until: float | None = None
    ) -> ListingPage:
        """A page of the objects whose keys begin with `prefix` and sort after `after`."""
        own = self.location.prefix
        query = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(limit)), ("prefix", own + prefix)]
        if after:
            query.append(("start-after", own + after))
        if delimiter:
            query.append(("delimiter", delimiter))
        return parse_listing(self.request(S3Request("GET", query=query), until=until), own)

    def check_bucket(self, *, until: float | None = None) -> None:
        """Check that the bucket exists, and that the store accepts the credentials."""
        self.list(limit=1, until=until)

    # Any request.

    def request(self, request: S3Request, *, until: float | None = None) -> Answer:
        """Send a request. Returns a good answer, else raises what the answer means."""
        answer = self.send(request, until=until)
        if answer.status == 501 and IF_NEW.items() <= request.fields.items():
            # Swift before 2.36 refuses the condition, others ignore it. Whether the object is new was asked before.
            unconditional = {name: value for name, value in request.fields.items() if name not in IF_NEW}
            answer = self.send(request._replace(fields=unconditional), until=until)
        return self.good(answer, request.key)

    def send(self, request: S3Request, *, until: float | None = None) -> Answer:
        """Send a request. Returns any answer, except one after which an equal request may succeed."""
        end = until or self.deadline()
        return self._calls.call(lambda: self._transport.answer_of(self._transport.exchange(request, end)), end)

    @property
    def idle_connections(self) -> int:
        return len(self._transport.pool)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.pool.close()

    def good(self, answer: Answer, key: str = "") -> Answer:
        """Return a good answer, else raise what it means for the object under a key."""
        if answer.status < 300:
            self._bucket_seen = self.clock.now()
            return answer
        error = error_of(answer, name=key.rpartition("/")[2], now=self.clock.date())
        if isinstance(error, NotFound) and answer.code:
            self._bucket_seen = self.clock.now()
        raise error

    def _download(self, exchange: SignedExchange, start: int, key: str) -> GetTransfer:
        if exchange.status not in (200, 206):
            raise self._error_of(exchange, key)
        size = _whole_size(exchange, start)
        if size is None or exchange.size is None:
            exchange.close()
            raise http.client.HTTPException("the store does not say which part of the object it sends")
        self._bucket_seen = self.clock.now()
        return GetTransfer(exchange, size=size, left=exchange.size)

    def _error_of(self, exchange: SignedExchange, key: str) -> Error:
        """Read an answer that is none of an object."""
        try:
            self.good(self._transport.answer_of(exchange), key)
        except Error as error:
            return error
        raise http.client.HTTPException(f"the store answers {exchange.status} where it sends an object")

    def _finish_upload(self, connection: HttpConnection, credentials: Credentials, key: str) -> Answer:
        """Read the answer to an upload, or what the store has said before it closed the connection."""

        def answer() -> Answer:
            connection.deadline = self.deadline()
            return self._transport.answer_of(self._transport.receive(connection, credentials))

        return self.good(self._calls.call_once(answer), key)


def checksum_field(sha256: str) -> Mapping[str, str]:
    """The header field that makes a store keep the SHA-256 of an object, if it can: a check then reads no bytes."""
    return {CHECKSUM_FIELD: base64.b64encode(bytes.fromhex(sha256)).decode()}


def parse_head(fields: Mapping[str, str]) -> ObjectHead:
    """Read what the header fields of an answer say of an object."""
    return ObjectHead(
        parse_decimal(fields.get("content-length", "")) or 0,
        parse_date(fields.get("last-modified", "")) or 0,
        fields.get("etag", "").strip('"'),
        fields.get(SHA256_FIELD, ""),
    )


def _whole_size(exchange: HttpExchange, start: int) -> int | None:
    """The size of the whole object; None where the answer is not the part from `start` on."""
    # rclone sends a part with the status 200.
    field = exchange.fields.get("content-range")
    if field is None:
        return None if start else exchange.size
    matched = _CONTENT_RANGE.fullmatch(field)
    if matched is None:
        return None
    first, last, size = map(int, matched.groups())
    return size if first == start and last - first + 1 == exchange.size and last < size else None
