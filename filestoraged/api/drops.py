"""The `drops` interface: a form creates a drop, and its link gives the file once, with a password if it has one."""

from __future__ import annotations

import functools
import json
import logging
import re
from concurrent.futures import Future

from filestoraged.api import forms, objects
from filestoraged.api.drop_form import DropForm
from filestoraged.errors import BadRequest, Error, Forbidden, Gone, NotFound, Unauthorized
from filestoraged.store import passwords
from filestoraged.store.contract import Blob, Sink, Store
from filestoraged.store.drops import Claim, Drop, Drops
from filestoraged.store.passwords import Guard
from filestoraged.web.error_responses import refusal
from filestoraged.web.message import JSON, Fields, Request, Response, RunsOn, result_of
from filestoraged.web.router import READ, WRITE, Route, Router
from filestoraged.wire.authorization import parse_basic
from filestoraged.wire.multipart import form_boundary

log = logging.getLogger(__name__)

# Maximum size of a file, in bytes.
MAX_FILE_SIZE = 16 * 1024 * 1024

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
    drops: Drops, store: Store, guard: Guard, *, public_url: str | None = None, accel: str | None = None
) -> Router:
    """`store` contains the bytes of the drops, named by their ids."""
    pages = _Pages(drops, store, guard, public_url, accel)
    return Router(
        "drops",
        [
            Route("PUT", "/file", pages.upload, WRITE, RunsOn.THREAD),
            Route("GET", "/file/{id}", pages.download, READ, RunsOn.THREAD, recall=pages.recall),
        ],
        refuse=_refuse,
        secret=True,
    )


class _Pages:
    def __init__(self, drops: Drops, store: Store, guard: Guard, public_url: str | None, accel: str | None) -> None:
        self._drops = drops
        self._store = store
        self._guard = guard
        self._public_url = public_url
        self._accel = accel

    async def upload(self, request: Request) -> Response:
        boundary = form_boundary(request.fields.get("content-type", ""))
        if boundary is None:
            raise BadRequest("Invalid Content-Type: expected multipart/form-data with a part named 'file'.")
        with DropForm(self._store) as form:
            await forms.receive_form(request, boundary, form.take, limit=MAX_FILE_SIZE)
            name, staging, password = form.whole()
            kept: bytes | None = None
            if password:
                kept = await result_of(self._hash(request, password))
            # The id is registered before its bytes are stored, so that no bytes are ever without a row.
            id_ = await result_of(self._drops.announce())
            try:
                staging.commit(name=id_)
                await result_of(self._drops.publish(Drop(id_, name, kept)))
            except BaseException:
                self._drops.retract(id_)
                raise
        answer = {"status": "File Uploaded Successfully", "url": self._link(request, id_)}
        return Response(201, JSON + _NO_STORE, json.dumps(answer).encode() + b"\n")

    async def download(self, request: Request, id_: str) -> Response:
        if any(word in request.fields.get(field, "").lower() for field in _PREFETCH_FIELDS for word in _PREFETCH_WORDS):
            raise Forbidden("A prefetch is refused: a drop can be downloaded once.")
        drop = self._find(id_)
        if drop.password is not None:
            password = _password(request)
            if password is None:
                raise Unauthorized("A password is required.")
            check = functools.partial(self._drops.check, drop, password)
            await result_of(self._guard.guesses.submit(request.client, check))
        claiming = self._drops.claim(drop.id)
        try:
            claim = await result_of(claiming)
        except BaseException:
            # The claim may have been made all the same: no thread was left for this page, or its server ends.
            claiming.add_done_callback(self._release_unused)
            raise
        blob = self._open(claim)
        accel = "" if _is_partial(request) else objects.accelerated(self._store, drop.id, self._accel)
        if not accel:
            return self._hand_out(drop, claim, blob)
        # Record this before the response: from then on the proxy sends the bytes, even if this process dies.
        blob.close()
        try:
            await result_of(self._drops.hand_over(claim, keep=_PROXY_TIMEOUT))
        except BaseException:
            # Has no effect if the hand-over was recorded in spite of the error.
            self._drops.release(claim)
            raise
        return Response(200, _description(drop) + accel)

    def recall(self, _: Request, id_: str) -> Response | None:
        """Answer 404 and 410 on the loop. Returns None for an available drop."""
        try:
            self._find(id_)
        except (NotFound, Gone):
            raise
        except Exception:
            # Answered by the page, which repeats the query on a thread.
            return None
        return None

    def _find(self, id_: str) -> Drop:
        return self._drops.get(id_ if _ID.fullmatch(id_) else "")

    def _open(self, claim: Claim) -> Blob:
        try:
            return self._store.open(claim.id)
        except NotFound as error:
            # A process removed the bytes after a download, but could not record it; see `Drops.retry`.
            log.warning("the bytes of a drop are missing: it is gone")
            self._drops.finish(claim)
            raise Gone("The file of this drop is missing.") from error
        except BaseException:
            self._drops.release(claim)
            raise

    def _release_unused(self, claiming: Future[Claim]) -> None:
        if not claiming.cancelled() and claiming.exception() is None:
            self._drops.release(claiming.result())

    def _hash(self, request: Request, password: str) -> Future[bytes]:
        return self._guard.uploads.submit(request.client, functools.partial(passwords.kept, password))

    def _hand_out(self, drop: Drop, claim: Claim, blob: Blob) -> Response:
        claimed = _Claimed(self._drops, claim, blob)
        response = Response(200, _description(drop), content=claimed, stop=blob.size)
        response.on_received = claimed.finish
        return response

    def _link(self, request: Request, id_: str) -> str:
        start = self._public_url or f"http://{request.fields.get('host', 'localhost')}"
        return f"{start}{request.mount}/file/{id_}"


class _Claimed:
    """The content of a claimed drop. If it is closed before the client has all of it, the drop is available again."""

    def __init__(self, drops: Drops, claim: Claim, blob: Blob) -> None:
        self._drops = drops
        self._claim = claim
        self._blob = blob
        self._finished = False

    def send(self, sink: Sink, start: int, stop: int) -> int:
        return self._blob.send(sink, start, stop)

    def finish(self) -> None:
        self._finished = True
        self._drops.finish(self._claim)

    def close(self) -> None:
        self._blob.close()
        if not self._finished:
            self._finished = True
            self._drops.release(self._claim)


def _description(drop: Drop) -> Fields:
    return objects.saved_as(drop.name) + _NO_STORE + objects.NO_PAGE


def _is_partial(request: Request) -> bool:
    """Whether a proxy could answer with a part of the bytes, or none. A drop is sent once, so it must be sent whole."""
    return any(name == "range" or name.startswith("if-") for name in request.fields)


def _password(request: Request) -> str | None:
    """Return the password of the query, or of Basic authentication with any user name; None without one."""
    given = next(iter(request.parameters("password")), "")
    if not given and request.is_free:
        # If the request needed a token, this field contains the token.
        given = parse_basic(request.fields.get("authorization", ""))
    return given or None


def _refuse(error: Error) -> Response:
    response = refusal(error, _LABELS.get(error.status))
    response.fields += _NO_STORE
    return response
