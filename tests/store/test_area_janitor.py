"""What the janitor of limited areas counts, settles and removes. Time passes by the test's clock alone."""

from __future__ import annotations

import hashlib
import os
from unittest import mock

from filestoraged.daemon.limits import parse_limit
from filestoraged.errors import AlreadyExists, NotFound, QuotaExceeded, StorageFull
from filestoraged.store import areas
from filestoraged.store.accounts import GRACE, Accounts
from filestoraged.store.area_janitor import AreasJanitor
from filestoraged.store.cleanup_lock import FileLock
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Drop, Drops
from filestoraged.store.limited_store import limit_drops, limit_objects
from filestoraged.store.limits import AreaLimits
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from tests.clock import VirtualClock
from tests.support import TempCase

_DAY = 24 * 3600


class AreasCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = VirtualClock()
        self.disk = DiskStore(self.directory / "store")
        self.disk.prepare()
        self.addCleanup(self.disk.close)
        self.path = str(self.directory / "names.sqlite")
        database.prepare(self.path, NAMES_SCHEMA)
        self.drops: Drops | None = None

    def start(self, *limits: str) -> None:
        """As a daemon starts with these limits, once it has forgotten the former ones."""
        transactions = TransactionQueue(self.path, NAMES_SCHEMA, clock=self.clock)
        self.addCleanup(transactions.close)
        stores = (self.disk, self.disk.namespace("drops"))
        self.accounts = Accounts(transactions, AreaLimits(tuple(map(parse_limit, limits))), *stores, self.clock)
        self.objects, self.drop_store = limit_objects(self.accounts), limit_drops(self.accounts)
        lock = FileLock(f"{self.path}.limits")
        self.janitor = AreasJanitor(self.accounts, lock, self.drops, self.clock, page=20)

    def clean_up(self) -> None:
        self.janitor.clean_up()

    def repository(self, name: str = "pets") -> Store:
        return self.objects.namespace("repositories", algorithm="sha256").namespace(name)

    def sums(self, area: str = "data/pets") -> tuple[int, int] | None:
        rows = self.accounts.transactions.read("SELECT bytes, objects FROM areas WHERE area = ?", area)
        counted = "SELECT coalesce(sum(size), 0), count(*) FROM stored WHERE area = ?"
        for row in rows:
            self.assertEqual([tuple(row)], self.accounts.transactions.read(counted, area))
            return int(row[0]), int(row[1])
        return None

    def removals(self) -> dict[str, int]:
        return dict(self.accounts.transactions.read("SELECT reason, number FROM removals"))

    def put_old(self, data: bytes, age: float) -> str:
        """Store an object that is not counted yet."""
        store = self.disk.namespace("repositories").namespace("pets")
        digest = store.put(data)
        os.utime(store.path(digest), (self.clock.date() - age,) * 2)
        return digest


class CountTest(AreasCase):
    def test_objects_that_were_there_before_the_limit_count(self) -> None:
        for number in range(50):
            self.put_old(b"%d" % (10_000 + number), 0)
        self.disk.put(b"file")
        self.start("data/*=quota:300", "files=max-size:1G")

        self.clean_up()

        self.assertEqual(((250, 50), (4, 1)), (self.sums(), self.sums("files")))
        self.assertRaises(QuotaExceeded, self.repository().put, bytes(51))
        self.repository().put(bytes(50))

    def test_second_count_finds_what_a_process_without_the_limit_has_changed(self) -> None:
        kept, removed = self.put_old(b"kept", 0), self.put_old(b"removed", 0)
        self.start("data/*=quota:1G")
        self.clean_up()
        self.put_old(b"added", 0)
        self.disk.namespace("repositories").namespace("pets").remove(removed)

        self.clean_up()
        self.assertEqual((11, 2), self.sums())
        self.clock.advance(61)
        self.clean_up()
        self.assertEqual((16, 3), self.sums())
        self.clock.advance(GRACE)
        self.clean_up()
        self.assertEqual((9, 2), self.sums())
        self.assertEqual(4, self.repository().stat(kept).size)

    def test_area_without_a_limit_is_forgotten_and_counted_anew_when_it_has_one_again(self) -> None:
        self.put_old(b"tea", 0)
        self.start("data/*=quota:1G")
        self.clean_up()
        self.start("files=quota:1G")
        self.clock.advance(100)
        self.clean_up()
        self.assertIsNone(self.sums())
        self.put_old(b"milk", 0)

        self.start("data/pets=quota:1G")
        self.clean_up()

        self.assertEqual((7, 2), self.sums())

    def test_upload_to_a_new_area_waits_for_no_count(self) -> None:
        self.start("data/*=quota:5")

        self.repository().put(b"12345")

        self.assertEqual((5, 1), self.sums())
        self.assertRaises(QuotaExceeded, self.repository().put, b"x")


