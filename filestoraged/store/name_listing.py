"""The names of a space in the order of their bytes, page by page, with folders where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from filestoraged.store.transactions import Transactions
from filestoraged.store.wall_clock import JUDGED_TIME

COLUMNS = "oid, size, type, fields, modified, expires"
UNEXPIRED = f"(expires IS NULL OR expires > {JUDGED_TIME})"

# Rows of the first query of a listing with folders; see `NameListing.page`.
_FIRST_ROWS = 16


class Name(NamedTuple):
    """What a name leads to. Times are seconds since 1970; `expires` is None for a name that does not expire."""

    name: str
    oid: str
    # In bytes.
    size: int
    # The media type of the upload, "" for none; and further header fields of a download, each a line with its end.
    type: str
    fields: str
    modified: int
    expires: int | None


class Page(NamedTuple):
    """A part of a listing. `next` is what the next one comes after, None at the end."""

    names: Sequence[Name]
    prefixes: Sequence[str]
    next: str | None


class NameListing:
    """The entries of a listing, which are names, and texts that end with a slash. One thread uses it."""

    def __init__(self, transactions: Transactions, space: str, prefix: str, *, by_folder: bool) -> None:
        self._transactions = transactions
        self._space = path_of(space, "")
        self._prefix = self._space + prefix.encode()
        self._by_folder = by_folder

    def pages(self, after: str, limit: int, size: int) -> Iterator[Page]:
        """At most `limit` entries that sort after `after`, in pages of `size` at most, each read when it is needed."""
        while True:
            page = self.page(after, min(limit, size))
            yield page
            limit -= len(page.names) + len(page.prefixes)
            if page.next is None or not limit:
                return
            after = page.next

    def page(self, after: str, limit: int) -> Page:
        """One entry more is read than the page has, to know whether another page follows."""
        names: list[Name] = []
        prefixes: list[str] = []
        last: bytes | None = None
        start = self._start(self._space + after.encode())
        # A folder may have any number of names, which need not be read: few rows are read until names prove to follow
        # each other, and behind a folder the next query begins.
        size = _FIRST_ROWS if self._by_folder else limit + 1
        while True:
            rows = self._rows(start, size)
            folder = None
            for path, *columns in rows:
                if folder is not None and path.startswith(folder):
                    continue
                folder = self._folder(path)
                if len(names) + len(prefixes) == limit:
                    return Page(names, prefixes, self._text(last or b""))
                last = folder or path
                if folder is None:
                    names.append(Name(self._text(path), *columns))
                else:
                    prefixes.append(self._text(folder))
            if len(rows) < size:
                return Page(names, prefixes, None)
            assert last is not None
            start = self._start(last)
            size = 2 if folder is not None else min(size * 2, limit + 1)

    def _start(self, after: bytes) -> bytes:
        """The path that the first entry after another one has at least."""
        folder = self._folder(after) if after.startswith(self._prefix) else None
        # No byte of UTF-8 is 0xFF.
        return folder + b"\xff" if folder is not None else max(after + b"\0", self._prefix)

    def _rows(self, start: bytes, size: int) -> list[Any]:
        statement = f"""SELECT path, {COLUMNS} FROM names WHERE path >= ? AND path < ? AND {UNEXPIRED}
            ORDER BY path LIMIT ?"""
        rows = self._transactions.read(statement, start, self._prefix + b"\xff", size)
        return [(bytes(path), *columns) for path, *columns in rows]

    def _folder(self, path: bytes) -> bytes | None:
        end = path.find(b"/", len(self._prefix)) if self._by_folder else -1
        return None if end < 0 else path[: end + 1]

    def _text(self, path: bytes) -> str:
        return path[len(self._space) :].decode()


def path_of(space: str, name: str) -> bytes:
    """What identifies a name: its space, a slash, and the name, in UTF-8."""
    return f"{space}/{name}".encode()
