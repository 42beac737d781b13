"""The namespaces of a service that have objects: those of files, of each repository, and of drops.

A pair is one of them at the source and at the target. Both list names in ascending order, so a page of each is in
memory at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from filestoraged.command_errors import CheckError
from filestoraged.digest import ALGORITHMS, digest_length
from filestoraged.errors import ListingUnsupported
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.rows import RowStore

# Names in one page. S3 stores return 1,000 at most; a directory is listed once for each page.
_PAGE = 10_000

_List = Callable[[str, int], Sequence[str]]


class Listed(NamedTuple):
    """A name, and which sides have it. `at_target` is None where the target keeps no index of names."""

    name: str
    at_source: bool
    at_target: bool | None


class Service(NamedTuple):
    """What one daemon keeps."""

    # The objects of files; repositories are namespaces below it.
    objects: Store
    # The bytes of drops.
    drops: Store
    rows: RowStore
    # The one that names most objects of files.
    algorithm: str


class NamespacePair(NamedTuple):
    """`path` begins the paths of its objects in reports; "" for files."""

    path: str
    source: Store
    target: Store
    # The names of the objects to be copied, in ascending order.
    names: Callable[[], Iterator[str]]
    # Whether a name is the digest of the bytes. That of a drop is a random number.
    is_named_by_digest: bool = True
    # The algorithms to try, the most probable one first.
    algorithms: Sequence[str] = ()

    def algorithms_of(self, name: str) -> Sequence[str]:
        """The algorithms that may have made the name: those with digests of its length."""
        return [each for each in self.algorithms if digest_length(each) == len(name)]

    def compared(self) -> Iterator[Listed]:
        """The names at both sides, in their order. Raises ListingUnsupported if the source keeps no index."""
        if can_list(self.target):
            return merged(self.names(), names(self.target.list))
        return (Listed(name, True, None) for name in self.names())

    def object_path(self, name: str) -> str:
        """As the check names an object: its path within a store's directory."""
        return f"{self.path}{layout.object_path(name, self.path.rstrip('/'))}"


def object_pairs(source: Service, target: Service) -> Iterator[NamespacePair]:
    """Files, each repository, each space of names, and repositories of restic.

    Raises ListingUnsupported if the source keeps no index, and CheckError for what the target cannot keep.
    """
    algorithms = (source.algorithm, *(each for each in ALGORITHMS if each != source.algorithm))
    yield _pair("", source.objects, target.objects, algorithms)
    # An oid is a SHA-256 digest, whatever names the objects of files.
    for directory in (layout.REPOSITORIES, layout.NAMES):
        ours, theirs = (side.objects.namespace(directory, algorithm="sha256") for side in (source, target))
        for name in _repositories(ours, theirs):
            yield _pair(f"{directory}/{name}/", ours.namespace(name), theirs.namespace(name), ["sha256"])
    yield from _restic_pairs(source, target)


def _restic_pairs(source: Service, target: Service) -> Iterator[NamespacePair]:
    ours, theirs = (side.objects.namespace(layout.RESTIC, algorithm="sha256") for side in (source, target))
    # As the interface has it.
    theirs.max_size = None
    for name in _repositories(ours, theirs):
        if not can_list(target.objects):
            raise CheckError(f"the target cannot keep {layout.RESTIC}/{name}: it keeps no index of names")
        for type_ in layout.RESTIC_DIRECTORIES:
            within = f"{name}/{type_}"
            yield _pair(f"{layout.RESTIC}/{within}/", ours.namespace(within), theirs.namespace(within), ["sha256"])
        # Last: with a config, it is a repository.
        config = ours.namespace(name), theirs.namespace(name)
        yield _pair(f"{layout.RESTIC}/{name}/", *config, ())._replace(is_named_by_digest=False)


def drop_pair(source: Service, target: Service, ids: Callable[[], Iterator[str]]) -> NamespacePair:
    """`ids` yields those of the drops that have bytes, in ascending order."""
    return NamespacePair(f"{layout.DROPS}/", source.drops, target.drops, ids, is_named_by_digest=False, algorithms=())


def _repositories(source: Store, target: Store) -> Iterator[str]:
    """The repositories of both sides: one that the source has emptied may have objects at the target."""
    if not can_list(target):
        return filter(layout.is_repository, names(source.list_namespaces))
    found = merged(names(source.list_namespaces), names(target.list_namespaces))
    return (listed.name for listed in found if layout.is_repository(listed.name))


def _pair(path: str, source: Store, target: Store, algorithms: Sequence[str]) -> NamespacePair:
    return NamespacePair(path, source, target, functools.partial(names, source.list), algorithms=algorithms)


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
