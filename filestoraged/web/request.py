"""A request, as pages see it: it knows of no socket."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote_plus

from filestoraged.digest import Bytes
from filestoraged.wire.head import Head
from filestoraged.wire.redaction import HIDDEN, may_show, redact_target

# The methods that pages have, and those of them that most interfaces have.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
COMMON_METHODS = ("GET", "POST", "PUT", "DELETE")

# Header fields of a request that may hold a secret: a token, or the password of a drop.
_SECRET_FIELDS = frozenset(("authorization", "upload-metadata"))


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
        "loggable",
        "match",
        "memo",
        "method",
        "mount",
        "mounts",
        "path",
        "query",
        "runs_on",
        "size",
        "speaks_1_1",
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
        # Whether its client understands chunks. HTTP/1.0 has none.
        self.speaks_1_1 = head.version >= (1, 1)
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
        # Its target as it may be logged; `set_loggable` sets it, when it is routed.
        self.loggable = "-"
        # Where the server's loop counts it.
        self.counter: Any = None
        # What its page has derived from the head alone, for the next request with this head; a path at most.
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
        own.speaks_1_1 = self.speaks_1_1
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
        own.loggable = self.loggable
        own.counter = self.counter
        own.memo = self.memo
        return own

    def parameters(self, *names: str) -> list[str]:
        """The values of all parameters `names` of the query, in order. Bytes that are not UTF-8 become U+FFFD."""
        if not self.query:
            return []
        pairs = [pair.partition("=") for pair in self.query.split("&")]
        return [_decoded(value) for name, _, value in pairs if _decoded(name) in names]

    def set_loggable(self) -> None:
        """Let the log have the target as the client sent it, without secrets. Called once it is known which path is."""
        query = f"?{self.query}" if self.query else ""
        if self.is_path_secret:
            self.loggable = f"{self.mount}/{HIDDEN}{redact_target(query)}"
        else:
            self.loggable = redact_target(self.path + query)

    def mount_url(self, public_url: str | None) -> str:
        """Return the URL of the interface that is asked, without a slash at its end."""
        return self.listener_url(public_url) + self.mount

    def listener_url(self, public_url: str | None) -> str:
        """Return the URL that the prefixes of interfaces follow.

        It is `public_url`, the value of --public-url, or has the host that the client has asked for.
        """
        # Only HTTP/1.0 may omit Host.
        return public_url or f"http://{self.fields.get('host', 'localhost')}"

    @property
    def may_be_kept(self) -> bool:
        """Whether it may be cached: it is routed, and holds no secret."""
        if not self.is_path_open or has_secret_field(self.fields):
            return False
        return self.query == "" or may_show(f"?{self.query}")


def has_secret_field(fields: Mapping[str, str]) -> bool:
    """Whether a header field holds a secret, by its name, or by its value as the link of a page in `Referer` does."""
    return not _SECRET_FIELDS.isdisjoint(fields) or not may_show("\n".join(fields.values()))


def _decoded(text: str) -> str:
    return unquote_plus(text) if "%" in text or "+" in text else text
