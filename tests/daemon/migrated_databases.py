"""What a migration does with the rows of databases, whichever keep them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from filestoraged.errors import Gone, NotFound
from tests.daemon.migrations import MigrationCase

if TYPE_CHECKING:
    _Case = MigrationCase
else:
    # The classes here are run with the backends that subclasses name.
    _Case = object

TEA = b"tea" * 10
POT = os.urandom(300_000)


class DatabasesContract(_Case):
    def test_keys_are_copied_with_the_queue(self) -> None:
        keys = self.old.keys()
        keys.set("a", b"1").result()
        keys.set("b\0\ud7ff", b"2.0").result()
        keys.commit().result()
        keys.set("a", b"3").result()
        keys.set("a", b"4").result()
        keys.delete("b\0\ud7ff").result()

        done = self.migrate()

        copied = self.new.keys()
        self.assertEqual(0, done.status, done)
        self.assertIn("copied 2 keys, 0 drops, 0 locks", done.out)
        self.assertEqual((b"1", b"2.0", 3), (copied.get("a"), copied.get("b\0\ud7ff"), copied.queued))
        copied.commit().result()
        self.assertEqual((b"4", None), (copied.get("a"), copied.get("b\0\ud7ff")))

    def test_second_run_makes_the_keys_those_of_the_source(self) -> None:
        keys = self.old.keys()
        for name in ("changed", "deleted", "same"):
            keys.set(name, b"1").result()
        keys.commit().result()
        self.migrate()
        keys.set("changed", b"2").result()
        keys.delete("deleted").result()
        keys.set("added", b"1").result()
        keys.commit().result()

        self.migrate()

        copied = self.new.keys()
        values = [copied.get(each) for each in ("changed", "deleted", "same", "added")]
        self.assertEqual([b"2", None, b"1", b"1"], values)

    def test_target_that_was_served_from_is_refused_before_anything_is_copied(self) -> None:
        keys = self.old.keys()
        keys.set("a", b"1").result()
        keys.commit().result()
        self.migrate()
        served = self.new.keys()
        served.set("b", b"1").result()
        served.commit().result()
        self.old.disk.put(TEA)

        done = self.migrate()

        self.assertEqual(2, done.status)
        self.assertIn("the target has keys that no migration has copied there", done.errors)
        self.assertEqual(([], b"1"), (list(self.new.disk.list()), served.get("b")))

    def test_locks_keep_their_ids_and_later_ones_get_new_ids(self) -> None:
        locks = self.old.locks()
        first = locks.lock("pets", "a.bin", "ann").result().lock
        last = locks.lock("pets", "b.bin", "bob").result().lock
        locks.release("pets", last.id).result()

        self.migrate()

        copied = self.new.locks()
        self.assertEqual([first], list(copied.list("pets", 0, 10)))
        self.assertGreater(copied.lock("pets", "c.bin", "ann").result().lock.id, last.id)


class DropsContract(_Case):
    def setUp(self) -> None:
        super().setUp()
        self.drops = self.old.drops()

    def test_drop_is_copied_with_its_bytes_name_and_password(self) -> None:
        id_ = self.old.put_drop(self.drops, POT, "t\u00e9.txt", b"kept")
        before = self.drops.get(id_)

        done = self.migrate()

        self.assertEqual(0, done.status, done)
        self.assertIn("1 drops", done.out)
        self.assertEqual(before, self.new.drops().get(id_))
        with self.new.drop_bytes.get(id_) as stream:
            self.assertEqual(POT, stream.read())

    def test_drop_whose_bytes_are_missing_is_skipped(self) -> None:
        self.old.drop_bytes.remove(self.old.put_drop(self.drops, TEA))

        done = self.migrate("--json").document

        self.assertEqual((0, 1), (done["drops"], done["skipped_drops"]))

    def test_drop_that_is_gone_is_gone_at_the_target(self) -> None:
        id_ = self.old.put_drop(self.drops, TEA)
        self.drops.finish(self.drops.claim(id_).result()).result()

        self.migrate()

        with self.assertRaises(Gone):
            self.new.drops().get(id_)
        self.assertEqual({}, self.objects(self.new.root))

    def test_drop_that_was_fetched_between_two_runs_is_gone_with_its_bytes(self) -> None:
        id_ = self.old.put_drop(self.drops, TEA)
        other = self.old.put_drop(self.drops, TEA)
        self.migrate()
        self.drops.finish(self.drops.claim(id_).result()).result()

        self.migrate()

        drops = self.new.drops()
        with self.assertRaises(Gone):
            drops.get(id_)
        self.assertEqual(other, drops.get(other).id)
        self.assertEqual([other], list(self.new.drop_bytes.list()))

    def test_drop_that_the_new_daemon_gave_is_not_given_again(self) -> None:
        id_ = self.old.put_drop(self.drops, TEA)
        self.migrate()
        served = self.new.drops()
        served.finish(served.claim(id_).result()).result()

        done = self.migrate()

        self.assertEqual(2, done.status)
        self.assertIn("the target has drops that no migration has copied there", done.errors)
        with self.assertRaises(Gone):
            served.get(id_)

    def test_no_id_of_a_drop_is_printed_where_all_are_copied(self) -> None:
        id_ = self.old.put_drop(self.drops, TEA)

        done = self.migrate()

        self.assertNotIn(id_, done.out + done.errors)


def assert_only_the_claimed_one_is_copied(
    case: MigrationCase, skipped: dict[str, Any], claimed: str, arriving: str
) -> None:
    """After a run that skipped two drops of one process, which is dead now."""
    copied = case.migrate("--json").document

    case.assertEqual((0, 2), (skipped["drops"], skipped["skipped_drops"]))
    case.assertEqual((1, 0), (copied["drops"], copied["skipped_drops"]))
    drops = case.new.drops()
    case.assertEqual(claimed, drops.get(claimed).id)
    with case.assertRaises(NotFound):
        drops.get(arriving)
