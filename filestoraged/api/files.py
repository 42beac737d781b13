"""The `files` interface: an upload returns the hash of its bytes, and the hash is the name of the file."""

from __future__ import annotations

from urllib.parse import unquote

from filestoraged.api import forms, objects
from filestoraged.api.objects import Delivery
from filestoraged.api.pages import Pages
from filestoraged.api.upload_page import UploadPage
from filestoraged.digest import Digest
from filestoraged.errors import BadRequest, MalformedMultipart
from filestoraged.store.contract import Staging, Store
from filestoraged.web.message import JSON, Request, Response, json_response
from filestoraged.web.router import DELETE, READ, Route, Router
from filestoraged.wire.accept import prefers_text
from filestoraged.wire.expectations import expected_digests
from filestoraged.wire.multipart import FormEvent, Part, form_boundary


def routes(store: Store, delivery: Delivery, pages: Pages | None = None) -> Router:
    """Without `pages`, there is none for people."""
    requests = _Files(store, delivery)
    changes, reads = objects.runs_on(store)
    return Router(
        "files",
        [
            objects.upload_route("POST", "/", requests.upload, store),
            Route("GET", "/", requests.download, READ, reads),
            Route("DELETE", "/", requests.remove, DELETE, changes),
            Route("GET", "/{hash}", requests.download, READ, reads),
            Route("DELETE", "/{hash}", requests.remove, DELETE, changes),
        ],
        variant=None if pages is None else UploadPage(pages, store).variant(),
    )


class _Files:
    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    async def upload(self, request: Request) -> Response:
        boundary = form_boundary(request.fields.get("content-type", ""))
        if boundary is None:
            digest, size = await objects.receive_object(request, self._store, objects.announced(request, self._store))
        else:
            digest, size = await self._receive_form(request, boundary)
        if prefers_text(request.fields.get("accept")):
            return Response(200, "Content-Type: text/plain\r\n", f"{digest}\n".encode())
        return Response(200, JSON, objects.receipt("hash", digest, size))

    def download(self, request: Request, segment: str | None = None) -> Response:
        again = objects.download_again(request)
        if again is not None:
            return again
        return objects.download(request, self._store, _the_hash(request, segment), self._delivery)

    async def remove(self, request: Request, segment: str | None = None) -> Response:
        return json_response(200, {"hash": await objects.remove(request, self._store, _the_hash(request, segment))})

    async def _receive_form(self, request: Request, boundary: str) -> tuple[Digest, int]:
        """Store the first file of the form. Reads the whole form first: of an incomplete form, nothing is stored."""
        # The digests in the head are of the whole body (RFC 9530, section 2); the hash in the query is of the file.
        expected = expected_digests(request.fields)
        with _FirstFile(request, self._store) as file:
            await forms.receive_form(request, boundary, file.take, limit=self._store.max_size, expected=expected)
            return await file.commit()


class _FirstFile:
    """Stages the first file of a form, and ignores its other parts."""

    def __init__(self, request: Request, store: Store) -> None:
        self._request = request
        self._store = store
        self._staging: Staging | None = None
        self._whole = False

    def __enter__(self) -> _FirstFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._staging is not None:
            self._staging.close()

    def take(self, event: FormEvent) -> None:
        if not isinstance(event, Part):
            if self._staging is not None and not self._whole:
                self._staging.write(event)
        elif self._staging is not None:
            self._whole = True
        elif event.filename:
            # Browsers send an empty name for a file field without a file.
            expected = [*objects.announced_in_query(self._request, self._store), *expected_digests(event.fields)]
            self._staging = objects.begin(self._request, self._store, size=None, expected=expected)

    async def commit(self) -> tuple[Digest, int]:
        if self._staging is None:
            raise MalformedMultipart("The form has no file.")
        return await objects.commit(self._request, self._staging), self._staging.size


def _the_hash(request: Request, segment: str | None) -> str:
    hashes = request.parameters("hash", "file_hash")
    if segment is not None:
        # A percent-encoded digit is equivalent to the digit (RFC 3986, section 6.2.2.2).
        hashes.append(unquote(segment))
    if len(hashes) != 1 or not hashes[0]:
        raise BadRequest(f"The request names {len(hashes)} files: expected one, as ?hash=HEX.")
    return hashes[0]
