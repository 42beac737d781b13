"""What names promise in every database: changes, listings, and the collection of objects without a name."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

from filestoraged.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StoreUnavailable,
)
from filestoraged.future import Future
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.limits import Rules
from filestoraged.store.name_collection import Collector
from filestoraged.store.name_limits import NameEviction
from filestoraged.store.name_listing import Name, Page
from filestoraged.store.names import Link, Names, PutResult, unconditional
from tests.clock import VirtualClock
from tests.support import TempCase, in_threads

GRACE, HOUR = 31.0, 3601.0


def unless_there(name: Name | None) -> None:
    if name is not None:
        raise AlreadyExists(name.name)


class NamesContract(TempCase):
    """A subclass sets `names`, opens the database again, and lets the time of the database pass."""

    names: Names
    clock: VirtualClock

    def setUp(self) -> None:
        super().setUp()
        self.clock = VirtualClock()
        self.store = DiskStore(self.directory / "store")
        self.addCleanup(self.store.close)

    def open_names(self) -> Names:
        raise NotImplementedError

    def pass_time(self, seconds: float) -> None:
        raise NotImplementedError

    def collector(self, **options: float) -> Collector:
        return Collector(self.names, self.store, clock=self.clock, **options)

    def collect(self, collector: Collector | None = None) -> int:
        each = collector or self.collector()
        return each.expire() + each.collect() + each.forget()

    def upload(self, data: bytes, space: str = "s") -> Link:
        staging = self.store.namespace(space).stage()
        with staging:
            staging.write(data)
            return Link(staging.commit().result(), len(data))

    def put(
        self,
        name: str,
        data: bytes = b"tea",
        space: str = "s",
        *,
        ttl: int | None = None,
        condition: Callable[[Name | None], None] = unconditional,
    ) -> PutResult:
        link = self.upload(data, space)
        number = self.names.secure(space, link.oid).result()
        self.upload(data, space)
        return self.names.put(space, name, link._replace(ttl=ttl), number=number, condition=condition).result()

    def put_all(self, *names: str) -> None:
        for name in names:
            self.put(name)

    def listed(self, prefix: str = "", *, by_folder: bool = False, after: str = "", limit: int = 1000) -> Page:
        return self.names.listing("s", prefix, by_folder=by_folder).page(after, limit)

    def settle(self) -> None:
        """Wait for what was queued before."""
        self.names.transactions.write(lambda _: None).result()

    def stored(self, space: str = "s") -> int:
        return len(self.store.namespace(space).list())

    def test_name_leads_to_what_was_put_last(self) -> None:
        first, second = self.put("a", b"tea"), self.put("a", b"coffee")

        self.assertEqual((True, False), (first.is_new, second.is_new))
        self.assertEqual(second.name, self.names.get("s", "a"))
        self.assertEqual(6, second.name.size)

    def test_name_keeps_its_type_fields_and_expiry(self) -> None:
        link = self.upload(b"tea")._replace(type="text/plain", fields="x-artifact-tag: 1\r\n", ttl=60)
        put = self.names.put("s", "a", link, number=0).result()

        found = self.names.get("s", "a")
        self.assertEqual(put.name, found)
        self.assertEqual(("text/plain", "x-artifact-tag: 1\r\n"), (found.type, found.fields))
        assert found.expires is not None
        self.assertEqual(60, found.expires - found.modified)

    def test_spaces_share_no_name(self) -> None:
        self.put("a", space="s")
        self.put("a", b"coffee", space="t")

        self.names.remove("s", "a").result()

        self.assertRaises(NotFound, self.names.get, "s", "a")
        self.assertEqual(6, self.names.get("t", "a").size)
        self.assertRaises(NotFound, self.names.remove("s", "a").result)

    def test_condition_gets_what_the_name_leads_to_and_refuses(self) -> None:
        seen: list[Name | None] = []
        self.put("a", condition=seen.append)

        with self.assertRaises(AlreadyExists):
            self.put("a", b"coffee", condition=unless_there)
        self.put("a", b"milk", condition=seen.append)

        self.assertIsNone(seen[0])
        assert seen[1] is not None
        self.assertEqual(3, seen[1].size)
        self.assertRaises(AlreadyExists, self.names.remove("s", "a", unless_there).result)
        self.assertEqual(4, self.names.get("s", "a").size)

    def test_one_of_many_simultaneous_conditional_puts_succeeds(self) -> None:
        other = self.open_names()
        links = [self.upload(b"%d" % number) for number in range(32)]

        def put(number: int) -> PutResult | None:
            names = other if number % 2 else self.names
            with contextlib.suppress(AlreadyExists):
                return names.put("s", "a", links[number], number=0, condition=unless_there).result()
            return None

        (won,) = filter(None, in_threads(32, put))

        self.assertEqual(won.name, self.names.get("s", "a"))

    def test_no_update_is_lost_by_compare_and_swap(self) -> None:
        link = self.upload(b"tea")
        self.put("counter")

        def swap(number: int) -> int:
            made = 0
            for _ in range(20):
                former = self.names.get("s", "counter")

                def same(current: Name | None, former: Name = former) -> None:
                    if current is None or current.fields != former.fields:
                        raise PreconditionFailed("changed")

                each = link._replace(fields=former.fields + "x")
                with contextlib.suppress(PreconditionFailed):
                    self.names.put("s", "counter", each, number=0, condition=same).result()
                    made += 1
            return made

        self.assertEqual(sum(in_threads(8, swap)), len(self.names.get("s", "counter").fields))

    def test_expired_name_is_not_found_nor_listed_and_is_new_again(self) -> None:
        self.put("a", ttl=60)
        self.put("b")
        self.pass_time(61)

        self.assertRaises(NotFound, self.names.get, "s", "a")
        self.assertRaises(NotFound, self.names.remove("s", "a").result)
        self.assertEqual(["b"], [each.name for each in self.listed().names])
        put = self.put("a", condition=unless_there)
        self.assertTrue(put.is_new)
        self.assertIsNone(self.names.get("s", "a").expires)

    def test_names_are_listed_by_their_bytes_page_by_page(self) -> None:
        names = ["B", "a", "a b", "a/b", "a0", "b", "é", "\U0001f375"]
        self.put_all(*reversed(names))
        self.put("c", space="sa")
        self.put("c", space="r")

        first = self.listed(limit=3)
        second = self.listed(limit=3, after=first.next or "")

        self.assertEqual(names[:3], [each.name for each in first.names])
        self.assertEqual(names[3:6], [each.name for each in second.names])
        self.assertEqual(names, [each.name for each in self.listed(limit=8).names])
        self.assertIsNone(self.listed(limit=8).next)

    def test_prefix_selects_names_exactly(self) -> None:
        self.put_all("a", "ab", "ab/c", "b", "é", "éa")

        self.assertEqual(["ab", "ab/c"], [each.name for each in self.listed(prefix="ab").names])
        self.assertEqual(["ab/c"], [each.name for each in self.listed(prefix="ab", after="ab").names])
        self.assertEqual(["é", "éa"], [each.name for each in self.listed(prefix="é").names])
        self.assertEqual([], list(self.listed(prefix="ab", after="b").names))

    def test_folders_are_one_entry_each(self) -> None:
        self.put_all("a", *(f"b/{number}" for number in range(40)), "b0", "c/d/e", "c/f")

        page = self.listed(by_folder=True)

        self.assertEqual((["a", "b0"], ["b/", "c/"]), ([each.name for each in page.names], list(page.prefixes)))
        below = self.listed(by_folder=True, prefix="c/")
        self.assertEqual((["c/f"], ["c/d/"]), ([each.name for each in below.names], list(below.prefixes)))

    def test_pages_of_folders_have_each_entry_once(self) -> None:
        entries = [f"{letter}{kind}" for letter in "abcdefghij" for kind in ("", "/x", "/y", "0")]
        self.put_all(*entries)
        whole = self.listed(by_folder=True)

        for limit in (1, 2, 3, 7):
            found: list[str] = []
            after: str | None = ""
            while after is not None:
                page = self.listed(by_folder=True, limit=limit, after=after)
                found += sorted([*(each.name for each in page.names), *page.prefixes], key=str.encode)
                after = page.next
            self.assertEqual(sorted([*(each.name for each in whole.names), *whole.prefixes], key=str.encode), found)
        self.assertEqual(30, len(whole.names) + len(whole.prefixes))

    def test_spaces_with_names_are_listed(self) -> None:
        for space in ("b", "a", "c"):
            self.put("x", space=space)
        self.names.remove("b", "x").result()

        self.assertEqual(["a", "c"], self.names.list_spaces("", 10))
        self.assertEqual(["c"], self.names.list_spaces("a", 10))
        self.assertEqual(["a"], self.names.list_spaces("", 1))
        self.assertEqual(2, self.names.count())

    def test_object_without_a_name_is_removed_after_a_while(self) -> None:
        self.put_all("a", "b")
        self.put("c", b"coffee")
        for name in ("a", "b"):
            self.assertEqual(2, self.stored())
            self.names.remove("s", name).result()
        self.assertEqual(0, self.collect())

        self.pass_time(GRACE)

        self.assertEqual(1, self.collect())
        self.assertEqual(1, self.stored())
        self.assertEqual(0, self.collect())

    def test_object_of_a_replaced_an_expired_or_a_refused_name_is_removed(self) -> None:
        self.put("a", b"1")
        self.put("a", b"2")
        with self.assertRaises(AlreadyExists):
            self.put("a", b"3", condition=unless_there)
        self.put("b", b"4", ttl=10)
        self.pass_time(GRACE)

        self.collect()
        self.pass_time(GRACE)
        self.collect()

        self.assertEqual(1, self.stored())
        self.assertEqual(1, self.names.get("s", "a").size)

    def test_object_that_gets_a_name_again_is_kept(self) -> None:
        self.put("a")
        self.names.remove("s", "a").result()
        self.pass_time(GRACE)
        self.put("b")

        self.assertEqual(0, self.collect())
        self.assertEqual(1, self.stored())

    def test_upload_of_what_has_no_name_begins_its_time_anew(self) -> None:
        self.put("a")
        oid = self.names.get("s", "a").oid
        self.names.remove("s", "a").result()
        self.pass_time(GRACE)
        number = self.names.secure("s", oid).result()

        self.assertEqual(0, self.collect())

        link = self.upload(b"tea")
        self.assertTrue(self.names.put("s", "b", link, number=number).result().is_new)

    def test_upload_fails_where_its_object_was_condemned_or_removed_meanwhile(self) -> None:
        self.put("a")
        link = self.upload(b"tea")
        number = self.names.secure("s", link.oid).result()
        self.names.remove("s", "a").result()
        self.pass_time(GRACE)
        self.collect()

        self.assertRaises(StoreUnavailable, self.names.put("s", "b", link, number=number).result)
        # Once its row is deleted, too.
        self.pass_time(HOUR)
        self.assertEqual(1, self.collect())
        self.assertRaises(StoreUnavailable, self.names.put("s", "b", link, number=number).result)
        self.assertTrue(self.put("b").is_new)

    def test_upload_waits_while_its_object_is_being_removed(self) -> None:
        self.put("a")
        oid = self.names.get("s", "a").oid
        self.names.remove("s", "a").result()
        self.pass_time(GRACE)
        remove_all, waiting = DiskStore.remove_all, []

        def upload_meanwhile(store: DiskStore, oids: Any) -> Any:
            waiting.append(self.names.secure("s", oid))
            self.settle()
            self.names.retry()
            self.settle()
            self.assertFalse(waiting[0].done())
            return remove_all(store, oids)

        with mock.patch.object(DiskStore, "remove_all", upload_meanwhile):
            self.assertEqual(1, self.collect())
        self.names.retry()

        number = waiting[0].result(10)
        self.assertTrue(self.names.put("s", "b", self.upload(b"tea"), number=number).result().is_new)

    def test_upload_gives_up_where_a_removal_takes_too_long(self) -> None:
        self.put("a")
        oid = self.names.get("s", "a").oid
        self.names.remove("s", "a").result()
        self.pass_time(GRACE)
        namespace = DiskStore.namespace

        def stopped(store: DiskStore, name: str) -> DiskStore:
            self.clock.advance(11)
            return namespace(store, name)

        with mock.patch.object(DiskStore, "namespace", stopped):
            self.assertEqual(0, self.collect(self.collector(succession_time=100)))
        secured = self.names.secure("s", oid)
        self.settle()
        self.clock.advance(11)
        self.names.retry()

        self.assertRaises(StoreUnavailable, secured.result, 10)
        # Another process removes it when the first one cannot any more.
        self.assertEqual(0, self.collect(self.collector(succession_time=100)))
        self.pass_time(101)
        self.assertEqual(1, self.collect(self.collector(succession_time=100)))
        self.assertEqual(0, self.stored())

    def test_object_that_cannot_be_removed_is_tried_again(self) -> None:
        self.put("a")
        self.names.remove("s", "a").result()
        self.pass_time(GRACE)
        error = OSError(errno.EIO, "Input/output error")
        with mock.patch.object(DiskStore, "remove_all", lambda _, oids: dict.fromkeys(oids, error)):
            self.assertRaises(OSError, self.collect)
        self.assertEqual(1, self.stored())

        self.assertEqual(1, self.collect())

        self.assertEqual(0, self.stored())

    def test_scan_finds_old_objects_without_a_row(self) -> None:
        ((now,),) = self.names.transactions.read("SELECT epoch()")
        self.put("a")
        for data, age in ((b"tea", HOUR), (b"coffee", HOUR), (b"milk", -60)):
            path = self.store.namespace("s").path(self.upload(data).oid)
            os.utime(path, (now - age, now - age))
        collector = self.collector()

        self.assertEqual(0, collector.scan())
        self.clock.advance(HOUR)
        self.assertEqual(3, collector.scan())
        self.assertEqual(0, collector.scan())
        self.pass_time(GRACE)
        self.assertEqual(1, self.collect(collector))
        self.assertEqual(2, self.stored())
        self.assertEqual(0, collector.scan())

    def test_scan_is_repeated_after_a_day(self) -> None:
        self.put("a")
        first, second = self.collector(), self.collector()
        self.pass_time(HOUR)
        self.clock.advance(HOUR)

        self.assertEqual([1, 0], [first.scan(), second.scan()])
        self.assertEqual([0, 0], [first.scan(), second.scan()])
        self.pass_time(25 * 3600)
        self.clock.advance(25 * 3600)
        self.assertEqual([1, 0], [second.scan(), first.scan()])

    def limit(self, rules: Rules) -> None:
        self.names.find_rules = lambda area: rules if area == "names/s" else None

    def evict(self) -> int:
        eviction = NameEviction(self.names.transactions, self.names.find_rules, self.clock)
        removed = sum(iter(eviction.step, 0))
        self.clock.advance(10)
        return removed + sum(iter(eviction.step, 0))

    def removals(self) -> dict[str, int]:
        return dict(self.names.transactions.read("SELECT reason, number FROM removals WHERE area = 'names/s'"))

    def left(self) -> list[str]:
        return [each.name for each in self.listed().names]

    def test_name_that_exceeds_the_quota_is_refused_and_its_bytes_are_collected(self) -> None:
        self.limit(Rules(quota=10))
        self.put("a", b"12345")
        self.put("b", b"67890")
        self.put("c", b"12345")

        for name, data in (("d", b"1"), ("a", b"123456")):
            with self.assertRaises(QuotaExceeded):
                self.put(name, data)
        self.put("b", b"abcde")
        self.put("d", b"x" * 100, space="t")
        self.pass_time(GRACE)
        self.collect()

        self.assertEqual(["a", "b", "c"], self.left())
        self.assertEqual(2, self.stored())

    def test_removed_name_makes_room_at_once(self) -> None:
        self.limit(Rules(quota=5))
        self.put("a", b"12345")
        self.names.remove("s", "a").result()

        self.put("b", b"67890")

        self.assertRaises(QuotaExceeded, self.names.require_room, "s", 1, None)
        self.names.require_room("s", 0, None)
        self.names.require_room("s", 5, self.names.get("s", "b").oid)
        self.names.require_room("t", 100, None)

    def test_quota_is_never_exceeded_by_simultaneous_uploads(self) -> None:
        self.limit(Rules(quota=50))
        other = self.open_names()
        other.find_rules = self.names.find_rules
        links = [self.upload(b"%010d" % number) for number in range(16)]

        def put(number: int) -> bool:
            names = other if number % 2 else self.names
            with contextlib.suppress(QuotaExceeded):
                return names.put("s", str(number), links[number], number=0).result().is_new
            return False

        self.assertEqual(5, sum(in_threads(16, put)))
        self.assertEqual(5, len(self.left()))

    def test_name_that_is_written_once_refuses_other_bytes(self) -> None:
        self.limit(Rules(write_once=True))
        self.put("a")

        with self.assertRaises(Conflict):
            self.put("a", b"coffee")
        self.assertFalse(self.put("a").is_new)
        self.names.remove("s", "a").result()
        self.assertTrue(self.put("a", b"coffee").is_new)

    def test_space_above_its_maximum_loses_the_names_that_were_used_least_recently(self) -> None:
        for number in range(20):
            self.put(f"{number:02}", b"%010d" % number)
            self.age(f"{number:02}", 100 - number)
        self.put("same", b"%010d" % 0)
        self.limit(Rules(max_size=200))
        self.assertEqual(0, self.evict())
        self.names.note_use("s", "01")
        self.names.flush()
        self.limit(Rules(max_size=100))

        removed = self.evict()

        # The object of the first one has another name.
        self.assertEqual(["01", "13", "14", "15", "16", "17", "18", "19", "same"], self.left())
        self.assertEqual({"max-size": removed}, self.removals())
        self.assertEqual(0, self.evict())

    def test_space_is_made_smaller_at_the_second_look_and_loses_the_first_of_a_second(self) -> None:
        for name in "bca":
            self.put(name, name.encode())
            self.clock.advance(0.01)
        self.limit(Rules(max_size=2))
        eviction = NameEviction(self.names.transactions, self.names.find_rules, self.clock)

        self.assertEqual(0, sum(iter(eviction.step, 0)))
        self.assertEqual(["a", "b", "c"], self.left())
        self.clock.advance(10)
        self.assertEqual(2, sum(iter(eviction.step, 0)))
        self.assertEqual(["a"], self.left())

    def age(self, name: str, seconds: int) -> None:
        """Make a name so much older."""
        statement = "UPDATE names SET used = used - ?, modified = modified - ? WHERE path = ?"
        self.names.transactions.write_rows(statement, [(seconds, seconds, f"s/{name}".encode())]).result()

    def test_names_that_are_too_old_or_were_not_used_are_removed(self) -> None:
        for name, age in (("old", 200), ("read", 200), ("new", 50)):
            self.put(name)
            self.age(name, age)
        self.limit(Rules(max_unused=100))
        self.note_use_now("read")

        self.assertEqual(1, self.evict())
        self.assertEqual(["new", "read"], self.left())
        self.assertEqual({"max-unused": 1}, self.removals())
        self.limit(Rules(max_age=100))
        self.assertEqual(1, self.evict())
        self.assertEqual(["new"], self.left())

    def note_use_now(self, name: str) -> None:
        self.names.note_use("s", name)
        self.names.flush()

    def test_uses_are_written_within_an_hour_or_a_tenth_of_the_limit(self) -> None:
        self.put("a")
        for rules, interval in (
            (Rules(max_unused=100_000), 3600),
            (Rules(max_unused=1000), 100),
            (Rules(max_size=1), 5),
        ):
            self.age("a", 1_000_000_000)
            self.limit(rules)
            before = self.used("a")
            self.names.note_use("s", "a")
            self.clock.advance(interval - 1)
            self.names.retry()
            self.assertEqual(before, self.used("a"))
            self.clock.advance(1)
            self.names.retry()
            self.assertLess(before, self.used("a"))
        before = self.used("a")
        self.limit(Rules(quota=1000))
        self.note_use_now("a")
        self.assertEqual(before, self.used("a"))

    def used(self, name: str) -> int:
        ((used,),) = self.names.transactions.read("SELECT used FROM names WHERE path = ?", f"s/{name}".encode())
        return int(used)

    def test_name_is_put_once_its_object_is_stored_and_not_if_that_fails(self) -> None:
        link = self.upload(b"tea")
        stored: list[Future[None]] = [Future(), Future()]
        stored[0].set_result(None)
        stored[1].set_exception(OSError(errno.EIO, "Input/output error"))

        put = self.names.put_when
        putting = [put("s", name, link, each, number=0) for name, each in zip("ab", stored, strict=True)]

        self.assertIsNotNone(putting[0].result())
        self.assertRaises(OSError, putting[1].result)
        self.assertEqual(["a"], self.left())
