"""The `files` interface: a file goes in, its hash comes out, and the hash is what it is fetched by."""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

from filestoraged.api import objects
from filestoraged.digest import Hasher
from filestoraged.errors import BadRequest, MalformedMultipart, TooLarge
from filestoraged.store.contract import Store
from filestoraged.web.message import Request, Response, json_response
from filestoraged.web.router import Router
from filestoraged.wire.accept import prefers_text
from filestoraged.wire.expectations import expected_digests
from filestoraged.wire.multipart import Event, Multipart, Part, form_boundary

# What a form may have beside the largest file: fields, heads and delimiters.
_FORM_OVERHEAD = 1024 * 1024


def routes(store: Store) -> Router:
    pages = _Files(store)
    return Router(
        [
            ("POST", "/", pages.upload),
            ("GET", "/", pages.download),
            ("DELETE", "/", pages.remove),
            ("GET", "/{hash}", pages.download),
            ("DELETE", "/{hash}", pages.remove),
        ]
    )


class _Files:
    def __init__(self, store: Store) -> None:
        self._store = store

    def upload(self, request: Request) -> Response:
        boundary = form_boundary(request.fields.get("content-type", ""))
        if boundary is None:
            expected = objects.announced(request, self._store)
            size = request.body.size
            digest, size = objects.receive(request, self._store, request.body, size=size, expected=expected)
        else:
            digest, size = self._receive_form(request, boundary)
        if prefers_text(request.fields.get("accept")):
            return Response(200, (("Content-Type", "text/plain"),), f"{digest}\n".encode())
        return json_response(200, {"hash": digest, "size": size})

    def download(self, request: Request, segment: Optional[str] = None) -> Response:
        return objects.download(request, self._store, _the_hash(request, segment))

    def remove(self, request: Request, segment: Optional[str] = None) -> Response:
        return json_response(200, {"hash": objects.remove(request, self._store, _the_hash(request, segment))})

    def _receive_form(self, request: Request, boundary: str) -> Tuple[str, int]:
        """Store the form's first file. The rest of the form is read too: a form that is cut keeps nothing."""
        form = Multipart(boundary)
        # What the head announces is about the whole body (RFC 9530, section 2), the query's hash about the file.
        whole = Hasher(self._store.algorithm, expected_digests(request.fields))
        events = (event for piece in self._bounded(request, whole) for event in form.feed(piece))
        part = _first_file(events)
        expected = [*objects.announced_in_query(request, self._store), *expected_digests(part.fields)]
        with objects.begin(request, self._store, size=None, expected=expected) as staging:
            for event in events:
                if isinstance(event, Part):
                    break
                staging.write(event)
            for _ in events:
                pass
            form.finish()
            whole.check()
            return objects.commit(request, staging), staging.size

    def _bounded(self, request: Request, whole: Hasher) -> Iterator[memoryview]:
        """The body's pieces, as many as a form with the largest file may have."""
        limit = self._store.max_size
        if limit is not None and (request.body.size or 0) > limit + _FORM_OVERHEAD:
            raise TooLarge(limit)
        received = 0
        for piece in request.body:
            received += len(piece)
            if limit is not None and received > limit + _FORM_OVERHEAD:
                raise TooLarge(limit)
            if whole.expected:
                whole.update(piece)
            yield piece


def _first_file(events: Iterator[Event]) -> Part:
    for event in events:
        # A browser sends an empty name where nobody has chosen a file.
        if isinstance(event, Part) and event.filename:
            return event
    raise MalformedMultipart("The form has no file.")


def _the_hash(request: Request, segment: Optional[str]) -> str:
    hashes = request.parameters("hash", "file_hash") if request.query else []
    if segment is not None:
        hashes.append(segment)
    if len(hashes) != 1 or not hashes[0]:
        raise BadRequest("Name one file by its hash: ?hash=HEX.")
    return hashes[0]
