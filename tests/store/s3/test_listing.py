"""Names from listings of keys, page by page."""

from __future__ import annotations

import unittest
from collections.abc import Sequence
from typing import Any, cast

from filestoraged.store import layout
from filestoraged.store.s3.answers import ListedObject, ListingPage
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.listing import list_names

NAMES = [f"{number:02x}" * 32 for number in range(1, 8)]


class PagingStore:
    """Lists two keys at a time."""

    def deadline(self) -> float:
        return 0.0

    def list(self, prefix: str, *, after: str = "", **_: Any) -> ListingPage:
        found = [key for key in (prefix + layout.object_path(name) for name in NAMES) if key > after]
        return ListingPage([ListedObject(key, 3, 0, "") for key in found[:2]], [], len(found) <= 2)


class RepeatingStore(PagingStore):
    """Begins a page with the key that it is to begin behind."""

    def list(self, prefix: str, *, after: str = "", **_: Any) -> ListingPage:
        found = [key for key in (prefix + layout.object_path(name) for name in NAMES) if key >= after]
        return ListingPage([ListedObject(key, 3, 0, "") for key in found], [], True)


class NamesTest(unittest.TestCase):
    def names(self, store: PagingStore, after: str = "", limit: int = 100) -> Sequence[str]:
        return list_names(cast(S3Client, store), "data/pets/", after, limit)

    def test_names_of_all_pages_are_listed(self) -> None:
        self.assertEqual(NAMES, self.names(PagingStore()))
        self.assertEqual(NAMES[3:], self.names(PagingStore(), NAMES[2]))
        self.assertEqual(NAMES[3:6], self.names(PagingStore(), NAMES[2], 3))

    def test_name_that_a_store_lists_again_is_left_out(self) -> None:
        self.assertEqual(NAMES[3:5], self.names(RepeatingStore(), NAMES[2], 2))
