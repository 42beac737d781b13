"""Names of objects and namespaces in the order of the contract, from listings of keys.

Every page is asked for by the last key of the one before, so a listing needs no state of the store's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from filestoraged.errors import StoreUnavailable
from filestoraged.store import layout
from filestoraged.store.contract import ObjectStatus, Usage
from filestoraged.store.s3.answers import ListedObject
from filestoraged.store.s3.client import S3Client

_PAGE = 1000

# The character after "/": `directory + _PAST` sorts behind all keys of a directory.
_PAST = "0"

_SEPARATOR = "/"


def list_names(client: S3Client, prefix: str, after: str, limit: int) -> Sequence[str]:
    """The names of at most `limit` objects of a namespace, whose keys have that prefix."""
    names: list[str] = []
    first = layout.object_path(after, prefix.rstrip(_SEPARATOR)) if after else ""
    for listed in list_objects(client, prefix, after=first, skip_others=True, until=client.deadline()):
        name = _name_of(listed.key.removeprefix(prefix), prefix)
        if name is not None and name > after:
            names.append(name)
            if len(names) == limit:
                break
    return names


def scan(client: S3Client, prefix: str) -> Generator[ObjectStatus, None, None]:
    """The objects of a namespace, whose keys have that prefix. A page is in memory at a time."""
    for listed in list_objects(client, prefix, skip_others=True):
        name = _name_of(listed.key.removeprefix(prefix), prefix)
        if name is not None:
            yield ObjectStatus(name, listed.size, listed.modified)


def list_namespaces(client: S3Client, prefix: str, after: str, limit: int) -> Sequence[str]:
    """The names of at most `limit` namespaces whose keys begin with `prefix`.

    Keys of `a-b/` and `a.b/` come before those of `a/`, but the names after it. So a page is complete when no name that
    is missing can be one of its first.
    """
    found: list[str] = []
    for name in _directories(client, prefix, after):
        if name > after and layout.is_repository(name):
            found.append(name)
        if len(found) >= limit and name + _SEPARATOR > _last_of_shorter(heapq.nsmallest(limit, found)):
            break
    return heapq.nsmallest(limit, found)


def count(client: S3Client, pause: Callable[[], None]) -> Mapping[str, Usage]:
    """What each interface holds, by its name. Lists all keys."""
    interfaces = ("files", layout.REPOSITORIES, layout.NAMES, layout.RESTIC, layout.DROPS)
    totals = {name: Usage() for name in interfaces}
    for each in list_objects(client):
        pause()
        first = each.key.partition(_SEPARATOR)[0]
        interface = "files" if layout.is_shard(first) else first
        if interface in totals:
            totals[interface] = totals[interface].plus(Usage(1, each.size))
    return totals


def list_objects(
    client: S3Client, prefix: str = "", *, after: str = "", skip_others: bool = False, until: float | None = None
) -> Iterator[ListedObject]:
    """The keys with a prefix; with `skip_others`, those where the namespace can have objects, without listing others.

    The listing ends at `until` on the monotonic clock, if that is given: a store may have any number of other keys.
    """
    is_flat = layout.is_flat(prefix.rstrip(_SEPARATOR))
    while True:
        page = client.list(prefix, after=prefix + after if after else "", limit=_PAGE, until=until)
        last = ""
        for each in page.objects:
            last = each.key.removeprefix(prefix)
            directory, separator, _ = last.partition(_SEPARATOR)
            if skip_others and (separator if is_flat else not layout.is_shard(directory)):
                last = directory + _PAST
                break
            yield each
        else:
            if page.is_last:
                return
        after = advance(after, last)


def _directories(client: S3Client, prefix: str, after: str) -> Iterator[str]:
    until = client.deadline()
    while True:
        page = client.list(
            prefix, after=prefix + after if after else "", delimiter=_SEPARATOR, limit=_PAGE, until=until
        )
        names = sorted(each.removeprefix(prefix).rstrip(_SEPARATOR) + _SEPARATOR for each in page.prefixes)
        yield from (name.rstrip(_SEPARATOR) for name in names)
        if page.is_last:
            return
        keys = [*names, *(each.key.removeprefix(prefix) for each in page.objects)]
        last = max(keys, default="")
        after = advance(after, last.rstrip(_SEPARATOR) + _PAST if last.endswith(_SEPARATOR) else last)


def advance(after: str, last: str) -> str:
    """Return `last`, where the page behind `after` ends. Raises StoreUnavailable where a store would list for ever."""
    if last <= after:
        raise StoreUnavailable from ValueError("the S3 store ignores start-after in a listing")
    return last


def _name_of(path: str, prefix: str) -> str | None:
    """The name of the object at a path within the namespace whose keys have that prefix; None for another key."""
    name, namespace = path.rpartition(_SEPARATOR)[2], prefix.rstrip(_SEPARATOR)
    is_own = layout.is_object_name(name, namespace) and layout.object_path(name, namespace) == path
    return name if is_own else None


def _last_of_shorter(names: Sequence[str]) -> str:
    """The last key prefix of names that sort before one of these although their keys sort behind it."""
    shorter = [name[:end] for name in names for end, letter in enumerate(name) if letter < _SEPARATOR]
    return max((name + _SEPARATOR for name in shorter), default="")
