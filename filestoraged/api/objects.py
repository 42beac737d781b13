"""What `files` and `repositories` share: an upload checked against what it announced, a download, a removal."""

from __future__ import annotations

import contextlib
import mimetypes
import posixpath
import re
from collections.abc import Sequence

from filestoraged.digest import Digest, Expected, digest_length, parse_digest
from filestoraged.errors import AlreadyExists, BadRequest, CorruptObject, NotFound, PreconditionFailed
from filestoraged.store.contract import Blob, Staging, Store
from filestoraged.web.message import Fields, Request, Response, RunsOn, field_lines
from filestoraged.wire import conditions
from filestoraged.wire.dates import format_date
from filestoraged.wire.expectations import expected_digests
from filestoraged.wire.parameters import attachment
from filestoraged.wire.ranges import parse_range

# A browser neither guesses the type of what was uploaded, nor runs it as a page of ours.
NO_PAGE = field_lines(("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "sandbox"))


class Delivery:
    """How downloads go out."""

    def __init__(self, accel: str | None = None, kept_by: str = "public") -> None:
        """Below the prefix `accel`, a proxy in front sends the bytes, where they are a file's.

        `kept_by` says which caches may keep responses: "public" or "private" ones (RFC 9111, section 5.2.2).
        """
        self.accel = accel
        # An object's bytes never change.
        caching = f"{kept_by}, max-age=31536000, immutable"
        # nginx copies our Accept-Ranges to the answer, and adds its own to what it sends from the disk.
        self.handed_over = field_lines(("Cache-Control", caching)) + NO_PAGE
        self.fields = field_lines(("Accept-Ranges", "bytes")) + self.handed_over


_OCTETS = "application/octet-stream"
_TYPE_OF_OCTETS = field_lines(("Content-Type", _OCTETS))
# Most requests have none of these.
_CONDITIONS = frozenset(("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "range"))
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# The standard library's own table: the same answer on every machine.
_TYPES = mimetypes.MimeTypes()


def runs_on(store: Store) -> tuple[RunsOn, RunsOn]:
    """Where pages run that change a store, and those that read it: a local disk is read on the loop."""
    return (RunsOn.REMOTE, RunsOn.REMOTE) if store.remote else (RunsOn.THREAD, RunsOn.INLINE)


async def receive_object(request: Request, store: Store, expected: Sequence[Expected]) -> tuple[Digest, int]:
    """Store the body, whose digests must be those `expected`. Returns the object's digest and size."""
    with begin(request, store, size=request.size, expected=expected) as staging:
        async for piece in request.body:
            staging.write(piece)
        return commit(request, staging), staging.size


def begin(request: Request, store: Store, *, size: int | None, expected: Sequence[Expected]) -> Staging:
    """Begin an upload, unless it is known beforehand that it will not be kept."""
    if "content-range" in request.fields:
        # `curl -C -` sends the rest of a file so. Kept as a whole, it would be another file (RFC 9110, section 14.5).
        raise BadRequest("Content-Range is not supported: send the whole object.")
    if conditions.forbids_overwrite(request.fields):
        for algorithm, digest in expected:
            if algorithm == store.algorithm and _exists(store, digest):
                raise AlreadyExists(digest)
    return store.stage(size, expected=expected)


def commit(request: Request, staging: Staging) -> Digest:
    return staging.commit_new() if conditions.forbids_overwrite(request.fields) else staging.commit()


def announced(request: Request, store: Store) -> Sequence[Expected]:
    """What the request says the digests of its bytes are, in the query and in its fields."""
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
    """What an upload is answered: JSON, of two values that need no escaping."""
    return f'{{"{key}": "{digest}", "size": {size}}}\n'.encode()


def download(request: Request, store: Store, name: str, delivery: Delivery) -> Response:
    """Answer with the object's bytes, the part of them that is asked for, or that the client has them."""
    digest = _digest(name)
    blob = store.open(digest)
    try:
        accel = accelerated(store, digest, delivery.accel)
        return _represent(request, blob, delivery.handed_over if accel else delivery.fields, accel)
    except Exception:
        blob.close()
        raise


def remove(request: Request, store: Store, name: str) -> str:
    """Remove an object if the request's conditions hold. Returns its digest."""
    digest = _digest(name)
    if any(field.startswith("if-") for field in request.fields):
        # Where it is not there, `remove` says so, and only once that is durable.
        with contextlib.suppress(NotFound), store.open(digest) as blob:
            conditions.check_preconditions(request.fields, digest, blob.modified)
            if conditions.matches_if_none_match(request.fields, digest):
                raise PreconditionFailed("The object is one that If-None-Match names.")
    store.remove(digest)
    return digest


def accelerated(store: Store, name: str, accel: str | None) -> Fields:
    """The field by which a proxy sends an object from the disk; "" where it cannot."""
    place = None if accel is None else store.place(name)
    return "" if place is None else f"X-Accel-Redirect: {accel}/{place}\r\n"


def _represent(request: Request, blob: Blob, fixed: Fields, accel: Fields) -> Response:
    fields = f'ETag: "{blob.digest}"\r\nLast-Modified: {format_date(blob.modified)}\r\n{fixed}'
    if not accel and _CONDITIONS.isdisjoint(request.fields):
        return Response(200, fields + _description(request), content=blob, stop=blob.size)
    if not conditions.must_send(request.fields, blob.digest, blob.modified):
        blob.close()
        return Response(304, fields)
    fields += _description(request)
    if accel:
        return _hand_over(blob, fields + accel)
    wanted = request.fields.get("range")
    if wanted is not None and conditions.if_range_holds(request.fields, blob.digest, blob.modified):
        part = parse_range(wanted, blob.size)
        if part is not None:
            start, stop = part
            fields += f"Content-Range: bytes {start}-{stop - 1}/{blob.size}\r\n"
            return Response(206, fields, content=blob, start=start, stop=stop)
    return Response(200, fields, content=blob, stop=blob.size)


def _hand_over(blob: Blob, fields: Fields) -> Response:
    """The proxy handles ranges."""
    blob.close()
    return Response(200, fields)


def _description(request: Request) -> Fields:
    """The type, and the name to save it by, where the client names one."""
    name = next(iter(request.parameters("name")), "")
    if not name:
        return _TYPE_OF_OCTETS
    check_name(name)
    return saved_as(name)


def check_name(name: str) -> None:
    if _CONTROLS.search(name):
        raise BadRequest(f"Invalid name {name[:200]!r}: control characters are not allowed.")


def saved_as(name: str) -> Fields:
    """The fields by which a browser saves a download under that name."""
    return field_lines(("Content-Type", content_type(name)), ("Content-Disposition", attachment(name)))


def content_type(name: str) -> str:
    """The type that a file's name suggests."""
    # By the extension alone: the table takes a whole name for a URL, and one may look like "data:text/html,".
    kind, encoding = _TYPES.guess_type("x" + posixpath.splitext(name)[1])
    return kind if kind and not encoding else _OCTETS


def _digest(name: str) -> Digest:
    digest = parse_digest(name)
    if digest is None:
        raise NotFound("There is no object by that name.")
    return digest


def _exists(store: Store, digest: str) -> bool:
    try:
        store.open(digest).close()
    except (NotFound, CorruptObject):
        # What is damaged is to be stored anew.
        return False
    return True
