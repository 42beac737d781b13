"""Pages of the `names` interface: the spaces, and the folders and names of one. They change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote, urlencode

from filestoraged.api import listing
from filestoraged.api.objects import repository_name
from filestoraged.api.pages import VARIES, Markup, Pages, mount, readable_size, show_once, wants_page
from filestoraged.store.names import Names
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import Response
from filestoraged.web.router import READ, PageVariant, Route, Router
from filestoraged.wire.dates import format_timestamp

# Of a page. They take 0.6 s and 4 MiB with the longest names.
_MAX_ROWS = 1000


def _rows_of(request: Request) -> int:
    return min(listing.limit_of(request), _MAX_ROWS)


class _Listed(NamedTuple):
    """`above` is the URL of what is one level up, "" for nothing.

    `more` is the query of the next page, if it has `after`.
    """

    heading: str
    lead: str
    rows: Iterable[Markup]
    above: str
    more: Mapping[str, str | None]


class NamePages:
    def __init__(self, pages: Pages, names: Names) -> None:
        self._pages = pages
        self._names = names

    def variant(self, runs_on: RunsOn) -> PageVariant:
        routes = [
            Route("GET", "", self.show_spaces, READ, runs_on),
            Route("GET", "/", self.show_spaces, READ, runs_on),
            Route("GET", "/{space}", self.show_names, READ, runs_on),
        ]
        return PageVariant(Router("names", routes, has_areas=True), wants_page)

    def show_spaces(self, request: Request) -> Response:
        limit, after = _rows_of(request), listing.after_repository(request)
        spaces = self._names.list_spaces(after, limit + 1)
        rows = [self._row(space, f"{mount(request)}{space}?delimiter=/") for space in spaces[:limit]]
        more = {"after": listing.next_of(spaces, limit), "limit": listing.parameter(request, "limit")}
        listed = _Listed("Spaces", f"Names are kept apart by space: {len(rows)} here.", rows, "", more)
        return self._page(request, listed)

    def show_names(self, request: Request, segment: str) -> Response:
        space = repository_name(segment)
        limit, prefix = _rows_of(request), listing.parameter(request, "prefix") or ""
        after = listing.parameter(request, "after") or ""
        # A folder is what a person looks for; programs list all names unless they ask for folders.
        page = self._names.listing(space, prefix, by_folder=True).page(after, limit)
        here = f"{mount(request)}{space}"
        rows = [
            self._row(folder[prefix.rfind("/") + 1 :], f"{here}?{urlencode({'prefix': folder, 'delimiter': '/'})}")
            for folder in page.prefixes
        ]
        rows += [
            self._row(
                name.name[prefix.rfind("/") + 1 :],
                f"{here}/{quote(name.name)}",
                readable_size(name.size),
                f"{format_timestamp(name.modified)[:16].replace('T', ' ')} UTC",
            )
            for name in page.names
        ]
        above = self._above(prefix, here, mount(request))
        lead = f"{len(page.prefixes)} folders and {len(page.names)} names" + (" on this page." if page.next else ".")
        more = {"after": page.next, "prefix": prefix or None, "limit": listing.parameter(request, "limit")}
        return self._page(request, _Listed(f"{space}/{prefix}", lead, rows, above, more))

    def _above(self, prefix: str, here: str, spaces: str) -> str:
        """The URL of the folder that has this one; that of the spaces where it is none."""
        if not prefix:
            return spaces
        parent = prefix.rstrip("/").rpartition("/")[0]
        query = {"prefix": f"{parent}/"} if parent else {}
        return f"{here}?{urlencode({**query, 'delimiter': '/'})}"

    def _row(self, name: str, url: str, size: str = "", modified: str = "") -> Markup:
        return self._pages.fill("entry", name=name, url=url, size=size, modified=modified)

    def _page(self, request: Request, listed: _Listed) -> Response:
        query = {name: value for name, value in listed.more.items() if value is not None}
        content = self._pages.fill(
            "entries",
            heading=listed.heading,
            lead=listed.lead,
            rows=Markup("".join(listed.rows)),
            above=listed.above,
            hides_above="" if listed.above else "hidden",
            more=f"?{urlencode(query)}",
            hides_more="" if "after" in query else "hidden",
        )
        return show_once(self._pages.page(request, listed.heading, content, script="common.js"), fields=VARIES)
