"""The `drops` interface: a form creates a drop, and its link gives the file once, with a password if it has one."""

from __future__ import annotations

import functools
import json
import logging
import re

from filestoraged.api import forms, objects
from filestoraged.api.drop_form import DropForm
from filestoraged.api.drop_pages import DropPages
from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.api.metrics import numbers_by_state
from filestoraged.api.pages import Pages
from filestoraged.api.upload_targets import DropTarget
from filestoraged.errors import BadRequest, Error, Forbidden, Gone, NotFound, Unauthorized
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import Blob, Sink, Store
from filestoraged.store.databases import Databases
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Claim, Drop, Drops
from filestoraged.store.janitors import DropsJanitor
from filestoraged.store.passwords import PASSWORDS, Guard, Passwords
from filestoraged.web.error_responses import refusal
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import JSON, Fields, Response
from filestoraged.web.router import READ, WRITE, Route, Router
from filestoraged.wire.authorization import parse_basic
from filestoraged.wire.multipart import form_boundary

log = logging.getLogger(__name__)

# Bytes. A file that a socket takes at once is sealed before its first byte: the loop waits for that without a thread.
_SMALL_FILE = 16 * 1024

# Seconds for which the bytes of a drop are kept after it was handed over to a proxy, which reads them meanwhile.
_PROXY_TIMEOUT = 600.0

_ID = re.compile(r"[0-9a-f]{32}")

_NO_STORE = "Cache-Control: no-store\r\n"

# Header fields and values by which browsers mark a prefetch.
_PREFETCH_FIELDS = ("sec-purpose", "purpose", "x-moz")
_PREFETCH_WORDS = ("prefetch", "prerender", "preview")

# Reason phrases of this interface that differ from those of RFC 9110.
_LABELS = {405: "Method not Allowed", 413: "Request Entity Too Large"}


def routes(
    drops: Drops,
    store: Store,
    guard: Guard,
    *,
    public_url: str | None = None,
    accel: str | None = None,
    pages: Pages | None = None,
) -> Router:
    """`store` contains the bytes of the drops, named by their ids. Without `pages`, there are none for people."""
    requests = _Requests(drops, store, guard, public_url, accel)
    runs_on = objects.runs_waiting(store)
    routes = [Route("PUT", "/file", requests.upload, WRITE, runs_on), _download_route(drops, requests, runs_on)]
    if pages is None:
        return Router("drops", routes, refuse=_refuse, secret=True)
    shown = DropPages(pages, requests, limit=store.max_size, public_url=public_url)
    # They look a drop up in the database, and its size in the store.
    waits_on = RunsOn.REMOTE if drops.is_remote else runs_on
    routes += shown.routes(waits_on)
    return Router("drops", routes, refuse=_refuse, secret=True, variant=shown.variant(waits_on))


def _download_route(drops: Drops, requests: _Requests, runs_on: RunsOn) -> Route:
    """On another machine, a query takes longer than the loop may wait."""
    if drops.is_remote:
        return Route("GET", "/file/{id}", requests.download, READ, RunsOn.REMOTE)
    return Route("GET", "/file/{id}", requests.download, READ, runs_on, recall=requests.recall)


