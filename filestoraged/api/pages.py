"""Pages for people: templates and assets of the directory `pages`, in memory, and the header fields that pages have.

What is on a page is the matter of the interface that shows it. Values are inserted as text; only templates are markup.
Links are relative to the path of the request, so that they also lead somewhere below a prefix that a proxy removes.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
from collections.abc import Mapping

from filestoraged.errors import Error, NotFound
from filestoraged.resources import read_resource
from filestoraged.web.auth import Tokens
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Fields, Response, field_lines
from filestoraged.web.router import PUBLIC, Route, Router
from filestoraged.wire.accept import prefers_html
from filestoraged.wire.conditions import matches_if_none_match

# The path of the assets.
PREFIX = "/-/pages/"

# The directory of the package, and its files. Named here, since the loader of a zip file cannot list a directory.
_DIRECTORY = "pages"
FILES = (
    "common.js",
    "created.html",
    "entries.html",
    "entry.html",
    "hashing.html",
    "history.js",
    "icon.svg",
    "landing.html",
    "landing.js",
    "landing_password.html",
    "notice.html",
    "page.html",
    "password.html",
    "resumable.js",
    "sha256.js",
    "style.css",
    "token.html",
    "token_without_scripts.html",
    "transfer.js",
    "upload.html",
    "upload.js",
)

# A page loads from its own origin alone, is in no frame, and its forms lead nowhere else. So a name of a file that was
# inserted as markup by a mistake of ours could run nothing.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_SAFETY = field_lines(
    ("Content-Security-Policy", _POLICY), ("Referrer-Policy", "same-origin"), ("X-Content-Type-Options", "nosniff")
)
_PAGE = field_lines(("Content-Type", "text/html; charset=utf-8")) + _SAFETY

_NOT_CACHED: Fields = "Cache-Control: no-store\r\n"
# To be asked for again each time, which costs a 304.
_REVALIDATED: Fields = "Cache-Control: no-cache\r\n"
# The version in the query changes with the bytes.
_KEPT: Fields = "Cache-Control: public, max-age=31536000, immutable\r\n"

# At a path where programs get something else. Pages and programs' answers must not be mistaken by caches.
VARIES: Fields = "Vary: Accept\r\n"

_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")

_UNITS = ("KiB", "MiB", "GiB", "TiB")


class Markup(str):
    """A text that is inserted as it is."""


class Pages:
    """The templates, and what all pages have. Made before the fork; any thread calls it."""

    def __init__(self, *, authorizer: Tokens | None = None, public_url: str | None = None, chunk_size: int = 0) -> None:
        """`chunk_size` is what they send in one request at most, in bytes; 0 for any size.

        Raises OSError where they are not installed.
        """
        self.chunk_size = chunk_size
        self._authorizer = authorizer
        self._public_url = public_url
        self._templates: dict[str, str] = {}
        self._assets: dict[str, _Asset] = {}
        versions = hashlib.sha256()
        for name in FILES:
            data = read_resource(f"{_DIRECTORY}/{name}")
            stem, suffix = os.path.splitext(name)
            if suffix == ".html":
                self._templates[stem] = data.decode()
            else:
                self._assets[name] = _Asset(data, _TYPES[suffix])
                versions.update(data)
        self._version = versions.hexdigest()[:8]

    def routes(self) -> Router:
        """The assets, below PREFIX."""
        return Router("operations", [Route("GET", "/{name}", self._asset, PUBLIC, RunsOn.INLINE)], public=True)

    def fill(self, template: str, /, **values: str | int) -> Markup:
        """Fill a template in. Values are text, unless they are Markup."""

        def insert(found: re.Match[str]) -> str:
            value = values[found.group(1)]
            return value if isinstance(value, Markup) else html.escape(str(value))

        return Markup(_PLACEHOLDER.sub(insert, self._templates[template]))

    def page(
        self,
        request: Request,
        title: str,
        content: Markup,
        *,
        script: str,
        data: Mapping[str, str | int] | None = None,
        needs: str = "",
    ) -> bytes:
        """A whole page. `data` are attributes for its script. `needs` is the action for which it may need a token."""
        needs_token = bool(needs) and self._needs_token(request, needs)
        text = self.fill(
            "page",
            title=title,
            content=content,
            script=script,
            data=_attributes(data or {}),
            root=_root(request),
            mount=mount(request),
            token=self.fill("token") if needs_token else Markup(""),
            without_scripts=self.fill("token_without_scripts") if needs_token else Markup(""),
            needs_token="yes" if needs_token else "",
            version=self._version,
        )
        return text.encode()

    def link_start(self, request: Request) -> str:
        """What links begin with where --public-url says so, without a slash at the end; else empty."""
        return self._public_url + request.mount if self._public_url else ""

    def _needs_token(self, request: Request, action: str) -> bool:
        """Whether a request for `action` at the same interface needs a token that this one does not have."""
        if self._authorizer is None:
            return False
        try:
            self._authorizer.require(request, action)
        except Error:
            return True
        return False

    def _asset(self, request: Request, name: str) -> Response:
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound("There is nothing at this path.")
        caching = _KEPT if request.query == self._version else _REVALIDATED
        return _unless_current(request, asset.fields + caching, asset.data, asset.tag)


class _Asset:
    def __init__(self, data: bytes, type_: str) -> None:
        self.data = data
        self.tag = _tag(data)
        self.fields = field_lines(("Content-Type", type_)) + _SAFETY


def show(request: Request, page: bytes) -> Response:
    """Answer with a page that is the same for all who ask. A client that has it gets 304."""
    return _unless_current(request, _PAGE + _REVALIDATED + VARIES, page, _tag(page))


def show_once(page: bytes, *, status: int = 200, fields: Fields = "") -> Response:
    """Answer with a page that no cache may keep."""
    return Response(status, _PAGE + _NOT_CACHED + fields, page)


def wants_page(request: Request) -> bool:
    """Whether a request is one of a person where programs get something else."""
    return prefers_html(request.fields.get("accept"))


def mount(request: Request) -> str:
    """The relative URL of the interface that a request asks, with a slash at its end."""
    return _at(request, request.mount)


def mount_of(request: Request, interface: str) -> str:
    """The same of another interface; empty where the listener does not serve it."""
    prefix = request.mounts.get(interface)
    return "" if prefix is None else _at(request, prefix)


def readable_size(size: int) -> str:
    """A number of bytes in the largest unit of which there is one: `1.5 MiB`."""
    if size < 1024:
        return f"{size} bytes" if size != 1 else "1 byte"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    return f"{size / 1024**power:.1f}".removesuffix(".0") + f" {_UNITS[power - 1]}"


def size_hint(limit: int | None) -> str:
    """What a page says of the largest file, in bytes; None for no limit."""
    return "of any size" if limit is None else f"up to {readable_size(limit)} each"


def _at(request: Request, prefix: str) -> str:
    return f"{_root(request)}{prefix[1:]}/" if prefix else _root(request)


def _root(request: Request) -> str:
    """The relative URL of the root of the daemon: a proxy may have it below a prefix."""
    return "../" * (request.path.count("/") - 1) or "./"


def _attributes(data: Mapping[str, str | int]) -> Markup:
    return Markup(" ".join(f'data-{name}="{html.escape(str(value))}"' for name, value in data.items()))


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _unless_current(request: Request, fields: Fields, data: bytes, tag: str) -> Response:
    fields += f'ETag: "{tag}"\r\n'
    if matches_if_none_match(request.fields, tag):
        return Response(304, fields)
    return Response(200, fields, data)
