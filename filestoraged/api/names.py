"""The `names` interface: objects under names of the client's choice, which can be replaced, in spaces."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from filestoraged.api import listing, objects
from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.api.metrics import number_of
from filestoraged.api.name_pages import NamePages
from filestoraged.api.name_requests import by_folder, condition_of, media_type, parse_name, returned_fields, ttl_of
from filestoraged.api.objects import repository_name
from filestoraged.api.pages import Pages
from filestoraged.digest import Expected, parse_digest
from filestoraged.errors import CorruptObject, NotFound
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import SMALL, Blob, Staging, Store
from filestoraged.store.databases import Databases
from filestoraged.store.name_collection import SUCCESSION_TIME, Collector, NamesJanitor
from filestoraged.store.name_limits import FindRules, no_rules, require_unwritten
from filestoraged.store.name_listing import Name, Page
from filestoraged.store.name_tables import NAMES_SCHEMA, area_of
from filestoraged.store.names import Link, Names, PutResult, unconditional
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import JSON, NO_STORE, Fields, Response, encode_fields, field_lines
from filestoraged.web.router import DELETE, READ, WRITE, Route, Router
from filestoraged.web.streamed_content import streamed
from filestoraged.wire.dates import format_date, format_timestamp

# Hexadecimal digits.
_OID_LENGTH = 64

_NO_CACHE = field_lines(("Cache-Control", "no-cache"))

# Entries in one piece of a list: 1.2 MB at most, with the longest names and types.
_PIECE = 250

# Characters, of which the JSON may have six bytes each: 10,000 prefixes of 50.
_MAX_PREFIXES = 500_000

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
        return listing.areas(request, "spaces", self._names.list_spaces)

    def list_names(self, request: Request, segment: str) -> Response:
        space, _ = self._open(segment)
        limit = listing.limit_of(request)
        prefix, after = listing.parameter(request, "prefix") or "", listing.parameter(request, "after") or ""
        pages = self._names.listing(space, prefix, by_folder=by_folder(request)).pages(after, limit, _PIECE)
        first = next(pages)
        if first.next is None or limit <= _PIECE:
            return Response(200, JSON + NO_STORE, b"".join(_pieces([first])))
        return streamed(request, 200, JSON + NO_STORE, _pieces(itertools.chain([first], pages)))

    def download(self, request: Request, segment: str, name_segment: str) -> Response:
        space, store = self._open(segment)
        name, blob = self._find(space, store, parse_name(name_segment))
        self._names.note_use(space, name.name)
        try:
            accel = objects.accelerated(store, name.oid, self._accel)
            if accel or not objects.is_unconditional(request):
                fields, description = self._fields(name), _type_fields(name)
                found = objects.Representation(name.oid, name.modified, fields, description, accel, may_change=True)
                return objects.represent(request, blob, found)
            return self._whole(name, blob)
        except Exception:
            blob.close()
            raise

    async def upload(self, request: Request, segment: str, name_segment: str) -> Response:
        space, store = self._open(segment)
        name = parse_name(name_segment)
        link = Link("", 0, media_type(request), returned_fields(request), ttl_of(request))
        condition = condition_of(request)
        if condition is not unconditional:
            # Before the body is read. The binding judgement is that of the transaction.
            condition(self._current(space, name))
        announced = self._announced(request, space, store, name)
        with objects.begin_replacing(request, store, announced) as staging:
            room = self._room(request, space)
            async for piece in request.body:
                staging.write(piece)
                if room is not None and staging.size > room:
                    known = _known(announced, store)
                    room = self._names.require_room(space, staging.size, known, is_whole=False)
            oid = staging.finish()
            self._require_unwritten(space, name, oid)
            number = await self._names.secure(space, oid)
            change = (space, name, link._replace(oid=oid, size=staging.size))
            is_quick = staging.size <= SMALL and not store.remote and not self._names.is_remote
            put = await _commit(
                staging,
                functools.partial(self._names.put, *change, number=number, condition=condition),
                functools.partial(self._names.put_when, *change, number=number, condition=condition)
                if is_quick
                else None,
            )
        fields = f'{JSON}ETag: "{oid}"\r\n'
        return Response(201 if put.is_new else 200, fields, f"{_encoded(put.name)}\n".encode())

    async def remove(self, request: Request, segment: str, name_segment: str) -> Response:
        space, _ = self._open(segment)
        await self._names.remove(space, parse_name(name_segment), condition_of(request))
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
            self._names.require_room(space, request.size, _known(expected, store))
        return expected

    def _room(self, request: Request, space: str) -> int | None:
        """The bytes that an upload of unknown length may have before it is judged: its name may lead to as many now."""
        rules = self._names.find_rules(area_of(space))
        return None if rules is None or request.size is not None else rules.quota

    def _require_unwritten(self, space: str, name: str, oid: str) -> None:
        """Raise Conflict before bytes are stored that a name cannot lead to. The transaction judges again."""
        rules = self._names.find_rules(area_of(space))
        if rules is not None and rules.write_once:
            current = self._current(space, name)
            require_unwritten(name, None if current is None else current.oid, oid)

    def _find(self, space: str, store: Store, name: str) -> tuple[Name, Blob]:
        """Look up a name, and open what it leads to. Raises NotFound, and CorruptObject if bytes are missing."""
        found = self._names.get(space, name)
        while True:
            try:
                blob = store.open(found.oid)
                if blob.size != found.size:
                    blob.close()
                    raise CorruptObject(found.oid, f"it has {blob.size} bytes, not {found.size}")
                return found, blob
            except NotFound as error:
                # The name may have been changed since, and the object removed.
                missing, found = found, self._names.get(space, name)
                if found.oid == missing.oid:
                    raise CorruptObject(found.oid, "its bytes are missing") from error

    def _whole(self, name: Name, blob: Blob) -> Response:
        """The answer without conditions, which a small object keeps for the next request by the same name."""
        if blob.memo is not None and blob.memo[0] == name:
            kept: Response = blob.memo[1]
            return kept
        response = Response(200, self._fields(name) + _type_fields(name), content=blob, stop=blob.size)
        if blob.cache is not None:
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


def _known(announced: Sequence[Expected], store: Store) -> str | None:
    """The oid that an upload has, if that is known before its bytes."""
    return next((each.digest for each in announced if each.algorithm == store.algorithm), None)


async def _commit(
    staging: Staging,
    put: Callable[[], Future[PutResult]],
    put_when: Callable[[Future[Any]], Future[PutResult | None]] | None,
) -> PutResult:
    """Store the bytes, and let the name lead to them: at once with `put_when`, unless that takes too long."""
    stored = staging.commit()
    result = None if put_when is None else await put_when(stored)
    if result is not None:
        return result
    await stored
    return await put()


def _pieces(pages: Iterable[Page]) -> Generator[bytes, None, None]:
    """A list as JSON, made while it is sent: a client that reads slowly has one piece in memory, and the prefixes.

    So it ends early where these are long.
    """
    begin = '{"names": ['
    prefixes: list[str] = []
    length = 0
    following = None
    for page in pages:
        prefixes += page.prefixes
        length += sum(map(len, page.prefixes))
        following = page.next
        if page.names:
            yield (begin + ", ".join([_encoded(name, with_type=True) for name in page.names])).encode()
            begin = ", "
        if length > _MAX_PREFIXES:
            break
    end = f'], "prefixes": {json.dumps(prefixes)}, "next": {json.dumps(following)}}}\n'
    yield (end if begin == ", " else begin + end).encode()


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
    transactions = databases.open_transactions(layout.NAMES_DATABASE, NAMES_SCHEMA)
    return Names(transactions, databases.clock, find_rules=find_rules)


def _build(resources: Resources) -> Router:
    # An oid is a SHA-256 digest, whatever --hash says.
    store = resources.objects.namespace(layout.NAMES, algorithm="sha256")
    names = open_names(resources.databases, resources.find_rules)
    is_remote = store.remote or names.is_remote
    collector = Collector(names, store, succession_time=SUCCESSION_TIME if is_remote else 0.0, clock=resources.clock)
    # In SQLite a lock that dies with its process alone, which the collector relies on.
    lock = resources.databases.open_cleanup_lock(layout.NAMES_JANITOR_LOCK, timeout=float("inf"))
    janitor = NamesJanitor(names, collector, lock, resources.clock)
    janitor.start()
    resources.janitors.append(janitor)
    resources.test("Names", names.probe)
    help_ = "Objects that names lead to, in all spaces."
    resources.gauges["names"] = number_of("filestoraged_named_objects", help_, names.count)
    resources.closing.append((janitor.stop, names.close))
    return routes(store, names, accel=resources.delivery.accel, pages=resources.pages)


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    operation, answered = terms.operation, terms.answered
    name = {"name": terms.TEXT, "oid": terms.HEX, "size": terms.COUNT, "modified": terms.TEXT, "expires": terms.NEXT}
    stored = terms.json_content(terms.object_of(**name))
    entry = terms.object_of(**name, type=terms.TEXT)
    prefix = terms.query("prefix", "What the names begin with.")
    delimiter = terms.query("delimiter", "Makes names below the next slash one prefix.", {"const": "/"})
    ranges = [terms.ref("parameters", "Range"), terms.ref("parameters", "IfNoneMatch")]
    if_match = terms.header("If-Match", "What the name must lead to now.")
    ttl = terms.query("ttl", "Seconds after which it expires.", {"type": "integer", "minimum": 1})
    path = "/{space}/{name...}"
    summary = "List the spaces; where HTML is preferred, a page."
    spaces = operation(summary, terms.listed("spaces", terms.TEXT), parameters=terms.LIST)
    operations = {
        ("GET", ""): spaces,
        ("GET", "/"): spaces,
        ("GET", "/{space}"): operation(
            "List the names of a space; where HTML is preferred, a page.",
            terms.listed("names", entry),
            parameters=[*terms.LIST, prefix, delimiter],
        ),
        ("GET", path): operation("Download what a name leads to.", terms.DOWNLOADED, parameters=ranges),
        ("HEAD", path): operation("What a name leads to, without the bytes.", answered("200", "It exists.")),
        ("PUT", path): operation(
            "Let a name lead to the bytes of the body.",
            {**answered("200", "The name existed.", stored), **answered("201", "The name is new.", stored)},
            parameters=[*terms.UPLOAD, if_match, ttl],
            body=terms.RAW,
        ),
        ("DELETE", path): operation("Remove a name.", answered("204", "Removed."), parameters=[if_match]),
    }
    return Description(operations)


NAMES = Interface(
    "names",
    _build,
    _describe,
    layout.NAMES,
    Data(layout.NAMES_DATABASE, NAMES_SCHEMA, "names"),
)
