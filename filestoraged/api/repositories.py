"""The `repositories` interface: each repository is a namespace of objects, named by their oids."""

from __future__ import annotations

import re
from urllib.parse import unquote

from filestoraged.api import objects
from filestoraged.api.objects import Delivery
from filestoraged.errors import BadRequest
from filestoraged.store.contract import Store
from filestoraged.web.message import JSON, Request, Response
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router

_NAME = re.compile(r"[A-Za-z0-9._\-]{1,128}")


def routes(store: Store, delivery: Delivery) -> Router:
    """`store` names objects by their SHA-256."""
    pages = _Repositories(store, delivery)
    changes, reads = objects.runs_on(store)
    return Router(
        "repositories",
        [
            Route("PUT", "/{repository}", pages.upload, WRITE, changes),
            Route("GET", "/{repository}/{oid}", pages.download, READ, reads),
            Route("DELETE", "/{repository}/{oid}", pages.remove, DELETE, changes),
        ],
        has_areas=True,
    )


class _Repositories:
    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery

    async def upload(self, request: Request, repository: str) -> Response:
        store = self._open(repository)
        oid, size = await objects.receive_object(request, store, objects.announced(request, store))
        location = f"{request.mount}/{repository}/{oid}"
        return Response(201, f"{JSON}Location: {location}\r\n", objects.receipt("oid", oid, size))

    def download(self, request: Request, repository: str, oid: str) -> Response:
        return objects.download(request, self._open(repository), unquote(oid), self._delivery)

    def remove(self, request: Request, repository: str, oid: str) -> Response:
        objects.remove(request, self._open(repository), unquote(oid))
        return Response(200)

    def _open(self, repository: str) -> Store:
        name = unquote(repository)
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise BadRequest(
                f"Invalid repository name {name[:200]!r}: expected 1 to 128 of A-Z a-z 0-9 . _ - and neither . nor .."
            )
        return self._store.namespace(name)
