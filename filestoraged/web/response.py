"""A response, as pages make it, and its head as bytes: it knows of no socket."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from filestoraged.digest import Bytes
from filestoraged.future import Future
from filestoraged.wire.dates import format_date

# Reason phrases of RFC 9110 and its extensions; the standard library's table lags behind.
REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    423: "Locked",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    # Of the tus protocol, for its interface alone.
    460: "Checksum Mismatch",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}

# These have no body, and so no length (RFC 9110, section 8.6).
_BODILESS = (204, 304)

# The end of a content whose size is not known: `send` returns it behind the last byte.
UNKNOWN_STOP = sys.maxsize

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

# The header fields of a response in their order, as they are sent: each a line with its end.
Fields = str

JSON: Fields = "Content-Type: application/json\r\n"
NO_STORE: Fields = "Cache-Control: no-store\r\n"


class ContentSink(Protocol):
    """Takes the bytes of a content, and returns how many. `store.contract.Sink` is the same protocol."""

    def write(self, data: Bytes) -> int: ...

    def sendfile(self, descriptor: int, start: int, stop: int) -> int: ...


class Content(Protocol):
    """Bytes that are sent from where they are stored."""

    @property
    def may_wait(self) -> bool:
        """Whether `send` may wait for another machine."""

    def send(self, sink: ContentSink, start: int, stop: int) -> int:
        """Send from `start` on, as much as the sink takes. Returns the end of what was sent."""

    def close(self) -> None: ...


class Response:
    """A response. Its bytes are `body`, or those of `content` from `start` up to `stop`.

    One with a content that many threads may send is given again for equal requests, once its head is encoded; see
    `encode_fields`. It does not change any more.
    """

    __slots__ = (
        "body",
        "closes",
        "content",
        "encoded_fields",
        "fields",
        "kind",
        "on_failure",
        "on_received",
        "size",
        "start",
        "status",
        "stop",
    )

    def __init__(
        self,
        status: int,
        fields: Fields = "",
        body: bytes = b"",
        *,
        content: Content | None = None,
        start: int = 0,
        stop: int = 0,
    ) -> None:
        self.status = status
        self.fields = fields
        # The fields, and Content-Length, as they are sent; None where they are encoded when they are sent.
        self.encoded_fields: bytes | None = None
        self.body = body
        self.content = content
        self.start = start
        self.stop = len(body) if content is None else stop
        # Bytes behind the head.
        self.size = self.stop - start
        # The class of the error that it reports, "" for none.
        self.kind = ""
        # Whether the connection cannot carry another request.
        self.closes = False
        # Called when the client's kernel has acknowledged the last byte, before `close`. It must not block.
        self.on_received: Callable[[], object] | None = None
        # Called before `close` if the server, and not the client, is why the last byte is not sent. It must not block.
        self.on_failure: Callable[[], object] | None = None

    def close(self) -> None:
        if self.content is not None:
            self.content.close()


# A page that reads the body or awaits results, as it runs. It yields None for a piece of the body, else a future, and
# holds no thread in between. When the client leaves, it is closed.
Page = Coroutine["Future[Any] | None", Any, Response]

Answer = Response | Page


def field_lines(*fields: tuple[str, str]) -> Fields:
    return "".join([f"{name}: {value}\r\n" for name, value in fields])


def json_response(status: int, value: object, fields: Fields = "") -> Response:
    """A JSON body ends with a newline, for reading it in a terminal."""
    return Response(status, JSON + fields, json.dumps(value).encode() + b"\n")


def encode_head(response: Response, connection: bytes, date: float) -> bytes:
    """`connection` is a whole field line, or nothing; `date` is in seconds since 1970."""
    fields = response.encoded_fields
    if fields is None:
        fields = _encode(response)
    return b"".join((_beginning(response.status, int(date)), fields, connection, b"\r\n"))


def encode_fields(response: Response) -> None:
    """Encode the fields of a response that is sent several times."""
    response.encoded_fields = _encode(response)
    # Not twice in memory.
    response.fields = ""


def _encode(response: Response) -> bytes:
    has_length = response.status not in _BODILESS and response.stop != UNKNOWN_STOP
    length = f"Content-Length: {response.size}\r\n" if has_length else ""
    return f"{response.fields}{length}".encode("latin-1")


# The responses of a second have some of the statuses.
@functools.lru_cache(64)
def _beginning(status: int, seconds: int) -> bytes:
    date = format_date(seconds)
    return f"HTTP/1.1 {status} {REASONS[status]}\r\nServer: filestoraged\r\nDate: {date}\r\n".encode("ascii")
