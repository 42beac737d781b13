"""The `repositories` interface: each repository is a namespace of objects, named by their oids."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from filestoraged.api import listing, objects
from filestoraged.api.objects import Delivery
from filestoraged.errors import BadRequest
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.web.message import JSON, Request, Response
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router


def routes(store: Store, delivery: Delivery, nested: Sequence[Router] = (), *, public_url: str | None = None) -> Router:
    """`store` names objects by their SHA-256. `nested` are further routers below the paths of repositories."""
    pages = _Repositories(store, delivery, public_url)
    changes, reads = objects.runs_on(store)
    lists = objects.runs_waiting(store)
    return Router(
        "repositories",
        [
            Route("GET", "", pages.list_repositories, READ, lists),
            Route("GET", "/", pages.list_repositories, READ, lists),
            # The path of a repository without a name.
            Route("PUT", "/", pages.upload_to_none, WRITE, changes),
            objects.upload_route("PUT", "/{repository}", pages.upload, store),
            Route("GET", "/{repository}", pages.list_objects, READ, lists),
            Route("GET", "/{repository}/{oid}", pages.download, READ, reads),
            Route("DELETE", "/{repository}/{oid}", pages.remove, DELETE, changes),
        ],
        has_areas=True,
        nested=nested,
    )


class _Repositories:
    def __init__(self, store: Store, delivery: Delivery, public_url: str | None) -> None:
        self._store = store
        self._delivery = delivery
        self._public_url = public_url

    async def upload(self, request: Request, repository: str) -> Response:
        store = self._open(repository)
        oid, size = await objects.receive_object(request, store, objects.announced(request, store))
        location = f"{self._public_url or ''}{request.mount}/{repository}/{oid}"
        return Response(201, f"{JSON}Location: {location}\r\n", objects.receipt("oid", oid, size))

    async def upload_to_none(self, request: Request) -> Response:
        return await self.upload(request, "")

    def list_repositories(self, request: Request) -> Response:
        return listing.repositories(request, self._store)

    def list_objects(self, request: Request, repository: str) -> Response:
        return listing.objects(request, self._open(repository))

    def download(self, request: Request, repository: str, oid: str) -> Response:
        again = objects.download_again(request)
        if again is not None:
            return again
        return objects.download(request, self._open(repository), unquote(oid), self._delivery)

    async def remove(self, request: Request, repository: str, oid: str) -> Response:
        await objects.remove(request, self._open(repository), unquote(oid))
        return Response(200)

    def _open(self, repository: str) -> Store:
        return self._store.namespace(repository_name(repository))


def repository_name(segment: str) -> str:
    """Return the name of the repository that a segment of a path stands for. Raises BadRequest for an invalid one."""
    name = unquote(segment)
    if not layout.is_repository(name):
        raise BadRequest(
            f"Invalid repository name {name[:200]!r}: expected 1 to 128 of A-Z a-z 0-9 . _ - and neither . nor .."
        )
    return name
