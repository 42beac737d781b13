"""Pages of the `drops` interface: a form that makes a drop, and the landing page of a drop's link.

The landing page takes nothing and checks no password, so the bots that open each link for a preview or a scan are
harmless. Its form fetches the file, by a POST, which such bots do not send. Nothing here needs JavaScript.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import parse_qsl

from filestoraged.api import forms
from filestoraged.api.drop_form import decode_password
from filestoraged.api.pages import VARIES, Markup, Pages, mount, readable_size, show, show_once, size_hint, wants_page
from filestoraged.api.payloads import Payloads
from filestoraged.errors import BadRequest, ClientGone, Error, TooManyGuesses, Unauthorized
from filestoraged.store.drops import Drop
from filestoraged.web.error_responses import meaning
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import REASONS, Response, field_lines
from filestoraged.web.router import PUBLIC, READ, WRITE, PageVariant, Route, Router
from filestoraged.wire.multipart import FormEvent, FormPart, form_boundary

# Maximum size of the form that fetches a drop, in bytes: a password of 1,024 bytes, each percent-encoded.
_MAX_FORM_SIZE = 8 * 1024

# A status without a heading of its own has its reason phrase.
_HEADINGS = {404: "No such link", 410: "Already fetched", 413: "Too large", 429: "Locked for now"}
_SENTENCES = {
    404: "There is no file behind this link. Check that it was copied whole.",
    410: "The file was fetched, or its time is over. Links like this one work once: ask the sender for a new one.",
}

# Browsers know no such scheme, so they show the page, not a dialogue of their own.
_FORM_CHALLENGE = field_lines(("WWW-Authenticate", 'Form realm="drop"'))


class DropRequests(Protocol):
    """What the pages need of the interface."""

    def find(self, id_: str) -> Drop:
        """Look up an available drop. Raises NotFound, Gone and TooManyGuesses."""

    def size_of(self, drop: Drop) -> int:
        """The bytes of a drop. Raises Gone."""

    async def create(self, request: Request) -> Drop:
        """Store the drop that a form has."""

    async def fetch(self, request: Request, drop: Drop, password: str | None) -> Response:
        """Claim a drop, and answer with its bytes."""


class DropPages:
    def __init__(self, pages: Pages, drops: DropRequests, *, limit: int | None, public_url: str | None) -> None:
        """`limit` is the largest size of a file, in bytes; None for any."""
        self._pages = pages
        self._drops = drops
        self._limit = limit
        self._public_url = public_url
        self._payloads = Payloads(_MAX_FORM_SIZE, small=_MAX_FORM_SIZE)

    def routes(self, runs_on: RunsOn) -> Sequence[Route]:
        return [
            Route("POST", "/drop", self.create, WRITE, runs_on),
            Route("GET", "/drop/{id}", self.show, PUBLIC, runs_on),
            Route("POST", "/drop/{id}", self.fetch, READ, runs_on),
        ]

    def variant(self, runs_on: RunsOn) -> PageVariant:
        """The pages at paths where programs get something else."""
        routes = [
            Route("GET", "/", self.show_form, PUBLIC, RunsOn.INLINE),
            Route("GET", "/file/{id}", self.show, PUBLIC, runs_on),
        ]
        return PageVariant(Router("drops", routes, secret=True), wants_page)

    def show_form(self, request: Request) -> Response:
        content = self._pages.fill(
            "upload",
            heading="Share once",
            lead="Each file gets a link that works once. After that, it is gone.",
            action=f"{mount(request)}drop",
            limit_hint=size_hint(self._limit),
            options=self._pages.fill("password"),
            noscript="The next page shows the link.",
        )
        data = {"kind": "drops", "limit": self._limit or "", "link": self._pages.link_start(request)}
        page = self._pages.page(request, "Share a file once", content, script="upload.js", data=data, needs=WRITE)
        return show(request, page)

    def show(self, request: Request, id_: str) -> Response:
        try:
            page = self._landing(request, self._drops.find(id_))
        except Exception as error:
            return self._refused(request, meaning(error))
        return show_once(page, fields=VARIES)

    async def create(self, request: Request) -> Response:
        try:
            drop = await self._drops.create(request)
        except ClientGone:
            raise
        except Exception as error:
            return self._refused(request, meaning(error))
        note = " to those who know the password" if drop.password is not None else ""
        link = f"{request.mount_url(self._public_url)}/drop/{drop.id}"
        content = self._pages.fill("created", name=drop.name, password_note=note, link=link, mount=mount(request))
        return show_once(self._pages.page(request, "Ready to share", content, script="landing.js"), status=201)

    async def fetch(self, request: Request, id_: str) -> Response:
        try:
            drop = self._drops.find(id_)
            try:
                return await self._drops.fetch(request, drop, await self._receive_password(request))
            except Unauthorized as error:
                # Raises Gone where another client has fetched the drop since it was found.
                page = self._landing(request, drop, str(error))
                return _marked(show_once(page, status=401, fields=_FORM_CHALLENGE), error)
        except ClientGone:
            raise
        except Exception as error:
            return self._refused(request, meaning(error))

    def _landing(self, request: Request, drop: Drop, error: str = "") -> bytes:
        field = Markup("")
        if drop.password is not None:
            invalid = Markup('aria-invalid="true" aria-describedby="fetch-error"' if error else "")
            field = self._pages.fill("landing_password", invalid=invalid)
        content = self._pages.fill(
            "landing",
            name=drop.name,
            size=readable_size(self._drops.size_of(drop)),
            action=f"{mount(request)}drop/{drop.id}",
            field=field,
            error=error,
            hides_error="" if error else "hidden",
        )
        data = {"name": drop.name}
        return self._pages.page(request, drop.name, content, script="landing.js", data=data, needs=READ)

    def _refused(self, request: Request, error: Error) -> Response:
        """The reason in words, with the status that programs get."""
        heading = _HEADINGS.get(error.status, REASONS[error.status])
        message = _SENTENCES.get(error.status, str(error) or heading)
        status = f"{error.status} {REASONS[error.status]}"
        content = self._pages.fill("notice", status=status, heading=heading, message=message)
        fields = VARIES + field_lines(*error.fields)
        data: dict[str, str | int] = {"retry": error.retry_after} if isinstance(error, TooManyGuesses) else {}
        page = self._pages.page(request, heading, content, script="landing.js", data=data)
        return _marked(show_once(page, status=error.status, fields=fields), error)

    async def _receive_password(self, request: Request) -> str | None:
        boundary = form_boundary(request.fields.get("content-type", ""))
        if boundary is None:
            return _password_of(await self._payloads.gather(request))
        collected = _PasswordPart()
        await forms.receive_form(request, boundary, collected.receive, limit=_MAX_FORM_SIZE)
        return decode_password(bytes(collected.value)) or None


class _PasswordPart:
    """Collects the part `password` of a multipart form."""

    def __init__(self) -> None:
        self.value = bytearray()
        self._is_open = False

    def receive(self, event: FormEvent) -> None:
        if isinstance(event, FormPart):
            self._is_open = event.name == "password"
        elif self._is_open:
            if len(self.value) + len(event) > _MAX_FORM_SIZE:
                raise BadRequest(f"The password has more than {_MAX_FORM_SIZE} bytes.")
            self.value += event


def _password_of(body: bytes) -> str | None:
    """The password of an urlencoded form, which is ASCII."""
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError as error:
        raise BadRequest("Invalid form: expected password=… in percent-encoded UTF-8.") from error
    return next((value for name, value in pairs if name == "password"), "") or None


def _marked(response: Response, error: Error) -> Response:
    """Mark a page as the response to an error, for the metrics and the connection."""
    response.kind = type(error).__name__
    response.closes = error.closes
    return response
