"""The Git LFS API of a repository: batch requests, which hand out links, and file locking.

The bytes themselves are transferred by the requests of `repositories`, which the links lead to. Bodies are
`application/vnd.git-lfs+json`, those of errors too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from filestoraged.api import objects
from filestoraged.api.interface import Json
from filestoraged.api.objects import repository_name
from filestoraged.api.payloads import Payloads
from filestoraged.api.upload_targets import REPOSITORIES
from filestoraged.digest import Expected
from filestoraged.errors import (
    Conflict,
    CorruptObject,
    Error,
    Forbidden,
    NotFound,
    TokenRequired,
    TooLarge,
    Unprocessable,
)
from filestoraged.store.contract import ObjectStatus, Store
from filestoraged.store.locks import Lock, Locks
from filestoraged.store.uploads.registry import Draft
from filestoraged.store.uploads.uploads import Uploads
from filestoraged.web.auth import ANYBODY, Tokens
from filestoraged.web.error_responses import refusal
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import NO_STORE, Response, field_lines
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router
from filestoraged.wire import lfs
from filestoraged.wire.authorization import parse_basic
from filestoraged.wire.dates import format_timestamp
from filestoraged.wire.lfs import BatchObject, LockPage

_FIELDS = field_lines(("Content-Type", lfs.MEDIA_TYPE)) + NO_STORE

# Clients look for this field first, and ask for a user name and a password if it says so.
_LFS_AUTHENTICATE = field_lines(("LFS-Authenticate", 'Basic realm="filestoraged", charset="UTF-8"'))

# The interface of resumable uploads.
_UPLOADS = "uploads"

# Characters of a user name without tokens, which the lock keeps and other clients show.
_MAX_USER = 100

# Bytes. The body of a lock has a few hundred.
_SMALL_BODY = 4 * 1024


def routes(
    store: Store,
    locks: Locks,
    *,
    authorizer: Tokens | None = None,
    public_url: str | None = None,
    uploads: Uploads | None = None,
) -> Router:
    """A router within that of `repositories`. `store` has a namespace for each repository.

    With `uploads`, clients may send objects by the tus protocol.
    """
    runs_on = RunsOn.REMOTE if locks.is_remote else objects.runs_waiting(store)
    payloads = Payloads(lfs.MAX_BODY_SIZE, small=_SMALL_BODY)
    batch = _Batches(store, payloads, authorizer, public_url, uploads)
    pages = _LockPages(locks, payloads, authorizer)
    return Router(
        "repositories",
        [
            Route("POST", "/{repository}/objects/batch", batch.show, READ, runs_on, or_scope=WRITE),
            Route("GET", "/{repository}/locks", pages.list, READ, runs_on),
            Route("POST", "/{repository}/locks", pages.create, WRITE, runs_on),
            Route("POST", "/{repository}/locks/verify", pages.verify, READ, runs_on),
            Route("POST", "/{repository}/locks/{id}/unlock", pages.release, WRITE, runs_on, or_scope=DELETE),
        ],
        refuse=_refuse,
        has_areas=True,
    )


class _Batches:
    def __init__(
        self,
        store: Store,
        payloads: Payloads,
        authorizer: Tokens | None,
        public_url: str | None,
        uploads: Uploads | None,
    ) -> None:
        self._store = store
        self._uploads = uploads
        self._payloads = payloads
        self._authorizer = authorizer
        self._public_url = public_url

    async def show(self, request: Request, repository: str) -> Response:
        """Look up each object once, and answer with the links by which the client transfers it."""
        name = repository_name(repository)
        resumable = self._uploads is not None and _UPLOADS in request.mounts
        transfers = (lfs.TUS, lfs.BASIC) if resumable else (lfs.BASIC,)
        batch = lfs.parse_batch(await self._payloads.gather(request), uploads=transfers)
        if self._authorizer is not None:
            self._authorizer.require(request, WRITE if batch.operation == lfs.UPLOAD else READ)
        lookup = _Lookup(self._store.namespace(name), f"{request.mount_url(self._public_url)}/{name}")
        describe = lookup.upload if batch.operation == lfs.UPLOAD else lookup.download
        described = [describe(each) for each in batch.objects]
        if batch.transfer == lfs.TUS:
            self._make_resumable(request, name, described)
        answer = {"transfer": batch.transfer, "objects": described, "hash_algo": lfs.HASH_ALGORITHM}
        return _response(200, answer)

    def _make_resumable(self, request: Request, repository: str, described: Sequence[dict[str, Any]]) -> None:
        """Replace the links of objects to be uploaded by those of resumable uploads, of each owner an own one."""
        assert self._uploads is not None
        owner = owner_of(request, self._authorizer)
        wanted = [each for each in described if "actions" in each]
        ids = self._uploads.find_or_create([_draft(owner, repository, each["oid"], each["size"]) for each in wanted])
        start = f"{request.listener_url(self._public_url)}{request.mounts[_UPLOADS]}"
        for each, id_ in zip(wanted, ids):
            each["actions"] = {"upload": {"href": f"{start}/{id_}"}}


class _Lookup:
    """Describes the objects of one batch. Each is looked up once, however often the batch names it."""

    def __init__(self, store: Store, url: str) -> None:
        """`url` is that of the repository."""
        self._store = store
        self._url = url
        self._found: dict[str, ObjectStatus | NotFound | CorruptObject] = {}
        # Objects that are to be uploaded, and the sum of their sizes.
        self._wanted: set[str] = set()
        self._wanted_size = 0

    def upload(self, wanted: BatchObject) -> dict[str, Any]:
        """An object that is stored has no link: the client then sends nothing."""
        if wanted.fault:
            return _described(wanted, Unprocessable(wanted.fault))
        found = self._find(wanted.oid)
        if isinstance(found, ObjectStatus):
            return _described(wanted, _size_fault(wanted, found))
        # Uploading a damaged object heals it.
        excess = self._excess(wanted)
        if excess is not None:
            return _described(wanted, excess)
        self._require_room(wanted)
        return {**_described(wanted, None), "actions": {"upload": {"href": f"{self._url}?hash={wanted.oid}"}}}

    def download(self, wanted: BatchObject) -> dict[str, Any]:
        if wanted.fault:
            return _described(wanted, Unprocessable(wanted.fault))
        found = self._find(wanted.oid)
        fault = _size_fault(wanted, found) if isinstance(found, ObjectStatus) else found
        if isinstance(fault, NotFound):
            fault = self._excess(wanted) or fault
        if fault is not None:
            return _described(wanted, fault)
        return {**_described(wanted, None), "actions": {"download": {"href": f"{self._url}/{wanted.oid}"}}}

    def _excess(self, wanted: BatchObject) -> Unprocessable | None:
        """The error for an object that could not be uploaded. What is stored was smaller than the limit of its day."""
        limit = self._store.max_size
        if limit is None or wanted.size <= limit:
            return None
        return Unprocessable(str(TooLarge(limit, size=wanted.size)))

    def _require_room(self, wanted: BatchObject) -> None:
        """Raise QuotaExceeded if the objects of the batch have no room together: the API has no such error of one."""
        if wanted.oid not in self._wanted:
            self._store.require_room(self._wanted_size + wanted.size)
            self._wanted.add(wanted.oid)
            self._wanted_size += wanted.size

    def _find(self, oid: str) -> ObjectStatus | NotFound | CorruptObject:
        if oid not in self._found:
            try:
                self._found[oid] = self._store.stat(oid)
            except (NotFound, CorruptObject) as error:
                self._found[oid] = error
        return self._found[oid]


def _size_fault(wanted: BatchObject, found: ObjectStatus) -> Unprocessable | None:
    if wanted.size == found.size:
        return None
    return Unprocessable(f"Invalid size {wanted.size}: the object has {found.size} bytes.")


def _described(wanted: BatchObject, error: Error | None) -> dict[str, Any]:
    described: dict[str, Any] = {"oid": wanted.oid, "size": wanted.size}
    if error is not None:
        described["error"] = {"code": error.status, "message": str(error)}
    return described


class _LockPages:
    def __init__(self, locks: Locks, payloads: Payloads, authorizer: Tokens | None) -> None:
        self._locks = locks
        self._payloads = payloads
        self._authorizer = authorizer

    async def create(self, request: Request, repository: str) -> Response:
        name, owner = repository_name(repository), owner_of(request, self._authorizer)
        path = lfs.parse_lock(await self._payloads.gather(request))
        result = await self._locks.lock(name, path, owner)
        shown = {"lock": _shown(result.lock)}
        if result.is_new:
            return _response(201, shown)
        response = _response(409, {**shown, "message": f"The path is locked by {result.lock.owner}."})
        response.kind = Conflict.__name__
        return response

    def list(self, request: Request, repository: str) -> Response:
        name = repository_name(repository)
        page = lfs.parse_lock_page(_parameter(request, "limit"), _parameter(request, "cursor"))
        path, id_ = _parameter(request, "path"), _parameter(request, "id")
        if path is None and id_ is None:
            found, following = self._page(name, page)
        else:
            found, following = self._matching(name, path, id_), {}
        return _response(200, {"locks": [_shown(each) for each in found], **following})

    async def verify(self, request: Request, repository: str) -> Response:
        """List the locks of a repository, those of the client apart from those of others."""
        name, owner = repository_name(repository), owner_of(request, self._authorizer)
        if self._authorizer is not None and self._authorizer.name_of(request) is None:
            # Clients ask before a push, and send no token until they get 401: without it, their own locks would be
            # those of others, and they would refuse the push.
            self._authorizer.require(request, WRITE)
        found, following = self._page(name, lfs.parse_verify(await self._payloads.gather(request)))
        ours = [_shown(each) for each in found if each.owner == owner]
        theirs = [_shown(each) for each in found if each.owner != owner]
        return _response(200, {"ours": ours, "theirs": theirs, **following})

    async def release(self, request: Request, repository: str, id_: str) -> Response:
        name, owner = repository_name(repository), owner_of(request, self._authorizer)
        force = lfs.parse_unlock(await self._payloads.gather(request))
        number = lfs.parse_lock_id(unquote(id_))
        if number is None:
            raise NotFound("There is no lock with this id.")
        lock = self._locks.get(name, number)
        is_foreign = lock.owner != owner
        if self._authorizer is not None:
            self._authorizer.require(request, DELETE if is_foreign and force else WRITE)
        if is_foreign and not force:
            raise Forbidden(f"The lock belongs to {lock.owner}; force releases it.")
        return _response(200, {"lock": _shown(await self._locks.release(name, number))})

    def _page(self, repository: str, page: LockPage) -> tuple[Sequence[Lock], dict[str, str]]:
        """Return the locks of a page, and the cursor of the next one if there is one."""
        found = self._locks.list(repository, page.after, page.limit + 1)
        if len(found) <= page.limit:
            return found, {}
        return found[:-1], {"next_cursor": str(found[-2].id)}

    def _matching(self, repository: str, path: str | None, id_: str | None) -> Sequence[Lock]:
        """Return the lock with that path and that id, as far as they are given."""
        if path is not None:
            return [each for each in self._locks.find(repository, path) if id_ in (None, str(each.id))]
        number = lfs.parse_lock_id(id_ or "")
        try:
            return [] if number is None else [self._locks.get(repository, number)]
        except NotFound:
            return []


def owner_of(request: Request, authorizer: Tokens | None) -> str:
    """Return the name of the request's token; without tokens, that of the user."""
    if authorizer is not None:
        return authorizer.name_of(request) or ANYBODY
    user, _ = parse_basic(request.fields.get("authorization", ""))
    if len(user) > _MAX_USER or not user.isprintable():
        raise Unprocessable(f"Invalid user name: expected {_MAX_USER} printable characters at most.")
    return user or ANYBODY