class _Requests:
    def __init__(self, drops: Drops, store: Store, guard: Guard, public_url: str | None, accel: str | None) -> None:
        self._drops = drops
        self._store = store
        self._guard = guard
        self._public_url = public_url
        self._accel = accel

    async def upload(self, request: Request) -> Response:
        drop = await self.create(request)
        answer = {"status": "File Uploaded Successfully", "url": self._link(request, drop.id)}
        return Response(201, JSON + _NO_STORE, json.dumps(answer).encode() + b"\n")

    async def create(self, request: Request) -> Drop:
        """Store the drop that a form has."""
        boundary = form_boundary(request.fields.get("content-type", ""))
        if boundary is None:
            raise BadRequest("Invalid Content-Type: expected multipart/form-data with a part named 'file'.")
        self._store.require_room(forms.least_size(request))
        with DropForm(self._store) as form:
            await forms.receive_form(request, boundary, form.receive, limit=self._store.max_size)
            name, staging, password = form.whole()
            kept: bytes | None = None
            if password:
                kept = await self._hash(request, password)
            # The id is registered before its bytes are stored, so that no bytes are ever without a row.
            id_ = await self._drops.announce()
            try:
                await objects.reserve(staging, id_)
                await staging.commit(name=id_)
                drop = Drop(id_, name, kept)
                await self._drops.publish(drop)
            except BaseException:
                self._drops.retract(id_)
                raise
        return drop

    async def download(self, request: Request, id_: str) -> Response:
        _refuse_prefetch(request)
        return await self.fetch(request, self.find(id_), None)

    async def fetch(self, request: Request, drop: Drop, password: str | None) -> Response:
        """Claim a drop, and answer with its bytes. Without a `password`, the one in the head of the request counts."""
        if drop.password is not None:
            password = password or _password(request)
            if password is None:
                raise Unauthorized("A password is required.")
            check = functools.partial(self._drops.check, drop, password)
            await self._guard.guesses.submit(request.client, check)
        self._require_store(drop)
        claiming = self._drops.claim(drop.id)
        try:
            claim = await claiming
        except BaseException:
            # The claim may have been made all the same: no thread was left for this page, or its server ends.
            claiming.add_done_callback(self._give_back_unused)
            raise
        blob = self._open(claim)
        accel = "" if _is_partial(request) else objects.accelerated(self._store, drop.id, self._accel)
        if not accel:
            content = _Claimed(self._drops, claim, blob)
            if self._drops.is_remote and blob.size <= _SMALL_FILE:
                await self._seal(content)
            response = Response(200, _description(drop), content=content, stop=blob.size)
            response.on_received = content.finish
            response.on_failure = content.fail
            return response
        # Record this before the response: from then on the proxy sends the bytes, even if this process dies.
        blob.close()
        try:
            await self._drops.hand_over(claim, keep=_PROXY_TIMEOUT)
        except BaseException:
            # Nothing was sent, even if the hand-over was recorded in spite of the error.
            self._drops.give_back(claim)
            raise
        return Response(200, _description(drop) + accel)

    def recall(self, request: Request, id_: str) -> Response | None:
        """Answer 403, 404 and 410 on the loop. Returns None for an available drop."""
        _refuse_prefetch(request)
        try:
            self.find(id_)
        except (NotFound, Gone):
            raise
        except Exception:
            # Answered by the page, which repeats the query on a thread.
            return None
        return None

    def find(self, id_: str) -> Drop:
        """Look up an available drop. Raises NotFound, Gone and TooManyGuesses."""
        return self._drops.get(id_ if _ID.fullmatch(id_) else "")

    def _require_store(self, drop: Drop) -> None:
        """Raise StoreUnavailable before a claim: bytes that are missing during an outage must not end the drop."""
        if self._store.remote or self._drops.is_remote:
            try:
                self._store.stat(drop.id)
            except NotFound:
                # Perhaps everything is missing.
                self._store.probe()

    def size_of(self, drop: Drop) -> int:
        """The bytes of a drop. Raises Gone."""
        try:
            return self._store.stat(drop.id).size
        except NotFound as error:
            # It was fetched since it was found, unless everything is missing.
            self._require_store(drop)
            raise Gone("The file of this drop is missing.") from error

    def _open(self, claim: Claim) -> Blob:
        try:
            return self._store.open(claim.id)
        except NotFound as error:
            # A process removed the bytes after a download, but could not record it; see `Drops.retry`.
            log.warning("the bytes of a drop are missing: it is gone")
            self._drops.finish(claim)
            raise Gone("The file of this drop is missing.") from error
        except BaseException:
            self._drops.give_back(claim)
            raise

    def _give_back_unused(self, claiming: Future[Claim]) -> None:
        if claiming.exception() is None:
            self._drops.give_back(claiming.result())

    def _hash(self, request: Request, password: str) -> Future[bytes]:
        return self._guard.keep(request.client, password)

    async def _seal(self, content: _Claimed) -> None:
        try:
            await content.seal()
        except BaseException:
            # Nothing was sent.
            content.fail()
            content.close()
            raise
        content.is_sealed = True

    def _link(self, request: Request, id_: str) -> str:
        return f"{request.mount_url(self._public_url)}/file/{id_}"


class _Claimed:
    """The content of a claimed drop. If it is closed before the client has all of it, the drop is available again.

    If that is because the server failed, the download does not count as one that broke off.
    """

    def __init__(self, drops: Drops, claim: Claim, blob: Blob) -> None:
        self._drops = drops
        self._claim = claim
        self._blob = blob
        self._finished = False
        self._has_failed = False
        # Whether the claim cannot be lost any more: at once where it is this process's as long as that lives.
        self.is_sealed = not drops.is_remote
        # Sealing waits for another machine.
        self.may_wait = blob.may_wait or drops.is_remote

    def seal(self) -> Future[None]:
        """Confirm the claim. The last byte is sent after that, so that no two clients get the whole file."""
        return self._drops.seal(self._claim)

    def send(self, sink: Sink, start: int, stop: int) -> int:
        if self.is_sealed:
            return self._blob.send(sink, start, stop)
        if start < stop - 1:
            return self._blob.send(sink, start, stop - 1)
        # If this fails, the response ends too early.
        self.seal().result()
        self.is_sealed = True
        return self._blob.send(sink, start, stop)

    def finish(self) -> None:
        self._finished = True
        self._drops.finish(self._claim)

    def fail(self) -> None:
        """The server cannot send the last byte."""
        self._has_failed = True

    def close(self) -> None:
        self._blob.close()
        if not self._finished:
            self._finished = True
            if self._has_failed:
                self._drops.give_back(self._claim)
            else:
                self._drops.release(self._claim)


