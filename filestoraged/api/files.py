"""The `files` interface: an upload returns the hash of its bytes, and the hash is the name of the file."""

from __future__ import annotations

from urllib.parse import unquote

from filestoraged.api import forms, objects
from filestoraged.api.interface import Description, Interface, Resources
from filestoraged.api.objects import Delivery
from filestoraged.api.pages import Pages, mount, mount_of, show, size_hint, wants_page
from filestoraged.digest import Digest
from filestoraged.errors import BadRequest, MalformedMultipart
from filestoraged.store.contract import Staging, Store
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import JSON, Response, json_response
from filestoraged.web.router import DELETE, PUBLIC, READ, WRITE, PageVariant, Route, Router
from filestoraged.wire.accept import prefers_text
from filestoraged.wire.expectations import expected_digests
from filestoraged.wire.multipart import FormEvent, FormPart, form_boundary


def routes(store: Store, delivery: Delivery, pages: Pages | None = None) -> Router:
    """Without `pages`, there is none for people."""
    requests = _Files(store, delivery)
    runs_on = objects.runs_on(store)
    return Router(
        "files",
        [
            objects.upload_route("POST", "/", requests.upload, store),
            Route("GET", "/", requests.download, READ, runs_on),
            Route("DELETE", "/", requests.remove, DELETE, runs_on),
            Route("GET", "/{hash}", requests.download, READ, runs_on),
            Route("DELETE", "/{hash}", requests.remove, DELETE, runs_on),
        ],
        variant=None if pages is None else _UploadPage(pages, store).variant(),
    )


class _Files:
    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    async def upload(self, request: Request) -> Response:
        type_, accept = request.fields.get("content-type"), request.fields.get("accept")
        boundary = None if type_ is None else form_boundary(type_)
        if boundary is None:
            digest, size = await objects.receive_object(request, self._store, objects.announced(request, self._store))
        else:
            digest, size = await self._receive_form(request, boundary)
        if accept is not None and prefers_text(accept):
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
        self._store.require_room(
            forms.least_size(request), [each.digest for each in objects.announced_in_query(request, self._store)]
        )
        with _FirstFile(request, self._store) as file:
            await forms.receive_form(request, boundary, file.receive, limit=self._store.max_size, expected=expected)
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

    def receive(self, event: FormEvent) -> None:
        if not isinstance(event, FormPart):
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


class _UploadPage:
    """Uploads files, shows their links, and what this browser stored before."""

    def __init__(self, pages: Pages, store: Store) -> None:
        self._pages = pages
        self._store = store

    def variant(self) -> PageVariant:
        return PageVariant(Router("files", [Route("GET", "/", self.show, PUBLIC, RunsOn.INLINE)]), _wants_page)

    def show(self, request: Request) -> Response:
        limit = self._store.max_size
        algorithm = self._store.algorithm
        content = self._pages.fill(
            "upload",
            heading="Store files",
            lead="Each file gets a link that never changes. The same bytes always get the same link.",
            action=mount(request),
            limit_hint=size_hint(limit),
            options=self._pages.fill("hashing"),
            noscript="The answer has the hash of the file. Its link is the address of this page, a slash and the hash.",
        )
        data = {
            "kind": "files",
            "limit": "" if limit is None else limit,
            "algorithm": algorithm,
            "link": self._pages.link_start(request),
            # Empty where files are sent by one request each.
            "uploads": mount_of(request, "uploads"),
            "chunk": self._pages.chunk_size,
        }
        page = self._pages.page(request, "Store files", content, script="upload.js", data=data, needs=WRITE)
        return show(request, page)


def _wants_page(request: Request) -> bool:
    """With a hash, the request is for the file, whoever sends it."""
    return wants_page(request) and not request.parameters("hash", "file_hash")


def _build(resources: Resources) -> Router:
    return routes(resources.objects, resources.delivery, resources.pages)


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    stored = {**terms.json_content(terms.ref("schemas", "Stored")), "text/plain": {"schema": terms.TEXT}}
    hash_ = terms.ref("parameters", "Hash")
    summary = "Download a file; where HTML is preferred and no hash is given, the page that uploads files."
    operation = terms.operation
    return Description(
        {
            ("POST", "/"): operation(
                "Store a file under its digest.",
                terms.answered("200", "Stored.", stored),
                parameters=terms.UPLOAD,
                body=terms.RAW,
            ),
            ("GET", "/"): operation(summary, terms.DOWNLOADED, parameters=[hash_, *terms.DOWNLOAD]),
            ("GET", "/{hash}"): operation("Download a file.", terms.DOWNLOADED, parameters=terms.DOWNLOAD),
            ("DELETE", "/"): operation("Remove a file.", terms.REMOVED, parameters=[hash_]),
            ("DELETE", "/{hash}"): operation("Remove a file.", terms.REMOVED),
        },
        {"Stored": terms.object_of(hash=terms.HEX, size=terms.COUNT)},
    )


FILES = Interface("files", _build, _describe)