class SettleTest(AreasCase):
    """What a process leaves that dies between two steps."""

    def setUp(self) -> None:
        super().setUp()
        self.start("data/*=quota:10")
        self.clean_up()

    def test_room_of_an_upload_that_was_never_visible_is_free_after_a_while(self) -> None:
        staging = self.repository().stage(10)
        staging.write(b"0123456789")
        reserved = staging.reserve()
        assert reserved is not None
        reserved.result()
        # As if the process had died now.
        self.start("data/*=quota:10")

        self.clean_up()
        self.assertEqual((10, 1), self.sums())
        self.assertRaises(QuotaExceeded, self.repository().put, b"x")
        self.clock.advance(GRACE)
        self.clean_up()
        self.assertEqual((0, 0), self.sums())

    def test_refused_config_counts_until_the_janitor_has_looked(self) -> None:
        self.start("restic/*=quota:1000")
        store = self.objects.namespace("restic", algorithm="sha256").namespace("laptop")
        with store.stage_new(100) as first, store.stage_new(300) as second, store.stage_new(20) as third:
            for staging, size in ((first, 100), (second, 300), (third, 20)):
                staging.write(bytes(size))
            first.commit(name="config", replace=False).result()
            for staging in (second, third):
                self.assertRaises(AlreadyExists, staging.commit(name="config", replace=False).result)

        self.assertEqual((300, 1), self.sums("restic/laptop"))
        self.clock.advance(GRACE)
        self.clean_up()
        self.assertEqual((100, 1), self.sums("restic/laptop"))

    def test_upload_that_is_given_up_makes_room_at_once(self) -> None:
        with self.repository().stage(10) as staging:
            staging.write(b"0123456789")
            reserved = staging.reserve()
            assert reserved is not None
            reserved.result()
        # Behind what the end of the block has begun.
        self.accounts.write(areas.serialize).result()

        self.repository().put(b"9876543210")

        self.assertEqual((10, 1), self.sums())

    def test_object_whose_removal_was_not_recorded_is_forgotten_after_a_while(self) -> None:
        digest = self.repository().put(b"tea")
        self.accounts.write(areas.begin_removal, "data/pets", digest).result()
        self.disk.namespace("repositories").namespace("pets").remove(digest)

        self.clock.advance(GRACE)
        self.clean_up()

        self.assertEqual((0, 0), self.sums())

    def test_object_whose_removal_did_not_happen_still_counts(self) -> None:
        digest = self.repository().put(b"tea")
        self.accounts.write(areas.begin_removal, "data/pets", digest).result()

        self.clock.advance(GRACE)
        self.clean_up()

        self.assertEqual((3, 1), self.sums())
        self.assertEqual([], self.accounts.transactions.read("SELECT key FROM stored WHERE since IS NOT NULL"))

    def test_removal_frees_room_also_where_the_object_is_missing(self) -> None:
        digest = self.repository().put(b"tea")
        self.disk.namespace("repositories").namespace("pets").remove(digest)

        self.assertRaises(NotFound, self.repository().remove, digest)
        self.assertEqual((0, 0), self.sums())

    def test_removal_whose_end_cannot_be_written_succeeds_and_frees_the_room_after_a_while(self) -> None:
        store = self.repository()
        digests = [store.put(b"%d" % number) for number in range(4)]

        with mock.patch.object(areas, "end_removal", side_effect=StorageFull("full")):
            store.remove(digests[0])
            store.remove_later(digests[1]).result()
            self.assertEqual({}, store.remove_all(digests[2:]))
        self.assertEqual((4, 4), self.sums())

        self.clock.advance(GRACE)
        self.clean_up()
        self.assertEqual((0, 0), self.sums())

    def test_removal_is_done_although_the_disk_is_too_full_to_note_it(self) -> None:
        store = self.repository()
        digests = [store.put(b"%d" % (100 + number)) for number in range(3)]

        noted = [StorageFull("full"), 1, StorageFull("full"), StorageFull("full"), mock.DEFAULT]
        with mock.patch.object(areas, "begin_removal", side_effect=noted, wraps=areas.begin_removal):
            store.remove(digests[0])
            store.remove_later(digests[1]).result()
        with mock.patch.object(areas, "begin_removal", side_effect=StorageFull("full")):
            self.assertEqual({}, store.remove_all(digests[2:]))
        self.assertEqual([], list(store.list()))

        # The day's count finds those of which nothing could be written.
        for seconds in (_DAY, GRACE):
            self.clock.advance(seconds)
            self.clean_up()
        self.assertEqual((0, 0), self.sums())

    def test_simultaneous_removals_free_the_room_at_once(self) -> None:
        digest = self.repository().put(b"tea")
        removals = [self.repository().remove_later(digest) for _ in range(3)]

        errors = [each.exception() for each in removals]
        # Behind what the removals that failed have begun.
        self.accounts.write(areas.serialize).result()

        self.assertEqual(1, errors.count(None))
        self.assertEqual((0, 0), self.sums())


