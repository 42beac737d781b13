"""The page of the `files` interface: uploads files, shows their links, and what this browser stored before."""

from __future__ import annotations

from filestoraged.api.pages import Pages, mount, mount_of, show, size_hint
from filestoraged.store.contract import Store
from filestoraged.web.message import Request, Response, RunsOn
from filestoraged.web.router import PUBLIC, WRITE, PageVariant, Route, Router
from filestoraged.wire.accept import prefers_html


class UploadPage:
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
    return prefers_html(request.fields.get("accept")) and not request.parameters("hash", "file_hash")
