"""The `repositories` interface: each repository is a namespace of objects, named by their oids."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

from filestoraged.api import lfs, listing, objects
from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.api.metrics import number_of
from filestoraged.api.objects import Delivery, repository_name
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.databases import Databases
from filestoraged.store.locks import LOCKS_SCHEMA, Locks
from filestoraged.web.request import Request
from filestoraged.web.response import JSON, Response
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router


def routes(store: Store, delivery: Delivery, nested: Sequence[Router] = (), *, public_url: str | None = None) -> Router:
    """`store` names objects by their SHA-256. `nested` are further routers below the paths of repositories."""
    pages = _Repositories(store, delivery, public_url)
    runs_on, lists = objects.runs_on(store), objects.runs_waiting(store)
    return Router(
        "repositories",
        [
            Route("GET", "", pages.list_repositories, READ, lists),
            Route("GET", "/", pages.list_repositories, READ, lists),
            # The path of a repository without a name.
            Route("PUT", "/", pages.upload_to_none, WRITE, runs_on),
            objects.upload_route("PUT", "/{repository}", pages.upload, store),
            Route("GET", "/{repository}", pages.list_objects, READ, lists),
            Route("GET", "/{repository}/{oid}", pages.download, READ, runs_on),
            Route("DELETE", "/{repository}/{oid}", pages.remove, DELETE, runs_on),
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
        return listing.areas(request, "repositories", self._store.list_namespaces)

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


def open_locks(databases: Databases) -> Locks:
    return Locks(databases.open_transactions(layout.LOCKS_DATABASE, LOCKS_SCHEMA))


def _build(resources: Resources) -> Router:
    # An oid is a SHA-256 digest, whatever --hash says.
    store = resources.objects.namespace(layout.REPOSITORIES, algorithm="sha256")
    locks = open_locks(resources.databases)
    resources.test("Locks", locks.probe)
    resources.gauges["locks"] = number_of("filestoraged_locks", "Locks of Git LFS in all repositories.", locks.count)
    resources.closing.append((locks.close,))
    nested = lfs.routes(
        store,
        locks,
        authorizer=resources.authorizer,
        public_url=resources.public_url,
        uploads=resources.uploads,
    )
    return routes(store, resources.delivery, [nested], public_url=resources.public_url)


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    operation = terms.operation
    entry = terms.object_of(oid=terms.HEX, size=terms.COUNT, modified=terms.TEXT)
    stored = terms.json_content(terms.ref("schemas", "StoredObject"))
    repositories = operation("List the repositories.", terms.listed("repositories", terms.TEXT), parameters=terms.LIST)
    return Description(
        {
            ("GET", ""): repositories,
            ("GET", "/"): repositories,
            ("PUT", "/"): operation(
                "Refused: the repository has no name.", {"400": terms.ref("responses", "Error")}, body=terms.RAW
            ),
            ("PUT", "/{repository}"): operation(
                "Store an object under its SHA-256.",
                terms.answered("201", "Stored, or there already.", stored),
                parameters=terms.UPLOAD,
                body=terms.RAW,
            ),
            ("GET", "/{repository}"): operation(
                "List the objects of a repository.", terms.listed("objects", entry), parameters=terms.LIST
            ),
            ("GET", "/{repository}/{oid}"): operation(
                "Download an object.", terms.DOWNLOADED, parameters=terms.DOWNLOAD
            ),
            ("DELETE", "/{repository}/{oid}"): operation("Remove an object.", terms.answered("200", "Removed.")),
            **lfs.describe(),
        },
        {
            "StoredObject": terms.object_of(oid=terms.HEX, size=terms.COUNT),
            "Lock": terms.object_of(lock=lfs.describe_lock()),
        },
    )


REPOSITORIES = Interface(
    "repositories",
    _build,
    _describe,
    layout.REPOSITORIES,
    Data(layout.LOCKS_DATABASE, LOCKS_SCHEMA, "locks"),
)
