"""Passes over the objects of two stores, while the source is written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from filestoraged.check.throttle import Throttle
from filestoraged.errors import StorageFull, StoreUnavailable
from filestoraged.migration.findings import MigrationTotals
from filestoraged.migration.namespace_pairs import Listed, NamespacePair, merged
from filestoraged.migration.passes import CopyPasses
from filestoraged.migration.transfer import TargetFailed, Transfer
from filestoraged.store.disk.store import DiskStore
from tests.clock import PassingClock
from tests.support import TempCase

TEA = b"tea" * 10


class PassesTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.source, self.target = (DiskStore(self.directory / name, cache_size=0) for name in ("old", "new"))
        self.source.prepare()
        self.target.prepare()
        self.totals = MigrationTotals()
        self.passes = CopyPasses(Throttle(), self.totals, delete=False)

    def pairs(self) -> Iterator[NamespacePair]:
        yield NamespacePair("", self.source, self.target, self.names, algorithms=["sha256"])

    def names(self) -> Iterator[str]:
        yield from self.source.list()

    def test_object_stored_after_its_place_in_the_first_listing_is_copied_by_the_last_pass(self) -> None:
        self.source.put(TEA)
        listed = self.names

        def list_and_store() -> Iterator[str]:
            yield from listed()
            self.names = listed  # type: ignore[method-assign]
            self.source.put(TEA * 2)

        self.names = list_and_store  # type: ignore[method-assign]

        first = list(filter(None, self.passes.first(self.pairs, 0.1)))
        after_first = list(self.target.list())
        last = list(filter(None, self.passes.last(self.pairs, 0.1)))

        self.assertEqual(([], []), (first, last))
        self.assertEqual(1, len(after_first))
        self.assertEqual(list(self.source.list()), list(self.target.list()))
        self.assertEqual((2, 2, 0), (self.totals.objects, self.totals.copied, self.totals.existing))

    def test_object_removed_after_it_was_listed_is_no_finding(self) -> None:
        digest = self.source.put(TEA)

        def list_and_remove() -> Iterator[str]:
            self.source.remove(digest)
            yield digest

        self.names = list_and_remove  # type: ignore[method-assign]

        self.assertEqual([], list(filter(None, self.passes.first(self.pairs, 0.1))))
        self.assertEqual((0, []), (self.totals.objects, list(self.target.list())))

    def test_object_that_comes_to_the_source_after_its_names_were_listed_is_not_removed_from_the_target(self) -> None:
        self.target.put(TEA)
        passes = CopyPasses(Throttle(), self.totals, delete=True)

        def list_and_store() -> Iterator[str]:
            self.source.put(TEA)
            yield from ()

        self.names = list_and_store  # type: ignore[method-assign]

        self.assertEqual([], list(filter(None, passes.last(self.pairs, 0.1))))
        self.assertEqual(list(self.source.list()), list(self.target.list()))
        self.assertEqual(0, self.totals.extra)

    def test_damaged_object_is_read_by_the_first_pass_alone(self) -> None:
        digest = self.source.put(os.urandom(1000))
        Path(self.source.path(digest)).write_bytes(b"")

        first = list(filter(None, self.passes.first(self.pairs, 0.1)))
        last = list(filter(None, self.passes.last(self.pairs, 0.1)))

        self.assertEqual((1, 0), (len(first), len(last)))
        self.assertEqual((0, 0), (self.totals.objects, self.totals.size))


class PatienceTest(TempCase):
    def test_server_that_is_out_of_reach_is_tried_again(self) -> None:
        clock = PassingClock()
        transfer = Transfer(Throttle(clock=clock), MigrationTotals())
        answers = iter([StoreUnavailable(), TargetFailed()])

        def attempt() -> str:
            error = next(answers, None)
            if error is None:
                return "done"
            if isinstance(error, TargetFailed):
                raise error from StoreUnavailable()
            raise error

        self.assertEqual("done", transfer.patiently(attempt))
        self.assertEqual([1.0, 2.0], clock.waits)

    def test_full_target_is_not_tried_again(self) -> None:
        transfer = Transfer(Throttle(), MigrationTotals())
        attempts = []

        def attempt() -> None:
            attempts.append(1)
            raise TargetFailed from StorageFull("There is no room left to store this.")

        with self.assertRaisesRegex(Exception, "the target is full"):
            transfer.patiently(attempt)
        self.assertEqual(1, len(attempts))


class MergeTest(TempCase):
    def test_names_of_both_sides_are_merged_in_their_order(self) -> None:
        found = list(merged(iter(["a", "b", "d"]), iter(["b", "c"])))

        expected = [("a", True, False), ("b", True, True), ("c", False, True), ("d", True, False)]
        self.assertEqual([Listed(*each) for each in expected], found)
