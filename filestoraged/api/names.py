"""The `names` interface: objects under names of the client's choice, which can be replaced, in spaces."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from filestoraged.api import listing, objects
from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.api.metrics import Gauge
from filestoraged.api.name_pages import NamePages
from filestoraged.api.objects import repository_name
from filestoraged.api.pages import Pages
from filestoraged.digest import Expected, parse_digest
from filestoraged.errors import BadRequest, CorruptObject, NotFound, PreconditionFailed, quoted
from filestoraged.store import layout
from filestoraged.store.cleanup_lock import CleanupLock, FileLock
from filestoraged.store.contract import SMALL, Blob, Store
from filestoraged.store.databases import Databases, SqliteDatabases
from filestoraged.store.name_collection import SUCCESSION_TIME, Collector, NamesJanitor
from filestoraged.store.name_limits import FindRules, no_rules, require_unwritten
from filestoraged.store.name_tables import area_of, prepare_names
from filestoraged.store.names import Condition, Link, Name, Names, unconditional
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import JSON, NO_STORE, Fields, Response, encode_fields, field_lines
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router
from filestoraged.wire import conditions
from filestoraged.wire.dates import format_date, format_timestamp
from filestoraged.wire.exposition import Family

if TYPE_CHECKING:
    from filestoraged.store.postgresql.databases import PostgresDatabases

# In bytes of UTF-8. A path of S3 and an index of PostgreSQL have room for more.
_MAX_NAME = 1024

# Hexadecimal digits.
_OID_LENGTH = 64

# Of unreserved characters, and others that mean themselves in a path: most names need no decoding.
_PLAIN_NAME = re.compile(r"(?:(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+(?:/|$)(?<!/$))+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# Seconds, a hundred years.
_MAX_TTL = 3_153_600_000
_TTL = re.compile(r"[0-9]{1,10}")

# Characters of a media type, and of a field of an upload that comes back. They are in memory for a whole page.
_MAX_TYPE = 255
_MAX_FIELD = 600

# Fields of Turborepo: a signature of the bytes, and how long the task took.
_RETURNED_FIELDS = ("x-artifact-tag", "x-artifact-duration")

# Fields that make a change depend on what the name leads to.
_CONDITIONS = frozenset(("if-match", "if-none-match", "if-unmodified-since"))

_NO_CACHE = field_lines(("Cache-Control", "no-cache"))

# Stores of spaces that are kept: making one takes as long as a lookup.
_MAX_SPACES = 1000


def routes(store: Store, names: Names, *, accel: str | None = None, pages: Pages | None = None) -> Router:
    """`store` has a namespace for each space, and names objects by their SHA-256. Without `pages`, there are none."""
    requests = _Requests(store, names, accel)
    waits = RunsOn.REMOTE if store.remote or names.is_remote else RunsOn.INLINE
    lists = RunsOn.THREAD if waits is RunsOn.INLINE else waits
    inline_body = SMALL if waits is RunsOn.INLINE else 0
    return Router(
        "names",
        [
            Route("GET", "", requests.list_spaces, READ, lists),
            Route("GET", "/", requests.list_spaces, READ, lists),
            Route("GET", "/{space}", requests.list_names, READ, lists),
            Route("GET", "/{space}/{name...}", requests.download, READ, waits),
            Route("HEAD", "/{space}/{name...}", requests.download, READ, waits),
            Route("PUT", "/{space}/{name...}", requests.upload, WRITE, waits, inline_body=inline_body),
            Route("DELETE", "/{space}/{name...}", requests.remove, DELETE, waits),
        ],
        has_areas=True,
        variant=None if pages is None else NamePages(pages, names).variant(lists),
    )


class _Requests:
    def __init__(self, store: Store, names: Names, accel: str | None) -> None:
        self._store = store
        self._names = names
        self._accel = accel
        fixed = _NO_CACHE + objects.NO_PAGE
        # Without Accept-Ranges where a proxy sends the bytes: see `objects.Delivery`.
        self._fixed = fixed if accel else field_lines(("Accept-Ranges", "bytes")) + fixed
        self._open = functools.lru_cache(_MAX_SPACES)(self._open_space)

    def list_spaces(self, request: Request) -> Response:
        limit, after = listing.limit_of(request), listing.after_repository(request)
        spaces = self._names.list_spaces(after, limit + 1)
        body = {"spaces": spaces[:limit], "next": listing.next_of(spaces, limit)}
        return Response(200, JSON + NO_STORE, json.dumps(body).encode() + b"\n")

    def list_names(self, request: Request, segment: str) -> Response:
        space, _ = self._open(segment)
        limit = listing.limit_of(request)
        prefix, after = listing.parameter(request, "prefix") or "", listing.parameter(request, "after") or ""
        page = self._names.list(space, prefix=prefix, by_folder=_by_folder(request), after=after, limit=limit)
        entries = ", ".join([_encoded(name, with_type=True) for name in page.names])
        rest = f'"prefixes": {json.dumps(page.prefixes)}, "next": {json.dumps(page.next)}'
        return Response(200, JSON + NO_STORE, f'{{"names": [{entries}], {rest}}}\n'.encode())

    def download(self, request: Request, segment: str, name_segment: str) -> Response:
        space, store = self._open(segment)
        name, blob = self._find(space, store, parse_name(name_segment))
        self._names.note_use(space, name.name)
        try:
            accel = objects.accelerated(store, name.oid, self._accel)
            if accel or not objects.is_unconditional(request):
                found = objects.Representation(name.oid, name.modified, self._fields(name), _type_fields(name), accel)
                return objects.represent(request, blob, found)
            return self._whole(name, blob)
        except Exception:
            blob.close()
            raise

    async def upload(self, request: Request, segment: str, name_segment: str) -> Response:
        space, store = self._open(segment)
        name = parse_name(name_segment)
        link = Link("", 0, _media_type(request), _returned_fields(request), _ttl(request))
        condition = _condition(request)
        if condition is not unconditional:
            # Before the body is read. The binding judgement is that of the transaction.
            condition(self._current(space, name))
        announced = self._announced(request, space, store, name)
        with objects.begin_replacing(request, store, announced) as staging:
            async for piece in request.body:
                staging.write(piece)
            oid = staging.finish()
            self._require_unwritten(space, name, oid)
            number = await self._names.secure(space, oid)
            stored = staging.commit()
            if staging.size > SMALL or store.remote or self._names.is_remote:
                await stored
            link = link._replace(oid=oid, size=staging.size)
            putting = self._names.put(space, name, link, number=number, condition=condition, stored=stored)
            put = await putting
        fields = f'{JSON}ETag: "{oid}"\r\n'
        return Response(201 if put.is_new else 200, fields, f"{_encoded(put.name)}\n".encode())

    async def remove(self, request: Request, segment: str, name_segment: str) -> Response:
        space, _ = self._open(segment)
        await self._names.remove(space, parse_name(name_segment), _condition(request))
        return Response(204)

    def _announced(self, request: Request, space: str, store: Store, name: str) -> Sequence[Expected]:
        """The digests that the body must have. Raises QuotaExceeded where its length exceeds the quota already."""
        expected = list(objects.announced(request, store))
        rules = self._names.find_rules(area_of(space))
        if rules is None:
            return expected
        last = parse_digest(name.rpartition("/")[2])
        if rules.digest_names is not None and name.startswith(rules.digest_names) and last and len(last) == _OID_LENGTH:
            expected.append(Expected(store.algorithm, last))
        if request.size is not None:
            known = [each.digest for each in expected if each.algorithm == store.algorithm]
            self._names.require_room(space, request.size, known[0] if known else None)
        return expected

    def _require_unwritten(self, space: str, name: str, oid: str) -> None:
        """Raise Conflict before bytes are stored that a name cannot lead to. The transaction judges again."""
        rules = self._names.find_rules(area_of(space))
        if rules is not None and rules.write_once:
            current = self._current(space, name)
            require_unwritten(name, None if current is None else current.oid, oid)

    def _find(self, space: str, store: Store, name: str) -> tuple[Name, Blob]:
        """Look up a name, and open what it leads to. Raises NotFound, and CorruptObject if the bytes are missing."""
        found = self._names.get(space, name)
        while True:
            try:
                return found, store.open(found.oid)
            except NotFound as error:
                # The name may have been changed since, and the object removed.
                missing, found = found, self._names.get(space, name)
                if found.oid == missing.oid:
                    raise CorruptObject(found.oid, "its bytes are missing") from error

    def _whole(self, name: Name, blob: Blob) -> Response:
        """The answer without conditions, which a small object keeps for the next request by the same name."""
        if blob.is_shared and blob.memo is not None and blob.memo[0] == name:
            kept: Response = blob.memo[1]
            return kept
        response = Response(200, self._fields(name) + _type_fields(name), content=blob, stop=blob.size)
        if blob.is_shared:
            encode_fields(response)
            blob.memo = name, response
        return response

    def _fields(self, name: Name) -> Fields:
        return f'ETag: "{name.oid}"\r\nLast-Modified: {format_date(name.modified)}\r\n{self._fixed}{name.fields}'

    def _current(self, space: str, name: str) -> Name | None:
        try:
            return self._names.get(space, name)
        except NotFound:
            return None

    def _open_space(self, segment: str) -> tuple[str, Store]:
        space = repository_name(segment)
        return space, self._store.namespace(space)


def parse_name(segments: str) -> str:
    """Return the name that the rest of a path stands for. Raises BadRequest for an invalid one."""
    if len(segments) <= _MAX_NAME and _PLAIN_NAME.fullmatch(segments):
        return segments
    try:
        name = unquote_to_bytes(segments).decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"Invalid name {quoted(segments)}: expected UTF-8.") from error
    if len(name.encode()) > _MAX_NAME:
        raise BadRequest(f"Invalid name {quoted(name)}: it has more than {_MAX_NAME} bytes.")
    if _CONTROLS.search(name):
        raise BadRequest(f"Invalid name {quoted(name)}: control characters are not allowed.")
    for segment in name.split("/"):
        if segment in ("", ".", ".."):
            raise BadRequest(f"Invalid name {quoted(name)}: expected segments that are neither empty nor . nor ..")
    return name


def _media_type(request: Request) -> str:
    type_ = request.fields.get("content-type", "")
    if len(type_) > _MAX_TYPE:
        raise BadRequest(f"Invalid Content-Type {quoted(type_)}: expected {_MAX_TYPE} characters at most.")
    return type_


def _returned_fields(request: Request) -> Fields:
    fields = ""
    for name in _RETURNED_FIELDS:
        value = request.fields.get(name)
        if value is not None:
            if len(value) > _MAX_FIELD:
                raise BadRequest(f"Invalid {name} {quoted(value)}: expected {_MAX_FIELD} characters at most.")
            fields += f"{name}: {value}\r\n"
    return fields


def _ttl(request: Request) -> int | None:
    text = listing.parameter(request, "ttl")
    if text is None:
        return None
    if not _TTL.fullmatch(text) or not 1 <= int(text) <= _MAX_TTL:
        raise BadRequest(f"Invalid ttl {quoted(text)}: expected 1 to {_MAX_TTL} seconds.")
    return int(text)


def _by_folder(request: Request) -> bool:
    delimiter = listing.parameter(request, "delimiter")
    if delimiter not in (None, "/"):
        raise BadRequest(f"Invalid delimiter {quoted(delimiter)}: expected /.")
    return delimiter is not None


def _condition(request: Request) -> Condition:
    if _CONDITIONS.isdisjoint(request.fields):
        return unconditional
    return functools.partial(_require, request.fields)


def _require(fields: Mapping[str, str], current: Name | None) -> None:
    """Raise PreconditionFailed where a name that leads to `current` must not be changed."""
    if current is None:
        if "if-match" in fields:
            raise PreconditionFailed("If-Match requires a name that exists.")
        return
    conditions.check_preconditions(fields, current.oid, current.modified)
    if conditions.matches_if_none_match(fields, current.oid):
        raise PreconditionFailed(f'If-None-Match names the object that the name leads to: "{current.oid}".')


def _type_fields(name: Name) -> Fields:
    return f"Content-Type: {name.type or objects.OCTETS}\r\n"


def _encoded(name: Name, *, with_type: bool = False) -> str:
    """A name as JSON. Oids, numbers and times need no escaping."""
    expires = "null" if name.expires is None else f'"{format_timestamp(name.expires)}"'
    type_ = f', "type": {json.dumps(name.type or objects.OCTETS)}' if with_type else ""
    return (
        f'{{"name": {json.dumps(name.name)}, "oid": "{name.oid}", "size": {name.size},'
        f' "modified": "{format_timestamp(name.modified)}", "expires": {expires}{type_}}}'
    )


def open_names(databases: Databases, find_rules: FindRules = no_rules) -> Names:
    def local(files: SqliteDatabases) -> Names:
        identity = files.identity(layout.NAMES_DATABASE)
        return Names.open(identity.path, identity, clock=files.clock, find_rules=find_rules)

    def remote(database: PostgresDatabases) -> Names:
        return Names(database.share(), database.clock, find_rules=find_rules)

    return databases.open(local, remote)


def open_cleanup_lock(databases: Databases) -> CleanupLock:
    """In SQLite a lock that dies with its process alone, which `Collector` relies on."""

    def local(files: SqliteDatabases) -> CleanupLock:
        return FileLock(files.path(layout.NAMES_JANITOR_LOCK), files.root, timeout=float("inf"))

    return databases.open(local, lambda database: database.open_cleanup_lock())


def _build(resources: Resources) -> Router:
    # An oid is a SHA-256 digest, whatever --hash says.
    store = resources.objects.namespace(layout.NAMES, algorithm="sha256")
    names = open_names(resources.databases, resources.find_rules)
    is_remote = store.remote or names.is_remote
    collector = Collector(names, store, succession_time=SUCCESSION_TIME if is_remote else 0.0, clock=resources.clock)
    janitor = NamesJanitor(names, collector, open_cleanup_lock(resources.databases), resources.clock)
    janitor.start()
    resources.janitors.append(janitor)
    resources.test("Names", names.probe)
    resources.gauges["names"] = _gauge(names)
    resources.closing.append((janitor.stop, names.close))
    return routes(store, names, accel=resources.accel, pages=resources.pages)


def _gauge(names: Names) -> Gauge:
    def collect() -> Iterator[Family]:
        text = "Objects that names lead to, in all spaces."
        yield Family("filestoraged_named_objects", "gauge", text, [({}, names.count())])

    return collect


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    name = {"name": terms.TEXT, "oid": terms.HEX, "size": terms.COUNT, "modified": terms.TEXT, "expires": terms.NEXT}
    stored = terms.json_content(terms.object_of(**name))
    downloaded = {"parameters": [terms.ref("parameters", "Range"), terms.ref("parameters", "IfNoneMatch")]}
    if_match = terms.header("If-Match", "What the name must lead to now.")
    path = "/{space}/{name...}"
    spaces = {
        "summary": "List the spaces; where HTML is preferred, a page.",
        "parameters": terms.LIST,
        "responses": terms.listed("spaces", terms.TEXT),
    }
    return Description(
        {
            ("GET", ""): spaces,
            ("GET", "/"): spaces,
            ("GET", "/{space}"): {
                "summary": "List the names of a space; where HTML is preferred, a page.",
                "parameters": [
                    *terms.LIST,
                    terms.query("prefix", "What the names begin with."),
                    terms.query("delimiter", "Makes names below the next slash one prefix.", {"const": "/"}),
                ],
                "responses": terms.listed("names", terms.object_of(**name, type=terms.TEXT)),
            },
            ("GET", path): {"summary": "Download what a name leads to.", **downloaded, "responses": terms.DOWNLOADED},
            ("HEAD", path): {
                "summary": "What a name leads to, without the bytes.",
                "responses": {"200": terms.answer("It exists.")},
            },
            ("PUT", path): {
                "summary": "Let a name lead to the bytes of the body.",
                "parameters": [
                    *terms.UPLOAD,
                    if_match,
                    terms.query("ttl", "Seconds after which it expires.", {"type": "integer", "minimum": 1}),
                ],
                "requestBody": terms.RAW,
                "responses": {
                    "200": terms.answer("The name existed.", stored),
                    "201": terms.answer("The name is new.", stored),
                },
            },
            ("DELETE", path): {
                "summary": "Remove a name.",
                "parameters": [if_match],
                "responses": {"204": terms.answer("Removed.")},
            },
        }
    )


NAMES = Interface(
    "names",
    _build,
    _describe,
    layout.NAMES,
    Data(layout.NAMES_DATABASE, prepare_names, "names"),
)
