"""Replay: a store whose machine lost its power has what its journals say, and nothing that was not recorded."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.errors import JournalDamaged, NotFound
from filestoraged.store.contract import SMALL
from filestoraged.store.disk.epoch import Epoch
from filestoraged.store.disk.records import BLOCK
from filestoraged.store.disk.replay import JournalFiles, read_journals
from filestoraged.store.system import Linux
from tests.store.contract import TEA, TEA_DIGEST
from tests.store.disk.journals import JournalCase
from tests.store.disk.systems import Disk
from tests.support import PATIENCE

NAME = "ab" * 32


# Arguments: the root, a name, and whether the object gets it.
DYING = """
import os, sys
from tests.store.disk.systems import Disk
from filestoraged.store.disk.store import DiskStore

_, root, name, is_applied = sys.argv
disk = Disk()
if is_applied != "True":
    disk.rename = lambda *_, **__: os._exit(0)
store = DiskStore(root, segment_size=65536, system=disk)
store.prepare()
with store.stage(3) as staging:
    staging.write(b"tea")
    staging.commit(name=name).result()
os._exit(0)
"""


def lose(path: Path) -> None:
    """As the kernel has not written the bytes of a file, but its name."""
    os.truncate(path, 0)


def overwrite(path: Path, position: int) -> None:
    """Damage a block."""
    with open(path, "r+b") as stream:
        stream.seek(position)
        stream.write(b"?" * 100)


class ReplayTest(JournalCase):
    def test_objects_whose_bytes_were_lost_are_whole(self) -> None:
        digests = [self.store.put(data) for data in (TEA, b"coffee", b"", bytes(SMALL))]
        root = self.cut_power()
        for digest in digests:
            lose(self.path(digest, root))

        store = self.recovered(root)

        self.assertEqual([TEA, b"coffee", b"", bytes(SMALL)], [self.read(store, each) for each in digests])

    def test_objects_whose_names_were_lost_are_there(self) -> None:
        pets = self.store.namespace("repositories").namespace("pets")
        self.store.put(TEA)
        pets.put(b"coffee")
        root = self.cut_power()
        shutil.rmtree(root / TEA_DIGEST[:2])
        shutil.rmtree(root / "repositories")

        store = self.recovered(root)

        self.assertEqual(TEA, self.read(store, TEA_DIGEST))
        copied = store.namespace("repositories").namespace("pets")
        self.assertEqual([b"coffee"], [self.read(copied, name) for name in copied.list()])

    def test_repository_of_restic_is_as_it_was_answered(self) -> None:
        laptop = self.store.namespace("restic/laptop")
        laptop.put(TEA, name="config")
        digests = {name: laptop.namespace(name).put(b"coffee") for name in ("data", "index", "locks")}
        laptop.namespace("locks").remove(digests.pop("locks"))
        root = self.cut_power()
        shutil.rmtree(root / "restic" / "laptop")
        (root / "restic" / "laptop" / "index").mkdir(parents=True)
        (root / "restic" / "laptop" / "index" / digests["index"]).touch()

        store = self.recovered(root).namespace("restic/laptop")

        self.assertEqual(TEA, self.read(store, "config"))
        self.assertEqual([b"coffee"] * 2, [self.read(store.namespace(name), digests[name]) for name in digests])
        self.assertEqual([], list(store.namespace("locks").list()))

    def test_removals_are_made_again(self) -> None:
        self.store.put(TEA)
        self.store.remove(TEA_DIGEST)
        root = self.cut_power()
        self.path(TEA_DIGEST, root).parent.mkdir(exist_ok=True)
        self.path(TEA_DIGEST, root).write_bytes(TEA)

        store = self.recovered(root)

        self.assertRaises(NotFound, store.open, TEA_DIGEST)

    def test_last_record_of_an_object_counts(self) -> None:
        self.upload(TEA, name=NAME).result()
        self.store.remove(NAME)
        self.upload(b"coffee", name=NAME).result()
        root = self.cut_power()
        lose(self.path(NAME, root))

        self.assertEqual(b"coffee", self.read(self.recovered(root), NAME))

    def test_last_record_of_two_processes_counts(self) -> None:
        other = self.open_store(self.root, Disk())
        for store, data in ((self.store, b"1"), (other, b"2"), (self.store, b"3"), (other, b"4")):
            with store.stage(1) as staging:
                staging.write(data)
                staging.commit(name=NAME).result()
        root = self.cut_power()
        lose(self.path(NAME, root))

        self.assertEqual(b"4", self.read(self.recovered(root), NAME))

    def test_object_that_a_large_upload_replaced_is_left_alone(self) -> None:
        large = bytes(SMALL + 1)
        self.upload(TEA, name=NAME).result()
        self.upload(large, name=NAME).result()

        self.assertEqual(large, self.read(self.recovered(self.cut_power()), NAME))

    def test_object_that_is_covered_by_a_checkpoint_is_left_alone(self) -> None:
        covered, other = self.store.put(TEA), b"coffee"
        self.checkpoint()
        digest = self.store.put(other)
        root = self.cut_power()
        lose(self.path(covered, root))
        lose(self.path(digest, root))

        store = self.recovered(root)

        self.assertEqual([b"", other], [self.read(store, each) for each in (covered, digest)])

    def test_files_that_are_whole_are_not_made_anew(self) -> None:
        self.store.put(TEA)
        root = self.cut_power()
        before = os.stat(self.path(TEA_DIGEST, root))

        self.recovered(root)

        self.assertEqual(before.st_ino, os.stat(self.path(TEA_DIGEST, root)).st_ino)

    def test_journals_of_an_earlier_epoch_say_nothing(self) -> None:
        self.store.put(TEA)
        root = self.cut_power()
        self.recovered(root).close()
        lose(self.path(TEA_DIGEST, root))

        self.assertEqual(b"", self.read(self.recovered(root), TEA_DIGEST))

    def test_journals_of_an_epoch_whose_processes_live_are_not_replayed(self) -> None:
        self.store.put(TEA)
        lose(self.path(TEA_DIGEST))

        self.assertEqual(b"", self.read(self.open_store(self.root, Disk()), TEA_DIGEST))

    def test_replay_whose_sync_fails_is_repeated_with_all_files_made_anew(self) -> None:
        self.store.put(TEA)
        root = self.cut_power()
        lose(self.path(TEA_DIGEST, root))
        disk = Disk()
        disk.checkpoint_failures = [OSError(errno.EIO, "Input/output error")]
        self.assertRaises(OSError, self.open_store, root, disk)
        before = os.stat(self.path(TEA_DIGEST, root)).st_ino

        # To be certain that another file has another number.
        kept = os.open(self.path(TEA_DIGEST, root), os.O_RDONLY)
        self.addCleanup(os.close, kept)
        store = self.recovered(root)

        self.assertEqual(TEA, self.read(store, TEA_DIGEST))
        self.assertNotEqual(before, os.stat(self.path(TEA_DIGEST, root)).st_ino)

    def test_uploads_of_drops_are_not_in_the_journal(self) -> None:
        drops = self.store.namespace("drops")
        self.store.put(TEA)
        drops.put(b"a secret")

        contents = b"".join(path.read_bytes() for path in self.segments())

        self.assertIn(TEA, contents)
        self.assertNotIn(b"secret", contents)


class ProcessesTest(JournalCase):
    """Processes of one epoch, of which one dies or stands still behind its record."""

    def setUp(self) -> None:
        super().setUp()
        self.store.put(b"first")

    def die(self, *, is_applied: bool) -> None:
        """A process stores an object, and is killed."""
        subprocess.run([sys.executable, "-c", DYING, self.root, NAME, str(is_applied)], check=True)

    def recovered_object(self) -> bytes:
        root = self.cut_power()
        lose(self.path(NAME, root))
        return self.read(self.recovered(root), NAME)

    def test_object_of_a_process_that_died_is_whole(self) -> None:
        self.die(is_applied=True)

        self.assertEqual(TEA, self.recovered_object())

    def test_checkpoint_covers_the_objects_of_a_process_that_died(self) -> None:
        self.die(is_applied=True)
        self.checkpoint()

        self.assertEqual(b"", self.recovered_object())

    def test_record_that_a_dead_process_has_not_applied_undoes_nothing_that_others_did_later(self) -> None:
        self.die(is_applied=False)
        self.upload(b"coffee", name=NAME).result()
        self.checkpoint()

        self.assertEqual([b"coffee"], [self.read(self.recovered(self.cut_power()), NAME)])

    def test_checkpoint_does_not_cover_what_another_process_has_not_applied(self) -> None:
        disk = Disk()
        reached, is_open = threading.Event(), threading.Event()
        self.addCleanup(is_open.set)
        other = self.open_store(self.root, disk)
        rename = os.rename

        def wait(*names: str, **settings: Any) -> None:
            reached.set()
            is_open.wait(PATIENCE)
            rename(*names, **settings)

        with mock.patch.object(disk, "rename", wait), other.stage(len(TEA)) as staging:
            staging.write(TEA)
            done = staging.commit(name=NAME)
            self.assertTrue(reached.wait(PATIENCE))
            self.checkpoint()
            root = self.cut_power()
            is_open.set()
            done.result(PATIENCE)

        self.assertEqual(TEA, self.read(self.recovered(root), NAME))

    def test_journal_that_another_process_removes_meanwhile_says_nothing(self) -> None:
        gone = JournalFiles("0" * 16, [str(self.root / "staging" / "0000000000000000" / "journal.0")])

        records = read_journals([gone], Epoch(1, bytes(32)), list, system=Linux(), are_written=True)

        self.assertEqual({}, records)


class DamageTest(JournalCase):
    """Each upload is a group, which takes a block of the only segment."""

    def setUp(self) -> None:
        super().setUp()
        self.digests = [self.store.put(b"%d" % number) for number in range(4)]
        self.copy = self.cut_power()
        (self.segment,) = self.segments(self.copy)
        for digest in self.digests:
            lose(self.path(digest, self.copy))

    def test_torn_end_is_the_end(self) -> None:
        overwrite(self.segment, 3 * BLOCK + 60)

        self.recovered(self.copy)

        sizes = [self.path(digest, self.copy).stat().st_size for digest in self.digests]
        self.assertEqual([1, 1, 1, 0], sizes)

    def test_damage_before_the_end_keeps_the_store_from_starting(self) -> None:
        for number in (0, 1, 2):
            with self.subTest(number=number):
                whole = self.segment.read_bytes()
                overwrite(self.segment, number * BLOCK + 60)
                with self.assertRaises(JournalDamaged) as raised:
                    self.recovered(self.copy)
                self.assertIn(str(self.segment), raised.exception.cause)
                self.assertEqual(0, self.path(self.digests[3], self.copy).stat().st_size)
                self.segment.write_bytes(whole)

        self.recovered(self.copy)

    def test_damage_that_a_checkpoint_covers_does_not_matter(self) -> None:
        self.checkpoint()
        self.store.put(TEA)
        root = self.cut_power()
        (segment,) = self.segments(root)
        for number in range(4):
            overwrite(segment, number * BLOCK + 60)
        lose(self.path(TEA_DIGEST, root))

        self.recovered(root)

        self.assertEqual(TEA, self.path(TEA_DIGEST, root).read_bytes())

    def test_damaged_or_missing_epoch_keeps_a_store_with_records_from_starting(self) -> None:
        shared = self.copy / "journal"
        for number in range(2):
            overwrite(shared, number * BLOCK)

        self.assertRaises(JournalDamaged, self.recovered, self.copy)
        shared.unlink()
        self.assertRaises(JournalDamaged, self.recovered, self.copy)

    def test_missing_epoch_without_records_begins_another(self) -> None:
        self.segment.write_bytes(bytes(SMALL))
        (self.copy / "journal").unlink()

        self.recovered(self.copy).put(TEA)

    def test_damaged_checkpoint_makes_nothing_superfluous(self) -> None:
        self.checkpoint()
        root = self.cut_power()
        for digest in self.digests:
            lose(self.path(digest, root))
        shared = root / "journal"
        # Behind both epochs and the mark of its only slot: two places.
        for place in (3, 13):
            overwrite(shared, place * BLOCK + 20)

        self.recovered(root)

        self.assertEqual([1] * 4, [self.path(digest, root).stat().st_size for digest in self.digests])


class SweepTest(JournalCase):
    def test_journal_of_a_dead_process_is_removed_behind_a_checkpoint(self) -> None:
        self.store.put(TEA)
        root = self.cut_power()
        disk = Disk()
        store = self.open_store(root, disk)
        synced = disk.checkpoints
        seen: list[int] = []
        disk.before_checkpoint = lambda: seen.append(len(self.segments(root)))

        store.sweep()

        self.assertEqual(synced + 1, disk.checkpoints)
        self.assertEqual([1], seen)
        self.assertEqual([], self.segments(root))

    def test_journal_stays_if_the_checkpoint_fails(self) -> None:
        self.store.put(TEA)
        root = self.cut_power()
        disk = Disk()
        store = self.open_store(root, disk)
        disk.checkpoint_failures = [OSError(errno.EIO, "Input/output error") for _ in range(2)]

        with self.assertLogs("filestoraged", "ERROR"):
            self.assertRaises(OSError, store.sweep)

        self.assertEqual(1, len(self.segments(root)))

    def test_journal_of_a_living_process_stays(self) -> None:
        self.store.put(TEA)

        self.open_store(self.root, Disk()).sweep()

        self.assertEqual(1, len(self.segments()))

    def test_sweep_without_journals_makes_no_checkpoint(self) -> None:
        self.store.sweep()

        self.assertEqual(0, self.disk.checkpoints)


class RemovedAreaTest(JournalCase):
    """An operator has removed the staging area of a living process, and its journal with it."""

    def test_objects_that_only_the_removed_journal_had_are_synced_before_the_next_answer(self) -> None:
        before = self.upload(TEA).result(PATIENCE)
        shutil.rmtree(self.root / "staging")

        after = self.upload(b"after").result(PATIENCE)

        self.assertEqual(1, self.disk.checkpoints)
        self.assertEqual([TEA, b"after"], [self.read(self.store, name) for name in (before, after)])

    def test_removal_makes_another_journal(self) -> None:
        digest = self.upload(TEA).result(PATIENCE)
        shutil.rmtree(self.root / "staging")

        self.store.remove(digest)

        self.assertEqual(1, len(self.segments()))


class SeveralSegmentsTest(JournalCase):
    def test_message_names_the_segment_that_is_damaged(self) -> None:
        self.disk.before_checkpoint = mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        with self.assertLogs("filestoraged", "ERROR"):
            for number in range(8):
                self.upload(bytes([number]) * 60_000).result(PATIENCE)
            copy = self.cut_power()
            self.store.volume.close()
        first, second = self.segments(copy)
        with second.open("r+b") as stream:
            stream.seek(70_000)
            stream.write(b"!")

        with self.assertRaises(JournalDamaged) as damaged:
            self.recovered(copy)

        self.assertEqual(str(second), damaged.exception.path)
        self.assertTrue(first.exists())
