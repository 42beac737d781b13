"""What the accounts of areas promise in every database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from filestoraged.errors import QuotaExceeded, StoreUnavailable
from filestoraged.store import areas
from filestoraged.store.areas import CountedObject
from filestoraged.store.transactions import Transaction, Transactions
from tests.support import TempCase, in_threads


class AreasContract(TempCase):
    """A subclass sets `transactions`, and opens the database again."""

    transactions: Transactions

    def open(self) -> Transactions:
        raise NotImplementedError

    def write(self, function: Callable[..., Any], *values: Any, **named: Any) -> Any:
        return self.transactions.write(lambda transaction: function(transaction, *values, **named)).result()

    def sums(self, area: str) -> tuple[int, int]:
        """Bytes and objects, which are those of the rows."""
        ((size, objects),) = self.transactions.read("SELECT bytes, objects FROM areas WHERE area = ?", area)
        rows = self.transactions.read(
            "SELECT coalesce(sum(size), 0), count(*) FROM stored WHERE area = ? AND names > 0", area
        )
        self.assertEqual([(size, objects)], [tuple(row) for row in rows])
        return int(size), int(objects)

    def object(self, key: str, size: int) -> CountedObject:
        rows = self.transactions.read("SELECT names FROM stored WHERE area = 'names/pets' AND key = ?", key)
        return CountedObject(key, size, rows[0][0] if rows else 0)

    def add_name(self, key: str, size: int) -> None:
        self.write(areas.lead, "names/pets", self.object(key, size), None)

    def require_room(self, new: CountedObject, replaced: CountedObject | None = None) -> None:
        self.write(areas.require_room, "names/pets", 10, new, replaced)

    def complete(self, area: str) -> None:
        def insert(transaction: Transaction) -> None:
            transaction.execute("INSERT INTO areas VALUES (?, 0, 0, 0, 1)", (area,))

        self.transactions.write(insert).result()

    def test_object_counts_while_a_name_leads_to_it(self) -> None:
        self.add_name("a", 5)
        self.add_name("a", 5)
        self.add_name("b", 7)
        self.assertEqual((12, 2), self.sums("names/pets"))

        self.write(areas.remove_name, "names/pets", "a")
        self.assertEqual((12, 2), self.sums("names/pets"))

        self.write(areas.remove_name, "names/pets", "a")
        self.assertEqual((7, 1), self.sums("names/pets"))

        self.write(areas.remove_name, "names/pets", "a")
        self.assertEqual((7, 1), self.sums("names/pets"))

        self.add_name("a", 5)
        self.assertEqual((12, 2), self.sums("names/pets"))

    def test_new_name_that_exceeds_the_quota_is_refused_unless_it_replaces_enough(self) -> None:
        self.add_name("a", 5)
        self.add_name("b", 3)
        self.add_name("b", 3)

        self.require_room(self.object("c", 2))
        self.require_room(self.object("a", 5))
        self.require_room(self.object("c", 7), self.object("a", 5))
        with self.assertRaisesRegex(QuotaExceeded, "The quota of names/pets is 10 bytes, of which 8 are used"):
            self.require_room(self.object("c", 3))
        # Another name leads to b.
        self.assertRaises(QuotaExceeded, self.require_room, self.object("c", 3), self.object("b", 3))

    def test_area_above_its_quota_takes_what_makes_it_smaller(self) -> None:
        self.add_name("a", 50)

        self.require_room(self.object("b", 20), self.object("a", 50))
        self.assertRaises(QuotaExceeded, self.require_room, self.object("b", 1))

    def test_reservation_counts_an_object_once(self) -> None:
        self.complete("files")

        versions = [self.write(areas.reserve, "files", "a", 5, 10) for _ in range(3)]

        self.assertEqual([0, 1, 2], versions)
        self.assertEqual((5, 1), self.sums("files"))

    def test_reservation_of_a_damaged_object_counts_the_size_that_it_gets(self) -> None:
        self.complete("files")
        self.write(areas.reserve, "files", "a", 3, 10)

        self.write(areas.reserve, "files", "a", 9, 10)

        self.assertEqual((9, 1), self.sums("files"))

    def test_largest_of_several_reservations_counts_until_the_size_is_confirmed(self) -> None:
        self.complete("files")
        versions = [self.write(areas.reserve, "files", "a", size, 10) for size in (5, 9, 3)]
        self.assertEqual((9, 1), self.sums("files"))

        # One that is outdated, and one that knows no size.
        self.write(areas.confirm, "files", "a", versions[1], 1)
        self.write(areas.confirm, "files", "a", versions[2], None)
        self.assertEqual((9, 1), self.sums("files"))

        self.write(areas.confirm, "files", "a", versions[2], 3)
        self.assertEqual((3, 1), self.sums("files"))

    def test_reservation_above_the_quota_changes_nothing(self) -> None:
        self.complete("files")
        self.write(areas.reserve, "files", "a", 5, 10)

        with self.assertRaises(QuotaExceeded) as caught:
            self.write(areas.reserve, "files", "b", 6, 10)

        self.assertEqual(507, caught.exception.status)
        self.assertEqual((5, 1), self.sums("files"))

    def test_area_that_was_not_counted_refuses_uploads_only_where_there_is_a_quota(self) -> None:
        self.assertRaises(StoreUnavailable, self.write, areas.reserve, "files", "a", 5, 10)

        self.write(areas.reserve, "files", "a", 5, None)

        self.assertEqual((5, 1), self.sums("files"))
        self.assertRaises(StoreUnavailable, self.write, areas.reserve, "files", "b", 5, 10)

    def test_upload_that_is_judged_while_the_first_one_of_its_area_is_stored_counts_that(self) -> None:
        def is_empty() -> bool:
            self.write(areas.reserve_first, "data/pets", "first", 6, 10)
            return False

        self.assertEqual(4, areas.find_room(self.transactions, "data/pets", 10, 1, keys=(), is_empty=is_empty))

        with self.assertRaises(QuotaExceeded):
            areas.find_room(self.transactions, "data/pets", 10, 5, keys=())

    def test_areas_that_are_not_counted_any_more_refuse_uploads_until_they_are(self) -> None:
        self.complete("files")
        self.write(areas.reserve, "files", "a", 5, 10)
        self.add_name("a", 5)

        for _ in range(2):
            areas.distrust(self.transactions)
        # Behind those changes.
        self.write(areas.serialize)

        self.assertRaises(StoreUnavailable, self.write, areas.reserve, "files", "b", 5, 10)
        rows = self.transactions.read("SELECT area, complete FROM areas ORDER BY area")
        self.assertEqual([("files", 0), ("names/pets", 1)], [tuple(row) for row in rows])

    def test_simultaneous_reservations_fill_the_quota_and_exceed_it_never(self) -> None:
        self.complete("files")
        processes = [self.transactions, self.open()]

        def reserve(number: int) -> bool:
            job = processes[number % 2].write(lambda each: areas.reserve(each, "files", f"{number}", 3, 20))
            try:
                job.result()
            except QuotaExceeded:
                return False
            return True

        self.assertEqual(6, sum(in_threads(24, reserve)))
        self.assertEqual((18, 6), self.sums("files"))

    def test_removed_object_does_not_count(self) -> None:
        self.complete("files")
        self.write(areas.reserve, "files", "a", 5, 10)

        version = self.write(areas.begin_removal, "files", "a")
        self.assertEqual((5, 1), self.sums("files"))

        self.assertTrue(self.write(areas.end_removal, "files", "a", version))
        self.assertEqual((0, 0), self.sums("files"))
        self.assertIsNone(self.write(areas.begin_removal, "files", "a"))
        self.assertFalse(self.write(areas.end_removal, "files", "a", version))

    def test_object_that_is_uploaded_while_it_is_removed_counts(self) -> None:
        self.complete("files")
        self.write(areas.reserve, "files", "a", 5, 10)
        version = self.write(areas.begin_removal, "files", "a")

        self.write(areas.reserve, "files", "a", 5, 10)

        self.assertFalse(self.write(areas.end_removal, "files", "a", version))
        self.assertEqual((5, 1), self.sums("files"))
