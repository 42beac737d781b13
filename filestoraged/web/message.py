"""A request and a response, as the interfaces see them: neither knows of a socket.

`App` is the one seam between this floor and the pages above it.
"""

from __future__ import annotations

import json
from typing import Callable, Iterator, List, Mapping, Optional, Protocol, Tuple
from urllib.parse import unquote_plus

from filestoraged.digest import Bytes
from filestoraged.wire.head import Head

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
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}

# The header fields of an answer, in their order.
Fields = Tuple[Tuple[str, str], ...]

# What must not stand in a log, wherever it stands in a query.
_SECRETS = ("password", "token")


class Body(Protocol):
    """A request's body, as it arrives."""

    # In bytes, where the client declared it.
    size: Optional[int]

    def __iter__(self) -> Iterator[memoryview]:
        """The body's bytes, once. Each view is good until the next one is asked for."""


class Request:
    """What a client asks. `path` begins behind the mount's prefix once a mount has been chosen."""

    def __init__(self, head: Head, body: Body) -> None:
        self.method = head.method
        self.path = head.path
        self.query = head.query
        self.fields: Mapping[str, str] = head.fields
        self.body = body
        # The prefix that the mount has taken off the path.
        self.mount = ""
        self._target = head.path + ("?" + head.query if head.query else "")

    def parameters(self, *names: str) -> List[str]:
        """The values that the query has for any of `names`, in order. What is not UTF-8 in them becomes U+FFFD."""
        pairs = (pair.partition("=") for pair in self.query.split("&"))
        return [unquote_plus(value) for name, _, value in pairs if unquote_plus(name) in names]

    @property
    def loggable(self) -> str:
        """The target as it was asked for, without what must not stand in a log."""
        if not self.query:
            return self._target
        return self._target.partition("?")[0] + "?" + "&".join(_redacted(pair) for pair in self.query.split("&"))


class Sink(Protocol):
    """Takes the bytes of a content. Its twin on the storage's side is `store.contract.Sink`."""

    def write(self, data: Bytes) -> None: ...

    def sendfile(self, descriptor: int, start: int, stop: int) -> None: ...


class Content(Protocol):
    """Bytes that are sent from where they lie."""

    def send(self, sink: Sink, start: int, stop: int) -> None: ...

    def close(self) -> None: ...


class Response:
    """An answer. Its bytes are `body`, or those of `content` from `start` up to `stop`."""

    def __init__(
        self,
        status: int,
        fields: Fields = (),
        body: bytes = b"",
        *,
        content: Optional[Content] = None,
        start: int = 0,
        stop: int = 0,
    ) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.content = content
        self.start = start
        self.stop = stop
        # Whether the connection cannot carry another request.
        self.closes = False

    @property
    def size(self) -> int:
        """Of what is sent behind the head, in bytes."""
        return len(self.body) if self.content is None else self.stop - self.start

    def close(self) -> None:
        if self.content is not None:
            self.content.close()


App = Callable[[Request], Response]


def json_response(status: int, value: object, fields: Fields = ()) -> Response:
    return Response(status, (("Content-Type", "application/json"), *fields), json.dumps(value).encode())


def _redacted(pair: str) -> str:
    name = pair.partition("=")[0]
    return f"{name}=***" if unquote_plus(name).lower() in _SECRETS else pair
