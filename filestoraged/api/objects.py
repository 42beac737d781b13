"""Upload, download and removal of objects, for the interfaces `files` and `repositories`."""

from __future__ import annotations

import contextlib
import mimetypes
import posixpath
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from filestoraged.digest import Digest, Expected, digest_length, parse_digest
from filestoraged.errors import AlreadyExists, BadRequest, CorruptObject, NotFound, PreconditionFailed
from filestoraged.store import layout
from filestoraged.store.contract import SMALL, Blob, Staging, Store
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Answer, Fields, Response, encode_fields, field_lines
from filestoraged.web.router import WRITE, Route
from filestoraged.wire import conditions
from filestoraged.wire.dates import format_date
from filestoraged.wire.expectations import expected_digests
from filestoraged.wire.parameters import attachment
from filestoraged.wire.ranges import parse_range

# Browsers must neither guess the type of an uploaded file, nor run it as a page of this origin.
NO_PAGE = field_lines(("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox"))


class Delivery:
    """The way in which downloads are sent: fixed header fields, and whether a proxy sends the bytes."""

    def __init__(self, accel: str | None = None, kept_by: str = "public") -> None:
        """`accel` is the prefix below which a proxy serves the files of the store; None if there is no such proxy.

        `kept_by` is the kind of caches that may store responses: "public" or "private" (RFC 9111, section 5.2.2).
        """
        self.accel = accel
        # The bytes of an object never change.
        caching = f"{kept_by}, max-age=31536000, immutable"
        # Without Accept-Ranges: nginx adds its own to files that it sends, and would copy this one too.
        self.handed_over = field_lines(("Cache-Control", caching)) + NO_PAGE
        self.fields = field_lines(("Accept-Ranges", "bytes")) + self.handed_over


OCTETS = "application/octet-stream"
_TYPE_OF_OCTETS = field_lines(("Content-Type", OCTETS))
# Header fields that make a response depend on the request. Most requests have none.
_CONDITIONS = frozenset(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "range"))
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# The table of the standard library alone, so that types do not depend on the machine. Neither by `mimetypes.guess_type`
# nor by a MimeTypes: both read the tables of the machine first, and keep them, in 0.4 MiB.
_TYPES = dict(mimetypes.types_map)


def runs_on(store: Store) -> RunsOn:
    """Where pages run that read or change a store.

    A local disk is read on the loop. What changes it waits for another thread, and holds none.
    """
    return RunsOn.REMOTE if store.remote else RunsOn.INLINE


def runs_waiting(store: Store) -> RunsOn:
    """Where pages run that wait for a store, such as those that list it."""
    return RunsOn.REMOTE if store.remote else RunsOn.THREAD


def upload_route(method: str, pattern: str, page: Callable[..., Answer], store: Store) -> Route:
    """The route of a page that stores a body. On the loop, it stages small ones in memory."""
    return Route(method, pattern, page, WRITE, runs_on(store), inline_body=0 if store.remote else SMALL)


async def receive_object(request: Request, store: Store, expected: Sequence[Expected]) -> tuple[Digest, int]:
    """Store the body of a request, which must have the digests `expected`. Returns the digest and the size."""
    with begin(request, store, size=request.size, expected=expected) as staging:
        whole = request.body.take_buffered()
        if whole is None:
            async for piece in request.body:
                staging.write(piece)
        elif whole:
            staging.write(whole)
        return await commit(request, staging), staging.size


def begin(request: Request, store: Store, *, size: int | None, expected: Sequence[Expected]) -> Staging:
    """Begin an upload. Raises AlreadyExists if If-None-Match forbids it, and BadRequest for a partial one."""
    _refuse_partial(request)
    if not conditions.forbids_overwrite(request.fields):
        return store.stage(size, expected=expected)
    for algorithm, digest in expected:
        if algorithm == store.algorithm and _exists(store, digest):
            raise AlreadyExists(digest)
    return store.stage_new(size, expected=expected)


def begin_replacing(request: Request, store: Store, expected: Sequence[Expected]) -> Staging:
    """Begin an upload that heals an object of the same bytes, whatever If-None-Match says."""
    _refuse_partial(request)
    return store.stage(request.size, expected=expected)


def _refuse_partial(request: Request) -> None:
    if "content-range" in request.fields:
        # `curl -C -` sends the rest of a file so. It must not be stored as a whole (RFC 9110, section 14.5).
        raise BadRequest("Content-Range is not supported: send the whole object.")


async def reserve(staging: Staging, name: str | None = None) -> None:
    """Await what `staging.commit` would wait for."""
    reservation = staging.reserve(name)
    if reservation is not None:
        await reservation


async def commit(request: Request, staging: Staging) -> Digest:
    await reserve(staging)
    return await staging.commit(replace=not conditions.forbids_overwrite(request.fields))


def announced(request: Request, store: Store) -> Sequence[Expected]:
    """The announced digests of the body, from the query and the header fields."""
    return [*announced_in_query(request, store), *expected_digests(request.fields)]


def announced_in_query(request: Request, store: Store) -> Sequence[Expected]:
    hashes = request.parameters("hash", "file_hash")
    if len(hashes) > 1:
        raise BadRequest(f"The query has {len(hashes)} hashes: expected one at most.")
    for text in hashes:
        digest = parse_digest(text)
        if digest is None or len(digest) != digest_length(store.algorithm):
            raise BadRequest(f"Invalid hash {text[:200]!r}: expected a {store.algorithm} in hexadecimal.")
        return [Expected(store.algorithm, digest)]
    return []


