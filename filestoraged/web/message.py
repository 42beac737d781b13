"""A request and a response, as pages see them: neither knows of a socket.

`App` is the one seam between this floor and the pages above it.
"""

from __future__ import annotations

import enum
import json
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote_plus

from filestoraged.digest import Bytes
from filestoraged.errors import Error
from filestoraged.future import Future
from filestoraged.wire.head import Head
from filestoraged.wire.redaction import HIDDEN, may_show, redact_target

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

# The methods that pages have, and those of them that most interfaces have.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
COMMON_METHODS = ("GET", "POST", "PUT", "DELETE")

# Header fields of a request that may hold a secret: a token, or the password of a drop.
_SECRET_FIELDS = frozenset(("authorization", "upload-metadata"))

# The header fields of a response in their order, as they are sent: each a line with its end.
Fields = str


_Result = TypeVar("_Result")


class Body(Protocol):
    """The body of a request: `async for piece in request.body`. A piece is valid until the next one is asked for."""

    # Bytes that the page was fed.
    received: int
    # Whether the page has asked for a piece. Before that, no `100 Continue` is sent.
    is_wanted: bool

    def take_buffered(self) -> bytes | None:
        """Return the whole body where it has come with the head, else None: the page then reads it piece by piece."""

    def __aiter__(self) -> Body: ...

    def __anext__(self) -> Awaitable[Bytes]: ...


class ReceivedBody:
    """A body that was received whole with its head: nothing is waited for."""

    __slots__ = ("_data", "is_wanted", "received")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.received = 0
        self.is_wanted = False

    def take_buffered(self) -> bytes | None:
        if self.received:
            return None
        data, self._data = self._data, b""
        self.received = len(data)
        return data

    def __aiter__(self) -> ReceivedBody:
        return self

    async def __anext__(self) -> bytes:
        data = self.take_buffered()
        if not data:
            raise StopAsyncIteration
        return data


# The body of all requests that have none. Reading it changes nothing.
EMPTY_BODY: Body = ReceivedBody(b"")


class RunsOn(enum.Enum):
    """Where the page of a request runs."""

    # The server's loop: the page waits for nothing, not even for a disk.
    INLINE = enum.auto()
    THREAD = enum.auto()
    # A thread of the pool for pages that wait for other machines.
    REMOTE = enum.auto()