def _description(drop: Drop) -> Fields:
    return objects.saved_as(drop.name) + _NO_STORE + objects.NO_PAGE


def _refuse_prefetch(request: Request) -> None:
    if any(word in request.fields.get(field, "").lower() for field in _PREFETCH_FIELDS for word in _PREFETCH_WORDS):
        raise Forbidden("A prefetch is refused: a drop can be downloaded once.")


def _is_partial(request: Request) -> bool:
    """Whether a proxy could answer with a part of the bytes, or none. A drop is sent once, so it must be sent whole."""
    return any(name == "range" or name.startswith("if-") for name in request.fields)


def _password(request: Request) -> str | None:
    """Return the password of the query, or of Basic authentication with any user name; None without one."""
    given = next(iter(request.parameters("password")), "")
    if not given and request.is_free:
        # If the request needed a token, this field contains the token.
        _, given = parse_basic(request.fields.get("authorization", ""))
    return given or None


def _refuse(error: Error) -> Response:
    response = refusal(error, _LABELS.get(error.status))
    response.fields += _NO_STORE
    return response


def open_drops(databases: Databases, *, ttl: float, passwords: Passwords = PASSWORDS) -> Drops:
    """`ttl` is the time in seconds for which a drop can be fetched."""
    transactions = databases.open_transactions(layout.DROPS_DATABASE, DROPS_SCHEMA)
    owners = databases.owners(layout.DROP_OWNERS)
    return Drops(transactions, owners, ttl=ttl, passwords=passwords, clock=databases.clock)


def _build(resources: Resources) -> Router:
    registry = open_drops(resources.databases, ttl=resources.drop_ttl, passwords=resources.guard.passwords)
    lock = resources.databases.open_cleanup_lock(layout.JANITOR_LOCK)
    janitor = DropsJanitor(registry, resources.drops, lock, resources.clock)
    janitor.start()
    resources.janitors.append(janitor)
    resources.test("Drops", registry.probe)
    resources.gauges["drops"] = numbers_by_state("filestoraged_drops", "Drops by state.", registry.count)
    # Pending writes first: the janitor may be busy.
    resources.closing.append((registry.flush, janitor.stop, registry.close))
    resources.drop_registry = registry
    resources.targets.drops = DropTarget(registry, resources.drops)
    return routes(
        registry,
        resources.drops,
        resources.guard,
        public_url=resources.public_url,
        accel=resources.delivery.accel,
        pages=resources.pages,
    )


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    drop_form = terms.body({"multipart/form-data": {"schema": terms.ref("schemas", "Drop")}})
    password = {"application/x-www-form-urlencoded": {"schema": terms.ref("schemas", "Password")}}
    made = terms.json_content(terms.object_of(status=terms.TEXT, url=terms.TEXT))
    bytes_ = terms.answered("200", "The bytes.", terms.ANY)
    operation = terms.operation
    operations = {
        ("PUT", "/file"): operation(
            "Make a drop: a file that can be fetched once.", terms.answered("201", "Made.", made), body=drop_form
        ),
        ("GET", "/file/{id}"): operation(
            "Fetch a drop, once; where HTML is preferred, its landing page.",
            bytes_,
            parameters=[terms.ref("parameters", "Password")],
        ),
        ("POST", "/drop"): operation(
            "Make a drop by a form.",
            terms.answered("201", "A page that shows the link.", terms.PAGE),
            body=drop_form,
            error="PageError",
        ),
        ("GET", "/drop/{id}"): operation(
            "The landing page of a drop, which takes nothing.",
            terms.answered("200", "The page.", terms.PAGE),
            error="PageError",
        ),
        ("POST", "/drop/{id}"): operation(
            "Fetch a drop by the form of its landing page, once.",
            bytes_,
            body=terms.body(password, required=False),
            error="PageError",
        ),
    }
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    drop = {"type": "object", "required": ["file"], "properties": {"file": file, "password": terms.TEXT}}
    return Description(
        operations, {"Drop": drop, "Password": {"type": "object", "properties": {"password": terms.TEXT}}}
    )


DROPS = Interface(
    "drops",
    _build,
    _describe,
    layout.DROPS,
    Data(layout.DROPS_DATABASE, DROPS_SCHEMA, "drops"),
)