def receipt(key: str, digest: str, size: int) -> bytes:
    """The JSON response to an upload. Neither value needs escaping."""
    return f'{{"{key}": "{digest}", "size": {size}}}\n'.encode()


def download_again(request: Request) -> Response | None:
    """Answer as the last request with this head was answered, if the object is in memory and unchanged."""
    if request.memo is None:
        return None
    cache, key = request.memo
    blob = cache.get(key)
    return None if blob is None else blob.memo


def download(request: Request, store: Store, name: str, delivery: Delivery) -> Response:
    """Answer with the object or the requested range of it, or with 304 if the client has it."""
    digest = _digest(name)
    blob = store.open(digest)
    try:
        accel = accelerated(store, digest, delivery.accel)
        if accel or not is_unconditional(request):
            fixed = delivery.handed_over if accel else delivery.fields
            fields = _fields(blob, fixed)
            found = Representation(digest, blob.modified, fields, _description(request), accel)
            return represent(request, blob, found)
        response = Response(200, _fields(blob, delivery.fields) + _description(request), content=blob, stop=blob.size)
        if blob.cache is not None and request.is_plain and not request.parameters("name"):
            encode_fields(response)
            blob.memo = response
            request.memo = blob.cache, blob.key
        return response
    except Exception:
        blob.close()
        raise


async def remove(request: Request, store: Store, name: str) -> str:
    """Remove an object if the request's conditions hold. Returns its digest."""
    digest = _digest(name)
    if any(field.startswith("if-") for field in request.fields):
        # If it is missing, `remove` raises NotFound below, once the absence is durable.
        with contextlib.suppress(NotFound), store.open(digest) as blob:
            conditions.check_preconditions(request.fields, digest, blob.modified)
            if conditions.matches_if_none_match(request.fields, digest):
                raise PreconditionFailed("The object is one that If-None-Match names.")
    await store.remove_later(digest)
    return digest


def accelerated(store: Store, name: str, accel: str | None) -> Fields:
    """The header field that makes a proxy send an object from the disk; empty if it cannot."""
    path = None if accel is None else store.relative_path(name)
    return "" if path is None else f"X-Accel-Redirect: {accel}/{path}\r\n"


def _fields(blob: Blob, fixed: Fields) -> Fields:
    return f'ETag: "{blob.digest}"\r\nLast-Modified: {format_date(blob.modified)}\r\n{fixed}'


class Representation(NamedTuple):
    """What is answered with: `fields` in each case, `description` with the bytes. `accel` makes a proxy send them.

    `may_change` says that other bytes may be in its place later.
    """

    tag: str
    modified: int
    fields: Fields
    description: Fields
    accel: Fields
    may_change: bool = False


def is_unconditional(request: Request) -> bool:
    """Whether the answer is the whole object."""
    return _CONDITIONS.isdisjoint(request.fields)


def represent(request: Request, blob: Blob, found: Representation) -> Response:
    """Answer a request with conditions, or leave the bytes to a proxy."""
    if not conditions.must_send(request.fields, found.tag, found.modified):
        blob.close()
        return Response(304, found.fields)
    fields = found.fields + found.description
    if found.accel:
        return _hand_over(blob, fields + found.accel)
    # Of other methods, a range is ignored (RFC 9110, section 14.2).
    wanted = request.fields.get("range") if request.method == "GET" else None
    modified = None if found.may_change else found.modified
    if wanted is not None and conditions.if_range_holds(request.fields, found.tag, modified):
        part = parse_range(wanted, blob.size)
        if part is not None:
            start, stop = part
            fields += f"Content-Range: bytes {start}-{stop - 1}/{blob.size}\r\n"
            return Response(206, fields, content=blob, start=start, stop=stop)
    return Response(200, fields, content=blob, stop=blob.size)


def _hand_over(blob: Blob, fields: Fields) -> Response:
    """Leave the bytes to the proxy, which handles ranges itself."""
    blob.close()
    return Response(200, fields)


def _description(request: Request) -> Fields:
    """Content-Type and Content-Disposition by the `name` parameter of the query."""
    name = next(iter(request.parameters("name")), "")
    if not name:
        return _TYPE_OF_OCTETS
    check_name(name)
    return saved_as(name)


def check_name(name: str) -> None:
    if _CONTROLS.search(name):
        raise BadRequest(f"Invalid name {name[:200]!r}: control characters are not allowed.")


def saved_as(name: str) -> Fields:
    """Header fields that make a browser save a download as `name`."""
    return field_lines(("Content-Type", content_type(name)), ("Content-Disposition", attachment(name)))


def content_type(name: str) -> str:
    """The media type for the extension of a file name."""
    return _TYPES.get(posixpath.splitext(name)[1].lower(), OCTETS)


def _digest(name: str) -> Digest:
    digest = parse_digest(name)
    if digest is None:
        raise NotFound("There is no object by that name.")
    return digest


def _exists(store: Store, digest: str) -> bool:
    try:
        store.open(digest).close()
    except (NotFound, CorruptObject):
        # Storing a damaged object again heals it.
        return False
    return True


def repository_name(segment: str) -> str:
    """Return the name of the repository that a segment of a path stands for. Raises BadRequest for an invalid one."""
    name = unquote(segment)
    if not layout.is_repository(name):
        raise BadRequest(
            f"Invalid repository name {name[:200]!r}: expected 1 to 128 of A-Z a-z 0-9 . _ - and neither . nor .."
        )
    return name
