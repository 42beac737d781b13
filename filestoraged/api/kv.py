"""The `kv` interface: `/set` queues values, `/commit` makes all queued values visible at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from filestoraged.bounded_cache import BoundedCache
from filestoraged.errors import BadRequest, Error, MethodNotAllowed, NotFound, TooLarge, Unavailable
from filestoraged.store.kv import KeyValues
from filestoraged.web.error_responses import refusal
from filestoraged.web.message import JSON, NO_STORE, Answer, Request, Response, RunsOn, result_of
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router
from filestoraged.wire.json_text import encode_pair, parse_pair, parse_string

# Not to be cached: a commit may change the value at any time.
_FRESH_JSON = JSON + NO_STORE

# Maximum size of a request body, in bytes.
_MAX_BODY_SIZE = 1024 * 1024

# Bytes. A body of this size is validated in less than 0.1 ms, which does not delay other connections of the loop.
_SMALL_BODY = 4 * 1024

# Maximum size of all request bodies in flight in a worker, in bytes. The first _SMALL_BODY bytes of each do not count,
# so that slow large bodies do not cause the refusal of small ones.
_MAX_IN_FLIGHT = 64 * 1024 * 1024

# Maximum size of the cached responses of a worker in bytes, with Python's overhead for each. A full cache is emptied.
_MAX_CACHE_SIZE = 8 * 1024 * 1024
_ENTRY_OVERHEAD = 256


def routes(keys: KeyValues) -> Router:
    pages = Pages(keys)

    def read(pattern: str) -> Route:
        return Route("GET", pattern, pages.read, READ, RunsOn.THREAD, recall=pages.recall)

    def queue(method: str, pattern: str, page: Callable[..., Answer], scope: str) -> Route:
        # Small bodies need no thread: the page awaits the future of the writer.
        return Route(method, pattern, page, scope, RunsOn.INLINE, inline_body=_SMALL_BODY)

    return Router(
        "kv",
        [
            read("/{key}"),
            # These are keys too.
            read("/set"),
            read("/commit"),
            queue("POST", "/set", pages.set, WRITE),
            queue("DELETE", "/set", pages.delete, DELETE),
            queue("POST", "/commit", pages.commit, WRITE),
        ],
        refuse=_refuse,
    )


class Pages:
    def __init__(self, keys: KeyValues) -> None:
        self._keys = keys
        self._payloads = _Payloads()
        self._answers = _ResponseCache()

    def read(self, request: Request, *_: str) -> Response:
        # Read the count before the value: a commit in between then invalidates the cached response.
        commits = self._keys.commits
        key = _key(request)
        value = self._keys.get(key)
        if value is None:
            raise NotFound("There is no value for that key.", name=key)
        body = encode_pair(key, value) + b"\n"
        if commits % 2 == 0:
            self._answers.put(request.path, commits, body)
        return Response(200, _FRESH_JSON, body)

    def recall(self, request: Request, *_: str) -> Response | None:
        """Return the cached response, or None if anything was committed since."""
        body = self._answers.get(request.path, self._keys.commits)
        return None if body is None else Response(200, _FRESH_JSON, body)

    async def set(self, request: Request) -> Response:
        body = await self._payloads.gather(request)
        key, value = parse_pair(body)
        if not key:
            raise BadRequest("Invalid key '': expected at least 1 character.")
        is_new = await result_of(self._keys.set_later(key, value))
        return Response(201 if is_new else 200, JSON, body)

    async def delete(self, request: Request) -> Response:
        body = await self._payloads.gather(request)
        key = parse_string(body)
        if not key:
            raise BadRequest("Invalid key '': expected at least 1 character.")
        await result_of(self._keys.delete_later(key))
        return Response(200, JSON, body)

    async def commit(self, request: Request) -> Response:
        await result_of(self._keys.commit_later())
        return Response(204)


class _Payloads:
    """Receives request bodies into memory, up to a total of _MAX_IN_FLIGHT bytes. The lock guards the total."""

    def __init__(self) -> None:
        self._size = 0
        self._lock = threading.Lock()

    async def gather(self, request: Request) -> bytes:
        """Receive a body. Raises TooLarge, and Unavailable if too many bytes are in flight."""
        if (request.size or 0) > _MAX_BODY_SIZE:
            raise TooLarge(_MAX_BODY_SIZE, size=request.size)
        if request.size is not None and request.size <= _SMALL_BODY:
            # Most small bodies arrive with their heads. They would not count below.
            whole = request.body.take_buffered()
            if whole is not None:
                return whole
        # One buffer: a list of pieces would take a thousand times the memory for a body that arrives byte by byte.
        body = bytearray()
        try:
            async for piece in request.body:
                if len(body) + len(piece) > _MAX_BODY_SIZE:
                    raise TooLarge(_MAX_BODY_SIZE)
                self._reserve(_counted(len(body) + len(piece)) - _counted(len(body)))
                body += piece
        finally:
            self._release(_counted(len(body)))
        return bytes(body)

    def _reserve(self, size: int) -> None:
        with self._lock:
            if size and self._size + size > _MAX_IN_FLIGHT:
                raise Unavailable(f"More than {_MAX_IN_FLIGHT} bytes of request bodies are in flight; retry later.")
            self._size += size

    def _release(self, size: int) -> None:
        with self._lock:
            self._size -= size


def _counted(size: int) -> int:
    return max(0, size - _SMALL_BODY)


class _ResponseCache:
    """Rendered responses by path, each with the count of commits before its value was read."""

    def __init__(self) -> None:
        self._answers: BoundedCache[str, tuple[int, bytes]] = BoundedCache(
            entries=_MAX_CACHE_SIZE // _ENTRY_OVERHEAD, size=_MAX_CACHE_SIZE, size_of=_answer_size
        )

    def get(self, path: str, commits: int) -> bytes | None:
        cached = self._answers.get(path)
        return cached[1] if cached is not None and cached[0] == commits else None

    def put(self, path: str, commits: int, body: bytes) -> None:
        self._answers.put(path, (commits, body))


def _answer_size(path: str, answer: tuple[int, bytes]) -> int:
    return _ENTRY_OVERHEAD + len(path) + len(answer[1])


def _key(request: Request) -> str:
    """The key of a request: the last segment of its path."""
    segment = request.path[len(request.mount) + 1 :]
    try:
        key = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise NotFound("No key has such a name.") from error
    if not key:
        raise NotFound("No key has such a name.")
    return key


def _refuse(error: Error) -> Response:
    """Every other route and method answers 404."""
    response = refusal(NotFound("There is nothing at this path.") if isinstance(error, MethodNotAllowed) else error)
    response.fields += NO_STORE
    return response
