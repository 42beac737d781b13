"""Compares the segments of unfinished resumable uploads in an S3 store with the rows that name them.

A row is made after its object. While its upload needs the bytes, it is removed before its object; afterwards it is
removed behind it. So an object without a row is a leftover once it is older than any request, and an object that is
missing between two queries that find its row, is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from filestoraged.check.findings import MISSING, Finding
from filestoraged.check.throttle import Throttle
from filestoraged.errors import NotFound
from filestoraged.store import layout
from filestoraged.store.s3.client import S3Client


class SegmentRow(NamedTuple):
    """`size` is in bytes."""

    id: str
    number: int
    size: int

    @property
    def key(self) -> str:
        return layout.upload_segment_path(self.id, self.number)


class SegmentRegistry(Protocol):
    """Rows of unfinished uploads. Methods may raise RegistryUnreadable."""

    # As findings name it.
    name: str

    def segments_of(self, ids: Sequence[str]) -> set[str]:
        """The keys of all segments of at most IDS_PER_QUERY uploads."""

    def needed_segments(self) -> Iterator[SegmentRow]:
        """All rows whose objects must exist."""

    def needs_segment(self, row: SegmentRow) -> bool:
        """Whether that is one of them."""

    def without_segments(self) -> Iterator[str]:
        """The ids of uploads that have received other bytes than their segments have."""


def without_row(registry: SegmentRegistry, keys: Sequence[str]) -> list[str]:
    """Those of at most IDS_PER_QUERY keys that are no segment of any upload."""
    named = registry.segments_of(sorted({key.split("/")[1] for key in keys}))
    return [key for key in keys if key not in named]


def find_missing(client: S3Client, registry: SegmentRegistry, throttle: Throttle) -> Iterator[Finding]:
    """Find rows without objects, and uploads without rows. Raises RegistryUnreadable and StoreUnavailable."""
    for row in registry.needed_segments():
        throttle.raise_if_stopped()
        if not _exists(client, row) and registry.needs_segment(row):
            yield Finding(MISSING, row.key, "its upload has received these bytes")
    for id_ in registry.without_segments():
        yield Finding(MISSING, layout.upload_path(id_), "its upload has received bytes that no object has")


def _exists(client: S3Client, row: SegmentRow) -> bool:
    try:
        return client.head(row.key).size == row.size
    except NotFound:
        return False