class EvictionTest(AreasCase):
    def setUp(self) -> None:
        super().setUp()
        self.start("data/*=max-age:30d,max-size:100")

    def test_objects_that_are_too_old_are_removed(self) -> None:
        old, new = self.put_old(b"old", 30 * _DAY), self.put_old(b"new", 29 * _DAY)

        self.clean_up()

        self.assertEqual([new], self.repository().list())
        self.assertEqual(((3, 1), {"max-age": 1}), (self.sums(), self.removals()))
        self.assertNotEqual(old, new)

    def test_oldest_objects_are_removed_down_to_nine_tenths_of_the_maximum(self) -> None:
        digests = [self.put_old(b"%010d" % number, 100 - number) for number in range(11)]

        self.clean_up()

        self.assertEqual(sorted(digests[2:]), self.repository().list())
        self.assertEqual(((90, 9), {"max-size": 2}), (self.sums(), self.removals()))

    def test_area_at_its_maximum_keeps_all(self) -> None:
        for number in range(10):
            self.repository().put(b"%010d" % number)

        self.clean_up()

        self.assertEqual(((100, 10), {}), (self.sums(), self.removals()))

    def test_what_comes_later_is_removed_within_a_minute(self) -> None:
        self.clean_up()
        self.repository().put(bytes(101))

        self.clock.advance(60)
        self.clean_up()

        self.assertEqual((0, 0), self.sums())

    def test_same_bytes_again_make_an_object_new(self) -> None:
        self.put_old(b"tea", 29 * _DAY)
        self.clean_up()
        self.repository().put(b"tea")

        self.clock.advance(2 * _DAY)
        self.clean_up()

        self.assertEqual([hashlib.sha256(b"tea").hexdigest()], self.repository().list())

    def test_nothing_is_too_old_while_the_clock_has_jumped_ahead(self) -> None:
        self.repository().put(b"tea")
        self.clean_up()

        self.clock.set_date(self.clock.date() + 1000 * _DAY)
        self.announce("WARNING filestoraged.store.wall_clock: the clock is 24000")
        self.clean_up()
        self.assertEqual((3, 1), self.sums())

        for _ in range(13):
            self.clock.advance(300)
            self.clean_up()
        self.assertEqual((0, 0), self.sums())


class DropsTest(AreasCase):
    def setUp(self) -> None:
        super().setUp()
        path = str(self.directory / "drops.sqlite")
        database.prepare(path, DROPS_SCHEMA)
        owners = OwnerFiles(str(self.directory / "owners"))
        transactions = TransactionQueue(path, DROPS_SCHEMA, clock=self.clock)
        self.drops = Drops(transactions, owners, ttl=100 * _DAY, clock=self.clock)
        self.addCleanup(self.drops.close)
        self.start("drops=max-size:10")
        self.clean_up()

    def put(self, data: bytes) -> str:
        assert self.drops is not None
        id_ = self.drops.announce().result()
        self.drop_store.put(data, name=id_)
        self.drops.publish(Drop(id_, "a.txt", None)).result()
        self.clock.advance(1)
        return id_

    def test_oldest_drops_are_gone_unless_they_are_fetched_at_present(self) -> None:
        assert self.drops is not None
        ids = [self.put(b"12345") for _ in range(3)]
        self.drops.claim(ids[0]).result()

        self.clock.advance(60)
        self.clean_up()

        self.assertEqual({"arriving": 0, "available": 1, "claimed": 1, "gone": 1}, self.drops.count())
        self.assertEqual(sorted([ids[0], ids[2]]), self.drop_store.list())
        self.assertEqual((10, 2), self.sums("drops"))
