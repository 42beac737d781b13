"""The names of two stores side by side. Both list in ascending order, so a page of each is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from filestoraged.errors import ListingUnsupported
from filestoraged.store.contract import Store

# Names in one page. S3 stores return 1,000 at most; a directory is listed once for each page.
_PAGE = 10_000

_List = Callable[[str, int], Sequence[str]]


class Listed(NamedTuple):
    """A name, and which sides have it. `at_target` is None where the target keeps no index of names."""

    name: str
    at_source: bool
    at_target: bool | None


def names(list_page: _List) -> Iterator[str]:
    """All names that a `list` or a `list_namespaces` returns, page by page. Raises ListingUnsupported."""
    page = list_page("", _PAGE)
    while page:
        yield from page
        page = list_page(page[-1], _PAGE)


def merged(source: Iterator[str], target: Iterator[str]) -> Iterator[Listed]:
    """Merge two sequences of names, each in ascending order."""
    first, second = next(source, None), next(target, None)
    while first is not None or second is not None:
        if second is None or (first is not None and first < second):
            assert first is not None
            yield Listed(first, True, False)
            first = next(source, None)
        elif first is None or second < first:
            yield Listed(second, False, True)
            second = next(target, None)
        else:
            yield Listed(first, True, True)
            first, second = next(source, None), next(target, None)


def can_list(store: Store) -> bool:
    """Whether the store keeps an index of names."""
    try:
        store.list("", 1)
    except ListingUnsupported:
        return False
    return True