def _draft(owner: str, repository: str, oid: str, size: int) -> Draft:
    # The size is a part of the key: one that was told wrong must not keep the right one from being sent.
    reuse = "\n".join((owner, repository, oid, str(size)))
    expected = [Expected("sha256", oid)]
    return Draft(f"{REPOSITORIES}/{repository}", size, owner=owner, expected=expected, reuse=reuse)


def _parameter(request: Request, name: str) -> str | None:
    values = request.parameters(name)
    if len(values) > 1:
        raise Unprocessable(f"The query has {len(values)} values of {name}: expected one at most.")
    return values[0] if values else None


def _shown(lock: Lock) -> dict[str, Any]:
    return {
        "id": str(lock.id),
        "path": lock.path,
        "locked_at": format_timestamp(lock.created),
        "owner": {"name": lock.owner},
    }


def _response(status: int, value: Mapping[str, Any]) -> Response:
    return Response(status, _FIELDS, json.dumps(value).encode() + b"\n")


def _refuse(error: Error) -> Response:
    """An error of another interface's has the same members, of which clients show the message."""
    response = refusal(error)
    response.fields = _FIELDS + field_lines(*error.fields)
    if isinstance(error, TokenRequired):
        response.fields += _LFS_AUTHENTICATE
    return response


def describe() -> Mapping[tuple[str, str], Json]:
    """Return the operations of the routes, for OpenAPI."""
    from filestoraged.api import openapi_terms as terms

    wanted = {"type": "array", "maxItems": 1000, "items": terms.object_of(oid=terms.TEXT, size={"type": "integer"})}
    batch = terms.object_of(operation={"enum": ["upload", "download"]}, objects=wanted)
    links = terms.object_of(transfer=terms.TEXT, objects={"type": "array"}, hash_algo=terms.TEXT)
    lock, locks = terms.ref("schemas", "Lock"), {"type": "array", "items": describe_lock()}
    force = {"type": "object", "properties": {"force": {"type": "boolean"}}}
    return {
        ("POST", "/{repository}/objects/batch"): _operation("Git LFS: links to objects.", links, batch),
        ("GET", "/{repository}/locks"): _operation(
            "Git LFS: list locks.",
            terms.object_of(locks=locks),
            parameters=[
                terms.query("path", "The path of a lock."),
                terms.query("id", "The id of a lock."),
                terms.query("cursor", "Of the page before."),
                terms.query("limit", "Locks of a page.", {"type": "integer"}),
            ],
        ),
        ("POST", "/{repository}/locks"): _operation(
            "Git LFS: lock a path.", lock, terms.object_of(path=terms.TEXT), status="201"
        ),
        ("POST", "/{repository}/locks/verify"): _operation(
            "Git LFS: list locks, one's own apart.", terms.object_of(ours=locks, theirs=locks), {"type": "object"}
        ),
        ("POST", "/{repository}/locks/{id}/unlock"): _operation("Git LFS: release a lock.", lock, force),
    }


def describe_lock() -> Json:
    from filestoraged.api import openapi_terms as terms

    return terms.object_of(id=terms.TEXT, path=terms.TEXT, locked_at=terms.TEXT, owner=terms.object_of(name=terms.TEXT))


def _operation(
    summary: str, schema: Json, request: Json | None = None, *, status: str = "200", parameters: Sequence[Json] = ()
) -> Json:
    from filestoraged.api import openapi_terms as terms

    return terms.operation(
        summary,
        terms.answered(status, "Done.", terms.json_content(schema, lfs.MEDIA_TYPE)),
        parameters=parameters,
        body=None if request is None else terms.body(terms.json_content(request, lfs.MEDIA_TYPE)),
        error="LfsError",
    )