class Request:
    """A request. `path` is the whole one, `mount` the prefix of it that leads to the interface.

    `size` is the body's in bytes, None where the client did not declare it. Requests with identical heads share one
    object, see `RequestCache`: pages change nothing of it but `memo`. One with a body, or whose page runs on a thread,
    is a copy.
    """

    __slots__ = (
        "_loggable",
        "body",
        "client",
        "counter",
        "cross_site",
        "fields",
        "is_bodiless",
        "is_free",
        "is_path_open",
        "is_path_secret",
        "is_plain",
        "labels",
        "match",
        "memo",
        "method",
        "mount",
        "mounts",
        "path",
        "query",
        "runs_on",
        "size",
        "token_hash",
    )

    def __init__(self, head: Head, size: int | None) -> None:
        # The router replaces it where the interface accepts X-HTTP-Method-Override.
        self.method = head.method
        # Whether its response has no body, whatever the head says: the client waits for none.
        self.is_bodiless = head.method == "HEAD"
        self.path = head.path
        self.query = head.query
        self.fields: Mapping[str, str] = head.fields
        self.size = size
        self.body = EMPTY_BODY
        # Of the token in its Authorization field, see `auth.hashed`; empty without one.
        self.token_hash = b""
        # The client's address, "unix" for a Unix socket. Empty in a shared request.
        self.client = ""
        # The router sets these, once. A secret path is not logged.
        self.mount = ""
        # The prefixes of its listener, by interface.
        self.mounts: Mapping[str, str] = {}
        self.match: Any = None
        self.runs_on = RunsOn.THREAD
        self.is_path_secret = False
        # Whether its path leads to a page and is not secret.
        self.is_path_open = False
        # Whether it needs no token.
        self.is_free = False
        # What its origin and its host mean for the response; see `cross_site`.
        self.cross_site: Any = None
        # Whether token, origin and host need no check: none matters, or they were checked before.
        self.is_plain = False
        # What it is counted as: an interface, and a method.
        self.labels: tuple[str, str] | None = None
        # Its target as it may be logged, once that is known.
        self._loggable: str | None = None
        # Where the server's loop counts it.
        self.counter: Any = None
        # What its page has derived from the head alone, for the next request with this head; 100 bytes at most.
        self.memo: Any = None

    def copy(self, client: str, body: Body) -> Request:
        """Return a copy for one client."""
        # Not by a loop over the slots, nor by `copy.copy`: they take five times as long.
        own = Request.__new__(Request)
        own.method = self.method
        own.is_bodiless = self.is_bodiless
        own.path = self.path
        own.query = self.query
        own.fields = self.fields
        own.size = self.size
        own.token_hash = self.token_hash
        own.body = body
        own.client = client
        own.mount = self.mount
        own.mounts = self.mounts
        own.match = self.match
        own.runs_on = self.runs_on
        own.is_path_open = self.is_path_open
        own.is_path_secret = self.is_path_secret
        own.is_free = self.is_free
        own.cross_site = self.cross_site
        own.is_plain = self.is_plain
        own.labels = self.labels
        own._loggable = self._loggable
        own.counter = self.counter
        own.memo = self.memo
        return own

    def parameters(self, *names: str) -> list[str]:
        """The values of all parameters `names` of the query, in order. Bytes that are not UTF-8 become U+FFFD."""
        if not self.query:
            return []
        pairs = [pair.partition("=") for pair in self.query.split("&")]
        return [_decoded(value) for name, _, value in pairs if _decoded(name) in names]

    @property
    def loggable(self) -> str:
        """The target as the client sent it, without secrets."""
        if self._loggable is not None:
            return self._loggable
        query = f"?{self.query}" if self.query else ""
        if self.is_path_secret:
            text = f"{self.mount}/{HIDDEN}{redact_target(query)}"
        else:
            text = redact_target(self.path + query)
        if self.match is not None:
            # The same for each request with this head.
            self._loggable = text
        return text

    @property
    def may_be_kept(self) -> bool:
        """Whether it may be cached: it is routed, and holds no secret."""
        if not self.is_path_open or has_secret_field(self.fields):
            return False
        return self.query == "" or may_show(f"?{self.query}")


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
    `response_head.encode_fields`. It does not change any more.
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

    def send(self, sink: ContentSink, start: int) -> int:
        """Send from `start` on, as much as the sink takes. Returns the end of what was sent."""
        if self.content is None:
            return start + sink.write(memoryview(self.body)[start:])
        return self.content.send(sink, start, self.stop)

    def close(self) -> None:
        if self.content is not None:
            self.content.close()


# A page that reads the body or awaits results, as it runs. It yields None for a piece of the body, else a future, and
# holds no thread in between. When the client leaves, it is closed.
Page = Coroutine["Future[Any] | None", Any, Response]

Answer = Response | Page


@types.coroutine
def result_of(future: Future[_Result]) -> Generator[Future[_Result], _Result, _Result]:
    """Await a future: `value = await result_of(future)`. Raises what it raises."""
    return future.result() if future.done() else (yield future)


class App(Protocol):
    """What answers the requests of a listener."""

    @property
    def on_loopback(self) -> App:
        """The app for connections that arrive on a loopback address, perhaps itself."""

    def route(self, request: Request) -> RunsOn:
        """Find the request's page. Called first, and by the loop."""

    def answer_early(self, request: Request) -> Response | None:
        """Answer on the loop a request that is refused, or answered from memory, although its page runs on a thread."""

    def answer(self, request: Request) -> Answer:
        """Raises nothing but ClientGone."""

    def complete(self, request: Request, response: Response) -> Response:
        """Return the response of a page that was a coroutine, with the fields that every response has."""

    def refuse(self, request: Request, error: Exception) -> Response:
        """Return the response for an error that such a page has raised, or was interrupted by."""

    def refuse_body(self, request: Request, fault: Error) -> Response:
        """Return the response to a request whose body cannot be received, because of what its head says of it."""


JSON: Fields = "Content-Type: application/json\r\n"
NO_STORE: Fields = "Cache-Control: no-store\r\n"


def has_secret_field(fields: Mapping[str, str]) -> bool:
    """Whether a header field holds a secret, by its name, or by its value as the link of a page in `Referer` does."""
    return not _SECRET_FIELDS.isdisjoint(fields) or not may_show("\n".join(fields.values()))


def field_lines(*fields: tuple[str, str]) -> Fields:
    return "".join([f"{name}: {value}\r\n" for name, value in fields])


def json_response(status: int, value: object, fields: Fields = "") -> Response:
    """A JSON body ends with a newline, for reading it in a terminal."""
    return Response(status, JSON + fields, json.dumps(value).encode() + b"\n")


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text
