"""The `restic` interface: repositories of restic, by its REST protocol in the versions 1 and 2.

A file of restic is an object named by its SHA-256, so a repository is a namespace for each type of its files, and one
for its config. Nothing else is kept: in a directory, it is what restic itself makes there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Generator, Iterator
from urllib.parse import unquote

from filestoraged.api import objects
from filestoraged.api.interface import Description, Interface, Json, Resources
from filestoraged.api.objects import Delivery, repository_name
from filestoraged.api.payloads import Payloads
from filestoraged.digest import Expected
from filestoraged.errors import AlreadyExists, BadRequest, Forbidden, NotFound
from filestoraged.store import layout
from filestoraged.store.contract import SMALL, ObjectStatus, Store
from filestoraged.web.request import Request
from filestoraged.web.response import NO_STORE, Fields, Response, field_lines
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router
from filestoraged.web.streamed_content import streamed
from filestoraged.wire.accept import names_type
from filestoraged.wire.ranges import parse_range

_NAME = re.compile("[0-9a-f]{64}")

_V1, _V2 = (f"application/vnd.x.restic.rest.v{version}" for version in (1, 2))
_OCTETS = field_lines(("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes"))

# Files in one piece of a list: 100 KiB, made in 5 ms.
_PIECE = 1000

_LOCKS = "locks"

_CONFIG = "/{repository}/config"


def routes(store: Store, delivery: Delivery) -> Router:
    """`store` has the repositories, whose objects are named by their SHA-256."""
    runs_on, waiting = objects.runs_on(store), objects.runs_waiting(store)
    pages = _Repositories(store, delivery)
    return Router(
        "restic",
        [
            Route("POST", "/{repository}/", pages.create, WRITE, runs_on),
            Route("HEAD", _CONFIG, pages.open_config, READ, waiting),
            Route("GET", _CONFIG, pages.open_config, READ, waiting),
            Route("POST", _CONFIG, pages.store_config, WRITE, waiting),
            Route("DELETE", _CONFIG, pages.remove_config, DELETE, runs_on),
            *itertools.chain.from_iterable(_routes_of(type_, pages, store) for type_ in layout.RESTIC_DIRECTORIES),
        ],
        has_areas=True,
    )


def _routes_of(type_: str, pages: _Repositories, store: Store) -> Iterator[Route]:
    """The routes of files of a type."""
    runs_on = objects.runs_on(store)
    open_file = functools.partial(pages.open, type_)
    # Each run of restic removes its lock, also one that may remove nothing else.
    removes = WRITE if type_ == _LOCKS else DELETE
    yield Route("GET", _list_of(type_), functools.partial(pages.list, type_), READ, objects.runs_waiting(store))
    yield Route("HEAD", _file_of(type_), open_file, READ, runs_on)
    yield Route("GET", _file_of(type_), open_file, READ, runs_on)
    yield objects.upload_route("POST", _file_of(type_), functools.partial(pages.store, type_), store)
    yield Route("DELETE", _file_of(type_), functools.partial(pages.remove, type_), removes, runs_on)


def _list_of(type_: str) -> str:
    return f"/{{repository}}/{type_}/"


def _file_of(type_: str) -> str:
    return f"/{{repository}}/{type_}/{{name}}"


class _Repositories:
    def __init__(self, store: Store, delivery: Delivery) -> None:
        self._store = store
        self._delivery = delivery
        # restic makes one of 155 bytes.
        self._configs = Payloads(SMALL, small=SMALL)

    def create(self, request: Request, repository: str) -> Response:
        """Nothing is made: a repository is there with its first file."""
        self._open(repository)
        if request.parameters("create") != ["true"]:
            raise BadRequest("Expected the query ?create=true.")
        return Response(200)

    def list(self, type_: str, request: Request, repository: str) -> Response:
        files = self._open(repository, type_).scan()
        if names_type(request.fields.get("accept"), _V2):
            return streamed(request, 200, _list_fields(_V2), _pieces(files, _with_size))
        return streamed(request, 200, _list_fields(_V1), _pieces(files, _by_name))

    def open(self, type_: str, request: Request, repository: str, name: str) -> Response:
        again = objects.download_again(request)
        if again is not None:
            return again
        return objects.download(request, self._open(repository, type_), _file_name(name), self._delivery)

    async def store(self, type_: str, request: Request, repository: str, name: str) -> Response:
        expected = [Expected("sha256", _file_name(name))]
        await objects.receive_object(request, self._open(repository, type_), expected)
        return Response(200)

    async def remove(self, type_: str, request: Request, repository: str, name: str) -> Response:
        store, oid = self._open(repository, type_), _file_name(name)
        # A retry finds nothing. If it is missing, that is raised once the absence is durable.
        with contextlib.suppress(NotFound):
            await objects.remove(request, store, oid)
        return Response(200)

    # The config: its name is no digest, so that it could be replaced by another one.

    def open_config(self, request: Request, repository: str) -> Response:
        with self._open(repository).get(layout.RESTIC_CONFIG) as stream:
            data = stream.read()
        fields = _OCTETS + NO_STORE
        # Of HEAD, a range is ignored, and so it is with If-Range: nothing could match that (RFC 9110, 13.1.5 and 14.2).
        wanted = request.fields.get("range") if request.method == "GET" and "if-range" not in request.fields else None
        part = None if wanted is None else parse_range(wanted, len(data))
        if part is None:
            return Response(200, fields, data)
        start, stop = part
        return Response(206, f"{fields}Content-Range: bytes {start}-{stop - 1}/{len(data)}\r\n", data[start:stop])

    async def store_config(self, request: Request, repository: str) -> Response:
        store = self._open(repository)
        data = await self._configs.gather(request)
        # First, so that one that is refused or there already is not counted, nor judged by a quota.
        with contextlib.suppress(NotFound):
            _require_config(store, data)
            return Response(200)
        with store.stage_new(len(data)) as staging:
            staging.write(data)
            try:
                await staging.commit(name=layout.RESTIC_CONFIG, replace=False)
            except AlreadyExists:
                _require_config(store, data)
        return Response(200)

    async def remove_config(self, request: Request, repository: str) -> Response:
        with contextlib.suppress(NotFound):
            await self._open(repository).remove_later(layout.RESTIC_CONFIG)
        return Response(200)

    def _open(self, repository: str, type_: str = "") -> Store:
        """Where a repository keeps its files of a type, or its config. All of its bytes go through here."""
        return self._store.namespace(f"{repository_name(repository)}/{type_}".rstrip("/"))


def _require_config(store: Store, data: bytes) -> None:
    """Raise Forbidden if the repository has another config, and NotFound if it has none."""
    with store.get(layout.RESTIC_CONFIG) as stream:
        if stream.read(len(data) + 1) != data:
            raise Forbidden("The repository has another config.")


def _file_name(segment: str) -> str:
    name = unquote(segment)
    if not _NAME.fullmatch(name):
        raise NotFound("There is no file by that name: expected 64 lower-case hexadecimal digits.")
    return name


# Lists.


def _list_fields(media_type: str) -> Fields:
    return field_lines(("Content-Type", media_type)) + NO_STORE


def _pieces(
    files: Generator[ObjectStatus, None, None], encode: Callable[[ObjectStatus], str]
) -> Generator[bytes, None, None]:
    separator = "["
    with contextlib.closing(files):
        while piece := ",".join(map(encode, itertools.islice(files, _PIECE))):
            yield (separator + piece).encode()
            separator = ","
    yield b"]" if separator == "," else b"[]"


def _by_name(file: ObjectStatus) -> str:
    return f'"{file.name}"'


def _with_size(file: ObjectStatus) -> str:
    return f'{{"name":"{file.name}","size":{file.size}}}'


def _build(resources: Resources) -> Router:
    store = resources.objects.namespace(layout.RESTIC, algorithm="sha256")
    # --max-size is for files and repositories: restic chooses the sizes of its files, 128 MiB at most.
    store.max_size = None
    return routes(store, resources.delivery)


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    operation = terms.operation
    done = terms.answered("200", "Done, or done before.")
    found = terms.answered("200", "Its length is Content-Length.")
    entries = {"type": "array", "items": terms.TEXT}
    sized = {"type": "array", "items": terms.object_of(name=terms.HEX, size=terms.COUNT)}
    content = {**terms.json_content(entries, _V1), **terms.json_content(sized, _V2)}

    def described(pattern: str) -> dict[tuple[str, str], Json]:
        parameters = [terms.ref("parameters", "Range")]
        return {
            ("HEAD", pattern): operation("Whether it is there.", found),
            ("GET", pattern): operation("Download it.", terms.DOWNLOADED, parameters=parameters),
            ("POST", pattern): operation("Store it.", done, body=terms.RAW),
            ("DELETE", pattern): operation("Remove it.", done),
        }

    create = [terms.query("create", "`true`.")]
    operations: dict[tuple[str, str], Json] = {
        ("POST", "/{repository}/"): operation("Create a repository.", done, parameters=create),
        **described(_CONFIG),
    }
    for type_ in layout.RESTIC_DIRECTORIES:
        operations["GET", _list_of(type_)] = operation(
            f"List the {type_}.", terms.answered("200", "All of them.", content)
        )
        operations.update(described(_file_of(type_)))
    return Description(operations)


RESTIC = Interface("restic", _build, _describe, layout.RESTIC)
