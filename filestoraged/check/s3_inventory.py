"""Tells by its key what each object of an S3 store is: an object, a drop's or an upload's bytes, or a foreign one.

Keys are the paths of a disk store. So a foreign key is one that would be a foreign file there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from filestoraged.check.inventory import Item, Kind
from filestoraged.store import layout
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.listing import advance

# A shard and a name that begins with it.
_OBJECT = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30,126}")
_OID = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{62}")
_DROP = re.compile(r"([0-9a-f]{2})/\1[0-9a-f]{30}")

# A segment of an upload: its id, and a number.
_SEGMENT = re.compile(r"[0-9a-f]{32}/[0-9]{1,18}")

# What has other names below `uploads/` is not reported: the prefix is reserved.
_UNCHECKED = (layout.QUARANTINE, layout.UPLOADS)

_UNKNOWN_NAME = "the store has no such name here"


def list_items(client: S3Client) -> Iterator[Item]:
    """All objects below the store's prefix, in the order of their keys. Raises StoreUnavailable."""
    after = ""
    is_last = False
    while not is_last:
        listing = client.list(after=after)
        for each in listing.objects:
            item = classify(each.key)
            if item is not None:
                yield item
        # A page without an object cannot be continued.
        is_last = listing.is_last or not listing.objects
        if not is_last:
            after = advance(after, listing.objects[-1].key)


def classify(key: str) -> Item | None:
    """Return what the object under a key is; None for what is not checked."""
    directory, _, rest = key.partition("/")
    if directory == layout.UPLOADS and _SEGMENT.fullmatch(rest):
        return Item(Kind.SEGMENT, key)
    if directory in _UNCHECKED and rest:
        return None
    if directory == layout.REPOSITORIES:
        repository, _, path = rest.partition("/")
        is_known = layout.is_repository(repository) and _OID.fullmatch(path)
        return Item(Kind.OID, key) if is_known else _foreign(key)
    if directory == layout.DROPS:
        return Item(Kind.DROP, key) if _DROP.fullmatch(rest) else _foreign(key)
    return Item(Kind.OBJECT, key) if _OBJECT.fullmatch(key) else _foreign(key)


def _foreign(key: str) -> Item:
    return Item(Kind.FOREIGN, key, _UNKNOWN_NAME)
