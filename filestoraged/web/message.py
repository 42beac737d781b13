"""A request and a response, as the interfaces see them: neither knows of a socket.

`App` is the one seam between this floor and the pages above it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol
from urllib.parse import unquote_plus

from filestoraged.digest import Bytes
from filestoraged.wire.head import Head
from filestoraged.wire.redaction import HIDDEN, has_secret, redact_target

# RFC 9110's words and those of its extensions; the standard library's table lags behind them.
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
    410: "Gone",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}

# Those that pages have.
METHODS = ("GET", "POST", "PUT", "DELETE")

# The header fields of an answer, in their order, as they are sent: each a line with its end.
Fields = str


class Request:
    """What a client asks. `path` is the whole one, `mount` the prefix of it that leads to the interface.

    `size` is the body's in bytes, None where the client did not declare it. Another client that asks the very same
    may have the same object, so nobody changes what it says.
    """

    __slots__ = (
        "_loggable",
        "client",
        "fields",
        "is_free",
        "is_path_secret",
        "is_plain",
        "line",
        "method",
        "mount",
        "path",
        "query",
        "route",
        "size",
        "tally",
        "verdict",
    )

    def __init__(self, head: Head, size: int | None) -> None:
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.fields: Mapping[str, str] = head.fields
        self.size = size
        # The client's address, "unix" for a Unix socket. Empty in a request that clients share; see `from_client`.
        self.client = ""
        # Whoever routes the request sets these, once. A secret path stands in no log.
        self.mount = ""
        self.route: Any = None
        self.is_path_secret = False
        # Whether anybody may ask that.
        self.is_free = False
        # What its origin and its host mean for the answer; see `browsers`.
        self.verdict: Any = None
        # Whether it is answered without a look at token, origin and host.
        self.is_plain = False
        # What it is counted as: an interface, and a method.
        self.line: tuple[str, str] | None = None
        # The target as it may stand in a log, once that is known.
        self._loggable: str | None = None
        # Where the server's loop counts it.
        self.tally: Any = None

    def from_client(self, client: str) -> Request:
        """Return a copy that one client has for itself."""
        # `copy.copy` takes three times as long.
        own = Request.__new__(Request)
        for name in self.__slots__:
            setattr(own, name, getattr(self, name))
        own.client = client
        return own

    def parameters(self, *names: str) -> list[str]:
        """The values that the query has for any of `names`, in order. What is not UTF-8 in them becomes U+FFFD."""
        if not self.query:
            return []
        pairs = [pair.partition("=") for pair in self.query.split("&")]
        return [_decoded(value) for name, _, value in pairs if _decoded(name) in names]

    @property
    def loggable(self) -> str:
        """The target as it was asked for, without what must not stand in a log."""
        if self._loggable is not None:
            return self._loggable
        query = f"?{self.query}" if self.query else ""
        if self.is_path_secret:
            text = f"{self.mount}/{HIDDEN}{redact_target(query)}"
        else:
            text = redact_target(self.path + query)
        if self.route is not None:
            # It is the same whenever that is asked again.
            self._loggable = text
        return text

    @property
    def secret(self) -> bool:
        """Whether it holds what must not be remembered."""
        return "authorization" in self.fields or (self.query != "" and has_secret(self.query))


class ContentSink(Protocol):
    """Takes the bytes of a content, and says how many. Its twin on the storage's side is `store.contract.Sink`."""

    def write(self, data: Bytes) -> int: ...

    def sendfile(self, descriptor: int, start: int, stop: int) -> int: ...


class Content(Protocol):
    """Bytes that are sent from where they lie, as far as the sink takes them. Returns up to where that was."""

    def send(self, sink: ContentSink, start: int, stop: int) -> int: ...

    def close(self) -> None: ...


class Response:
    """An answer. Its bytes are `body`, or those of `content` from `start` up to `stop`."""

    __slots__ = ("body", "closes", "content", "fields", "kind", "on_received", "size", "start", "status", "stop")

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
        self.body = body
        self.content = content
        self.start = start
        self.stop = len(body) if content is None else stop
        # Of what is sent behind the head, in bytes.
        self.size = self.stop - start
        # Of the error that it tells of, "" for none.
        self.kind = ""
        # Whether the connection cannot carry another request.
        self.closes = False
        # Called when the client's side has taken the last byte, before `close`; it waits for nothing.
        self.on_received: Callable[[], object] | None = None

    def send(self, sink: ContentSink, start: int) -> int:
        """Send the bytes from `start` on, as far as the sink takes them. Returns up to where that was."""
        if self.content is None:
            return start + sink.write(memoryview(self.body)[start:])
        return self.content.send(sink, start, self.stop)

    def close(self) -> None:
        if self.content is not None:
            self.content.close()


# A page that wants the body: it is sent the pieces as they arrive, each good until it asks for the next, and an
# empty one at the end. One that yields a future is sent its result. It holds no thread in between, and when the client
# leaves it is closed.
Receiving = Generator["Future[Any] | None", Any, Response]

Answer = Response | Receiving


class App(Protocol):
    @property
    def on_loopback(self) -> App:
        """The app for connections that arrive on a loopback address, perhaps itself."""

    def __call__(self, request: Request) -> Answer: ...

    def at_once(self, request: Request) -> Answer | None:
        """Answer what needs no waiting, not even for the disk; None for what may."""

    def is_remote(self, request: Request) -> bool:
        """Whether answering it waits for other machines. Such requests have threads of their own."""


JSON: Fields = "Content-Type: application/json\r\n"
NO_STORE: Fields = "Cache-Control: no-store\r\n"


def field_lines(*fields: tuple[str, str]) -> Fields:
    return "".join([f"{name}: {value}\r\n" for name, value in fields])


def json_response(status: int, value: object, fields: Fields = "") -> Response:
    """Answers in JSON end with a newline, for those who read them in a terminal."""
    return Response(status, JSON + fields, json.dumps(value).encode() + b"\n")


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text
