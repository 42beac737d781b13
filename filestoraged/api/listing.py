"""Lists the objects of a repository and the names of repositories, a page at a time; and what all listings share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from filestoraged.digest import parse_digest
from filestoraged.errors import BadRequest, CorruptObject, NotFound, quoted
from filestoraged.store import layout
from filestoraged.store.contract import ObjectStatus, Store
from filestoraged.web.request import Request
from filestoraged.web.response import JSON, NO_STORE, Response, json_response
from filestoraged.wire.dates import format_timestamp

# Objects or repositories of a page, by default and at most.
_DEFAULT_LIMIT = 1000
_MAX_LIMIT = 10_000

_LIMIT = re.compile(r"[0-9]{1,5}")
_OID = re.compile(r"[0-9a-f]{64}")


def objects(request: Request, store: Store) -> Response:
    """Answer with a page of the objects of a repository, in the order of their oids."""
    limit, after = limit_of(request), _after_oid(request)
    # One more than the page has, to know whether another page follows.
    names = store.list(after, limit + 1)
    page = ", ".join(map(_encoded, _statuses(store, names[:limit])))
    body = f'{{"objects": [{page}], "next": {json.dumps(next_of(names, limit))}}}\n'
    return Response(200, JSON + NO_STORE, body.encode())


def areas(request: Request, member: str, list_names: Callable[[str, int], Sequence[str]]) -> Response:
    """Answer with a page of the names of repositories or spaces, in the order of their bytes, as a `member`."""
    limit, after = limit_of(request), after_repository(request)
    names = list_names(after, limit + 1)
    return json_response(200, {member: names[:limit], "next": next_of(names, limit)}, NO_STORE)


def _statuses(store: Store, names: Sequence[str]) -> list[ObjectStatus]:
    """Look up the objects, without those that were removed since they were listed."""
    found = []
    for name in names:
        # Not by `contextlib.suppress`, which takes a tenth of the time of a page.
        try:
            found.append(store.stat(name))
        except (NotFound, CorruptObject):
            continue
    return found


def _encoded(status: ObjectStatus) -> str:
    """An object as JSON. No value needs escaping."""
    modified = format_timestamp(status.modified)
    return f'{{"oid": "{status.name}", "size": {status.size}, "modified": "{modified}"}}'


def next_of(names: Sequence[str], limit: int) -> str | None:
    """Return the last name of a page if another page follows. The object may have been removed meanwhile."""
    return names[limit - 1] if len(names) > limit else None


def limit_of(request: Request) -> int:
    """The number of entries of a page that a request wants. Raises BadRequest."""
    text = parameter(request, "limit")
    if text is None:
        return _DEFAULT_LIMIT
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= _MAX_LIMIT:
        raise BadRequest(f"Invalid limit {quoted(text)}: expected 1 to {_MAX_LIMIT}.")
    return int(text)


def _after_oid(request: Request) -> str:
    text = parameter(request, "after")
    if text is None:
        return ""
    digest = parse_digest(text)
    if digest is None or not _OID.fullmatch(digest):
        raise BadRequest(f"Invalid after {quoted(text)}: expected an oid, which has 64 hexadecimal digits.")
    return digest


def after_repository(request: Request) -> str:
    """The name that a page of repositories or spaces comes after. Raises BadRequest."""
    text = parameter(request, "after")
    if text is None:
        return ""
    if not layout.is_repository(text):
        raise BadRequest(f"Invalid after {quoted(text)}: expected the name of a repository or space.")
    return text


def parameter(request: Request, name: str) -> str | None:
    """The only value of a parameter of the query. Raises BadRequest."""
    values = request.parameters(name)
    if len(values) > 1:
        raise BadRequest(f"The query has {len(values)} values of {name}: expected one at most.")
    return values[0] if values else None
