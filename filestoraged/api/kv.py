"""The `kv` interface: `/set` queues values, `/commit` makes all queued values visible at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_to_bytes

from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.api.metrics import number_of
from filestoraged.api.payloads import Payloads
from filestoraged.bounded_cache import BoundedCache
from filestoraged.errors import BadRequest, Error, MethodNotAllowed, NotFound
from filestoraged.store import layout
from filestoraged.store.databases import Databases
from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.web.error_responses import refusal
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import JSON, NO_STORE, Answer, Response
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router
from filestoraged.wire.json_text import encode_pair, parse_pair, parse_string

if TYPE_CHECKING:
    from filestoraged.store.postgresql.kv import PostgresKeys

# Not to be cached: a commit may change the value at any time.
_FRESH_JSON = JSON + NO_STORE

# Maximum size of a request body, in bytes.
_MAX_BODY_SIZE = 1024 * 1024

# Bytes. A body of this size is validated in less than 0.1 ms, which does not delay other connections of the loop.
_SMALL_BODY = 4 * 1024

# Maximum size of the cached responses of a worker in bytes, with Python's overhead for each. A full cache is emptied.
_MAX_CACHE_SIZE = 8 * 1024 * 1024
_ENTRY_OVERHEAD = 256

Keys: TypeAlias = "KeyValues | PostgresKeys"


def routes(keys: Keys) -> Router:
    pages = _Changes(keys)

    def queue(method: str, pattern: str, page: Callable[..., Answer], scope: str) -> Route:
        # Small bodies need no thread: the page awaits the future of the writer.
        return Route(method, pattern, page, scope, RunsOn.INLINE, inline_body=_SMALL_BODY)

    # The last two are keys, too.
    read = _read_routes(keys, ("/{key}", "/set", "/commit"))
    return Router(
        "kv",
        [
            *read,
            queue("POST", "/set", pages.set, WRITE),
            queue("DELETE", "/set", pages.delete, DELETE),
            queue("POST", "/commit", pages.commit, WRITE),
        ],
        refuse=_refuse,
    )


def _read_routes(keys: Keys, patterns: Sequence[str]) -> Sequence[Route]:
    if keys.is_remote:
        remote = _RemoteReads(keys)
        return [Route("GET", pattern, remote.read, READ, RunsOn.INLINE) for pattern in patterns]
    local = _LocalReads(keys)
    return [Route("GET", pattern, local.read, READ, RunsOn.THREAD, recall=local.recall) for pattern in patterns]


class _LocalReads:
    def __init__(self, keys: KeyValues) -> None:
        self._keys = keys
        self._answers = _ResponseCache()

    def read(self, request: Request, *_: str) -> Response:
        # Read the count before the value: a commit in between then invalidates the cached response.
        commits = self._keys.commits
        key = _key(request)
        body = _encode(key, self._keys.get(key))
        if commits % 2 == 0:
            self._answers.put(request.path, commits, body)
        return Response(200, _FRESH_JSON, body)

    def recall(self, request: Request, *_: str) -> Response | None:
        """Return the cached response, or None if anything was committed since."""
        body = self._answers.get(request.path, self._keys.commits)
        return None if body is None else Response(200, _FRESH_JSON, body)


class _RemoteReads:
    """Nothing is cached, and the loop waits for a value without a thread."""

    def __init__(self, keys: PostgresKeys) -> None:
        self._keys = keys

    async def read(self, request: Request, *_: str) -> Response:
        key = _key(request)
        return Response(200, _FRESH_JSON, _encode(key, await self._keys.get_later(key)))


class _Changes:
    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._payloads = Payloads(_MAX_BODY_SIZE, small=_SMALL_BODY)

    async def set(self, request: Request) -> Response:
        body = self._payloads.received(request)
        if body is not None:
            return await self._set(body)
        # In flight until the value is written.
        with self._payloads.open(request) as payload:
            return await self._set(await payload.receive())

    async def _set(self, body: bytes) -> Response:
        key, value = parse_pair(body)
        if not key:
            raise BadRequest("Invalid key '': expected at least 1 character.")
        is_new = await self._keys.set(key, value)
        return Response(201 if is_new else 200, JSON, body)

    async def delete(self, request: Request) -> Response:
        with self._payloads.open(request) as payload:
            body = await payload.receive()
            key = parse_string(body)
            if not key:
                raise BadRequest("Invalid key '': expected at least 1 character.")
            await self._keys.delete(key)
        return Response(200, JSON, body)

    async def commit(self, request: Request) -> Response:
        await self._keys.commit()
        return Response(204)


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


def _encode(key: str, value: bytes | None) -> bytes:
    if value is None:
        raise NotFound("There is no value for that key.", name=key)
    return encode_pair(key, value) + b"\n"


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


def open_keys(databases: Databases) -> Keys:
    if databases.is_remote:
        from filestoraged.store.postgresql.kv import PostgresKeys

        return PostgresKeys(databases.connector)
    identity = databases.identity(layout.KEYS_DATABASE)
    return KeyValues(identity.path, identity, clock=databases.clock)


def _build(resources: Resources) -> Router:
    keys = open_keys(resources.databases)
    resources.test("Keys", keys.probe)
    resources.gauges["keys"] = number_of(
        "filestoraged_queued_keys", "Keys set or deleted since the last commit, each time.", lambda: keys.queued
    )
    resources.closing.append((keys.close,))
    return routes(keys)


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    pair = {"type": "object", "minProperties": 1, "maxProperties": 1, "propertyNames": {"minLength": 1}}
    key = {"type": "string", "minLength": 1}
    content = terms.json_content({"type": "object"})
    queued = {
        **terms.answered("200", "Queued; the commit will update the key.", content),
        **terms.answered("201", "Queued; the commit will create the key.", content),
    }
    removed = terms.answered("200", "Queued.", terms.json_content(terms.TEXT))
    operation = terms.operation
    read = operation("The committed value of a key.", terms.answered("200", "The key and its value.", content))
    return Description(
        {
            **{("GET", pattern): read for pattern in ("/{key}", "/set", "/commit")},
            ("POST", "/set"): operation("Queue a value.", queued, body=terms.body(terms.json_content(pair))),
            ("DELETE", "/set"): operation("Queue a removal.", removed, body=terms.body(terms.json_content(key))),
            ("POST", "/commit"): operation(
                "Make all that is queued visible at once, and durable.", terms.answered("204", "Committed.")
            ),
        },
    )


KEYS = Interface(
    "kv",
    _build,
    _describe,
    data=Data(layout.KEYS_DATABASE, KEYS_SCHEMA, "keys"),
)
