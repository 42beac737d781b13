"""Group commit of a disk store: rounds, their one sync, failures of it, and disks where each change is alone."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import unittest
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.daemon.values import MAX_WORKERS
from filestoraged.errors import AlreadyExists, NotFound, StoreDetached, StoreUnavailable
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import SMALL
from filestoraged.store.disk.changes import Removal
from filestoraged.store.disk.committer import _END, JournalCommitter
from filestoraged.store.disk.epoch import LOCK_TIMEOUT, Checkpoint, EpochFile
from filestoraged.store.disk.journal import Journal, JournalSegment
from filestoraged.store.disk.records import BLOCK
from filestoraged.store.disk.shared_journal import SharedJournal
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.system import Linux
from tests.store import contract
from tests.store.contract import TEA, TEA_DIGEST
from tests.store.disk.journals import SMALL_SEGMENT, JournalCase
from tests.store.disk.systems import FULL, Disk, PlainLinux
from tests.support import PATIENCE, TempCase

FAILURE = OSError(errno.EIO, "Input/output error")

MEMORY = 32 * 1024 * 1024


class JournalContractTest(contract.StoreContract):
    def make_store(self, **settings: Any) -> DiskStore:
        return prepared(
            self, DiskStore(self.directory / "store", system=Disk(), segment_size=SMALL_SEGMENT, **settings)
        )


class PlainContractTest(contract.StoreContract):
    """Each change is synced alone."""

    def make_store(self, **settings: Any) -> DiskStore:
        return prepared(self, DiskStore(self.directory / "store", system=PlainLinux(), **settings))


def prepared(case: TempCase, store: DiskStore) -> DiskStore:
    case.addCleanup(store.close)
    store.prepare()
    return store


class WaitingThreadTest(JournalCase):
    def test_committer_that_waits_does_not_keep_the_changes_of_its_last_round(self) -> None:
        kept: list[bool] = []
        take = JournalCommitter._take

        def observe(committer: JournalCommitter) -> Any:
            kept.append(begun() is not None)
            return take(committer)

        self.store.put(TEA)
        self.hold()
        removal = Removal(f"{TEA_DIGEST[:2]}/{TEA_DIGEST}", self.store.volume.directories)
        begun, done = weakref.ref(removal), removal.done
        with mock.patch.object(JournalCommitter, "_take", observe):
            self.store.volume.commit(removal)
            del removal
            self.disk.go_on()
            done.result(PATIENCE)
            self.store.close()

        self.assertEqual([True, False], [kept[0], kept[-1]])


class RoundTest(JournalCase):
    def test_upload_is_recorded_and_synced_before_it_has_its_name_and_is_answered(self) -> None:
        seen: list[tuple[bool, bool, bool]] = []

        def look() -> None:
            (segment,) = self.segments()
            seen.append((TEA in segment.read_bytes(), self.path(TEA_DIGEST).exists(), done.done()))

        done: Future[Any] = Future()
        self.disk.before = look

        done = self.upload(TEA)
        done.result(PATIENCE)

        self.assertEqual([(True, False, False)], seen)
        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())

    def test_changes_that_wait_share_one_sync(self) -> None:
        removed = self.store.put(b"old")
        held = self.hold()
        waiting = [self.upload(b"%d" % number) for number in range(20)]
        removal = self.store.remove_later(removed)

        self.disk.go_on()
        futures: list[Future[Any]] = [held, *waiting, removal]
        for future in futures:
            future.result(PATIENCE)

        # The first upload, the held one, and all others.
        self.assertEqual(3, self.disk.syncs)
        self.assertFalse(self.path(removed).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))

    def test_no_change_syncs_its_own_file_or_directory(self) -> None:
        self.store.put(b"first")

        with mock.patch.object(self.disk, "fsync", side_effect=AssertionError):
            self.upload(TEA).result(PATIENCE)
            self.store.remove(TEA_DIGEST)

        self.assertEqual(0, self.disk.checkpoints)

    def test_removal_is_made_and_answered_behind_the_sync_of_its_record(self) -> None:
        digest = self.store.put(TEA)
        self.disk.hold()

        removal = self.store.remove_later(digest)
        self.assertTrue(self.disk.reached.wait(PATIENCE))
        early = removal.done(), self.path(digest).exists()
        self.disk.go_on()
        removal.result(PATIENCE)

        self.assertEqual((False, True), early)
        self.assertFalse(self.path(digest).exists())

    def test_removal_of_a_missing_object_is_recorded_too(self) -> None:
        self.assertIsInstance(self.store.remove_later(TEA_DIGEST).exception(PATIENCE), NotFound)

        self.assertEqual(1, self.disk.syncs)

    def test_object_that_exists_refuses_an_upload_without_replace_and_nothing_is_recorded(self) -> None:
        self.store.put(TEA)

        self.assertIsInstance(self.upload(TEA, replace=False).exception(PATIENCE), AlreadyExists)

        self.assertEqual(1, self.disk.syncs)
        self.assertEqual(MEMORY, self.store.volume.staging_memory._left)

    def test_object_that_another_upload_has_stored_meanwhile_refuses_one_without_replace(self) -> None:
        held = self.hold()
        refused = self.upload(TEA, replace=False)
        self.open_store(self.root, Disk()).put(TEA)

        self.disk.go_on()

        self.assertIsInstance(refused.exception(PATIENCE), AlreadyExists)
        self.assertIsNone(held.exception(PATIENCE))

    def test_large_upload_is_committed_by_its_thread_and_noted(self) -> None:
        done = self.upload(b"x" * (SMALL + 1))

        self.assertTrue(done.done())
        self.assertEqual(1, self.disk.syncs)
        # Its path, without its bytes.
        self.assertGreater(BLOCK, len(self.segments()[0].read_bytes().rstrip(b"\0")))

    def test_close_finishes_what_waits(self) -> None:
        held = self.hold()
        waiting = self.upload(TEA)

        closing = threading.Thread(target=self.store.close)
        closing.start()
        self.disk.go_on()
        closing.join(PATIENCE)

        self.assertTrue(held.done() and waiting.done())
        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())

    def test_uploads_of_the_same_bytes_are_all_answered_and_leave_one_file(self) -> None:
        held = self.hold()
        uploads = [self.upload(TEA) for _ in range(50)]

        self.disk.go_on()

        self.assertEqual([TEA_DIGEST] * 50, [each.result(PATIENCE) for each in uploads])
        self.assertIsNone(held.exception(PATIENCE))
        self.assertEqual(2, self.disk.syncs)
        self.assertEqual(2, len(self.files_below(self.root)))


class FailureTest(JournalCase):
    def assert_recovered(self, *data: bytes) -> None:
        """What is there, is there after a power cut that loses all files but the journals."""
        root = self.cut_power()
        names = self.recovered(root).list()
        self.assertEqual(sorted(data), sorted(self.path(name, root).read_bytes() for name in names))

    def test_failed_sync_fails_its_group_and_later_ones_are_in_another_segment(self) -> None:
        held = self.hold()
        waiting = [self.upload(b"%d" % number) for number in range(5)]

        self.disk.failures = [FAILURE]
        self.disk.go_on()

        self.assertIs(FAILURE, held.exception(PATIENCE))
        self.assertEqual([None] * 5, [future.exception(PATIENCE) for future in waiting])
        self.assertEqual(2, len(self.segments()))
        self.assertNotIn(b"held", [path.read_bytes() for path in self.root.glob("??/*")])
        self.assertEqual([], self.files_below(self.root / "staging"))
        # The bytes of the failed group may be on the disk: it is void.
        self.assert_recovered(*(b"%d" % number for number in range(5)))

    def test_failed_sync_of_two_uploads_of_the_same_bytes_leaves_nothing(self) -> None:
        held = self.hold()
        uploads = [self.upload(TEA) for _ in range(2)]
        syncs = iter([[], [FAILURE]])
        self.disk.before = lambda: self.disk.failures.extend(next(syncs, []))

        self.disk.go_on()

        self.assertEqual([FAILURE] * 2, [each.exception(PATIENCE) for each in uploads])
        self.assertIsNone(held.exception(PATIENCE))
        self.assertFalse(self.path(TEA_DIGEST).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))

    def test_group_whose_void_fails_too_is_void_by_the_next_group(self) -> None:
        self.disk.failures = [FAILURE, FAILURE]

        with self.assertLogs("filestoraged", "ERROR"):
            self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))
        self.upload(b"coffee").result(PATIENCE)

        self.assert_recovered(b"coffee")
        # As if neither the group nor its first void had reached the disk.
        root = self.cut_power()
        for segment in self.segments(root):
            if b"coffee" not in segment.read_bytes():
                segment.write_bytes(bytes(self.segment_size))
        self.assertEqual(1, len([*self.recovered(root).list()]))
        self.assertFalse(self.path(TEA_DIGEST, root).exists())

    def test_failed_sync_leaves_an_object_that_was_there(self) -> None:
        self.store.put(TEA)
        self.disk.failures = [FAILURE]

        self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))

        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())
        self.assert_recovered(TEA)

    def test_failed_sync_fails_a_removal_which_is_not_made(self) -> None:
        digest = self.store.put(TEA)
        self.disk.failures = [FAILURE]

        self.assertIs(FAILURE, self.store.remove_later(digest).exception(PATIENCE))

        self.assertEqual(TEA, self.path(digest).read_bytes())
        self.assert_recovered(TEA)
        self.store.remove(digest)

    def test_upload_that_cannot_be_named_fails_alone_and_is_void_after_a_replay(self) -> None:
        held = self.hold()
        rename = os.rename

        def refuse_one(source: str, target: str, **settings: Any) -> None:
            if target.endswith(TEA_DIGEST):
                raise OSError(errno.ENOSPC, "No space left on device")
            rename(source, target, **settings)

        refused, other = self.upload(TEA), self.upload(b"coffee")
        with mock.patch.object(self.disk, "rename", refuse_one):
            self.disk.go_on()
            error = refused.exception(PATIENCE)
            other.result(PATIENCE)

        assert isinstance(error, OSError)
        self.assertEqual(errno.ENOSPC, error.errno)
        self.assertIsNone(held.exception(PATIENCE))
        self.assertFalse(self.path(TEA_DIGEST).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))
        self.assert_recovered(b"held", b"coffee")

    def test_upload_that_cannot_be_written_fails_alone(self) -> None:
        held = self.hold()
        write = os.write

        def refuse_one(descriptor: int, data: bytes) -> int:
            if bytes(data) == TEA:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        refused, other = self.upload(TEA), self.upload(b"coffee")
        with mock.patch.object(self.disk, "write", refuse_one):
            self.disk.go_on()
            error = refused.exception(PATIENCE)
            other.result(PATIENCE)

        self.assertIsInstance(error, OSError)
        self.assertIsNone(held.exception(PATIENCE))
        self.assertEqual(MEMORY, self.store.volume.staging_memory._left)
        self.assert_recovered(b"held", b"coffee")

    def test_unexpected_error_does_not_end_the_thread(self) -> None:
        with (
            mock.patch.object(JournalCommitter, "_commit", side_effect=ZeroDivisionError),
            self.assertLogs("filestoraged"),
        ):
            self.assertIsInstance(self.upload(TEA).exception(PATIENCE), ZeroDivisionError)

        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))

    def test_change_without_a_thread_fails_and_leaves_nothing(self) -> None:
        with mock.patch.object(self.disk, "start_thread", return_value=None):
            error = self.upload(TEA).exception(PATIENCE)

        self.assertIsInstance(error, StoreUnavailable)
        self.assertEqual(MEMORY, self.store.volume.staging_memory._left)
        self.assertEqual([], self.files_below(self.root))

    def test_change_without_a_thread_for_checkpoints_fails_and_later_ones_succeed(self) -> None:
        start = Linux.start_thread
        refused = mock.Mock(side_effect=lambda run, name: None if name == "checkpoint" else start(run, name=name))
        with mock.patch.object(self.disk, "start_thread", refused):
            self.assertIsInstance(self.upload(TEA).exception(PATIENCE), StoreUnavailable)

        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))


class FullDiskTest(JournalCase):
    def assert_full(self) -> None:
        """Uploads are refused, and removals are made."""
        stored = self.path(TEA_DIGEST)
        stored.parent.mkdir(exist_ok=True)
        stored.write_bytes(TEA)
        synced = self.disk.checkpoints
        error = self.upload(b"coffee").exception(PATIENCE)

        self.assertIs(FULL, error)
        self.assertIsNone(self.store.remove_later(TEA_DIGEST).exception(PATIENCE))
        self.assertFalse(stored.exists())
        self.assertLess(synced, self.disk.checkpoints)
        self.assertEqual([], self.files_below(self.root))

    def test_disk_that_is_full_at_first(self) -> None:
        self.disk.is_full = True

        self.assert_full()

        self.disk.is_full = False
        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))

    def test_disk_that_becomes_full(self) -> None:
        self.store.remove(self.store.put(b"first"))
        self.disk.is_full = True

        with self.assertLogs("filestoraged", "ERROR"):
            self.assert_full()

        self.disk.is_full = False
        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))


class LostRootTest(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.away = self.directory / "away"
        self.stored = self.store.put(TEA)
        self.addCleanup(self.find)

    def lose(self) -> None:
        os.rename(self.root, self.away)

    def find(self) -> None:
        if self.away.exists():
            os.rename(self.away, self.root)

    def test_round_that_finds_the_root_lost_changes_nothing(self) -> None:
        with self.store.stage(6) as staging:
            staging.write(b"coffee")
            self.lose()
            futures: list[Future[Any]] = [staging.commit(), self.store.remove_later(self.stored)]

        errors = [future.exception(PATIENCE) for future in futures]

        self.assertEqual([StoreDetached] * 2, [type(each) for each in errors])
        self.assertEqual(1, self.disk.syncs)
        self.assertFalse(self.root.exists())
        self.find()
        self.assertEqual([f"{self.stored[:2]}/{self.stored}"], self.files_below(self.root))

    def test_root_that_is_lost_during_a_round_fails_its_changes_which_are_void(self) -> None:
        self.disk.before = lambda: None if self.away.exists() else self.lose()

        removal = self.store.remove_later(self.stored)

        self.assertIsInstance(removal.exception(PATIENCE), StoreDetached)
        self.assertFalse(self.root.exists())
        self.disk.before = lambda: None
        self.find()
        copy = self.cut_power()
        self.recovered(copy)
        self.assertEqual(TEA, self.path(self.stored, copy).read_bytes())


class LockedPathTest(JournalCase):
    def setUp(self) -> None:
        super().setUp()
        self.store.put(b"first")
        self.other = EpochFile(str(self.root), system=Linux())
        self.addCleanup(self.other.close)
        self.assertTrue(self.other.try_lock(f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"))

    def test_change_of_a_path_that_another_process_has_locked_waits_alone(self) -> None:
        waiting = self.upload(TEA)
        self.upload(b"coffee").result(PATIENCE)
        early = waiting.done()

        self.other.close()

        self.assertFalse(early)
        self.assertEqual(TEA_DIGEST, waiting.result(PATIENCE))

    def test_change_of_a_path_that_stays_locked_fails(self) -> None:
        waiting = self.upload(TEA)
        self.upload(b"coffee").result(PATIENCE)

        self.disk.ahead = LOCK_TIMEOUT + 1

        self.assertIsInstance(waiting.exception(PATIENCE), StoreUnavailable)
        self.assertFalse(self.path(TEA_DIGEST).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))

    def test_large_upload_to_a_path_that_stays_locked_fails(self) -> None:
        pause = lambda _: setattr(self.disk, "ahead", self.disk.ahead + LOCK_TIMEOUT)  # noqa: E731

        with mock.patch.object(self.disk, "sleep", pause):
            done = self.upload(bytes(SMALL + 1), name=TEA_DIGEST)

        self.assertIsInstance(done.exception(PATIENCE), StoreUnavailable)
        self.assertFalse(self.path(TEA_DIGEST).exists())

    def test_path_is_unlocked_behind_its_change(self) -> None:
        self.other.close()
        self.upload(TEA).result(PATIENCE)
        self.upload(b"coffee").result(PATIENCE)

        other = EpochFile(str(self.root), system=Linux())
        self.addCleanup(other.close)
        self.assertTrue(other.try_lock(f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"))


class CheckpointTest(JournalCase):
    # Two groups of one small object.
    segment_size = 2 * BLOCK

    def inode(self, digest: str, root: Path | None = None) -> int:
        """Of a file that stays open: another one has another number."""
        descriptor = os.open(self.path(digest, root), os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        return os.fstat(descriptor).st_ino

    def test_checkpoint_has_the_marks_of_twice_as_many_processes_as_workers_are_allowed(self) -> None:
        file = EpochFile(str(self.directory), system=Linux())
        self.addCleanup(file.close)
        epoch = file.join(lambda _: None)
        file.begin_marks(f"{0:016x}", 0)
        checkpoint = Checkpoint(1, {f"{number:016x}": number for number in range(2 * MAX_WORKERS + 100)})

        file.save(checkpoint, epoch)

        self.assertEqual([checkpoint], file.checkpoints(epoch))

    def test_segments_are_written_again_behind_checkpoints(self) -> None:
        digests = [self.store.put(b"%d" % number) for number in range(30)]

        self.assertLessEqual(len(self.segments()), 4)
        self.assertLessEqual({path.name for path in self.segments()}, {f"journal.{number}" for number in range(4)})
        self.assertEqual({self.segment_size}, {path.stat().st_size for path in self.segments()})
        self.assertLess(0, self.disk.checkpoints)
        root = self.cut_power()
        self.recovered(root)
        self.assertEqual(sorted(digests), sorted(path.name for path in root.glob("??/*")))

    def test_segment_is_not_written_again_before_its_checkpoint(self) -> None:
        reached, is_open = threading.Event(), threading.Event()
        self.addCleanup(is_open.set)

        def wait() -> None:
            reached.set()
            is_open.wait(PATIENCE)

        self.disk.before_checkpoint = wait
        # Four segments, the last of which is not full.
        digests = [self.store.put(b"%d" % number) for number in range(7)]
        self.assertTrue(reached.wait(PATIENCE))
        last = [self.upload(b"a"), self.upload(b"b"), self.upload(b"c")]
        last[0].result(PATIENCE)
        root = self.cut_power()
        for digest in digests:
            os.truncate(self.path(digest, root), 0)

        is_open.set()
        for each in last:
            each.result(PATIENCE)
        self.recovered(root)

        self.assertEqual([b"%d" % number for number in range(7)], [self.path(d, root).read_bytes() for d in digests])

    def test_failed_checkpoint_makes_files_anew(self) -> None:
        digest = self.store.put(TEA)
        before = self.inode(digest)
        self.disk.checkpoint_failures = [FAILURE]

        with self.assertLogs("filestoraged", "ERROR"):
            self.checkpoint()

        self.assertEqual(TEA, self.path(digest).read_bytes())
        self.assertNotEqual(before, self.inode(digest))

    def test_checkpoints_behind_a_failed_one_make_files_anew_that_it_did_not_cover(self) -> None:
        """Their bytes may have been written, and lost, before they were recorded."""
        covered = self.store.put(TEA)
        self.disk.checkpoint_failures = [FAILURE]
        with self.assertLogs("filestoraged", "ERROR"):
            self.checkpoint()

        for store in (self.store, self.open_store(self.root, Disk())):
            digest = store.put(f"{id(store)}".encode())
            before = [self.inode(covered), self.inode(digest)]
            self.checkpoint(store)
            self.assertEqual(before[0], self.inode(covered))
            self.assertNotEqual(before[1], self.inode(digest))

    def test_process_that_starts_while_another_one_syncs_makes_files_anew_once(self) -> None:
        self.disk.before_checkpoint = lambda: others.append(self.open_store(self.root, Disk()))
        others: list[DiskStore] = []
        self.store.put(TEA)
        self.checkpoint()
        (other,) = others

        stays = []
        for data in (b"first", b"second"):
            digest = other.put(data)
            before = self.inode(digest)
            self.checkpoint(other)
            stays.append(self.inode(digest) == before)

        self.assertEqual([False, True], stays)

    def test_failed_checkpoint_does_not_bring_back_what_was_removed(self) -> None:
        self.store.remove(self.store.put(TEA))
        self.disk.checkpoint_failures = [FAILURE]

        with self.assertLogs("filestoraged", "ERROR"):
            self.checkpoint()

        self.assertEqual([], self.files_below(self.root))

    def test_failed_checkpoint_does_not_bring_back_what_was_removed_without_a_record(self) -> None:
        self.path(self.store.put(TEA)).unlink()
        self.disk.checkpoint_failures = [FAILURE]

        with self.assertLogs("filestoraged", "ERROR"):
            self.checkpoint()

        self.assertEqual([], self.files_below(self.root))

    def refusing_marks(self) -> contextlib.AbstractContextManager[object]:
        pwrite = self.disk.pwrite

        def refuse_marks(descriptor: int, data: Any, position: int) -> int:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(self.root / "journal") and len(data) == 16:
                raise FAILURE
            return pwrite(descriptor, data, position)

        return mock.patch.object(self.disk, "pwrite", refuse_marks)

    def test_path_of_a_change_that_is_not_marked_stays_locked(self) -> None:
        """Else a checkpoint could cover what another process does with the object next, and not the removal."""
        digest = self.store.put(TEA)
        other = EpochFile(str(self.root), system=Linux())
        self.addCleanup(other.close)

        with self.refusing_marks():
            self.store.remove(digest)
            was_free = other.try_lock(layout.object_path(digest))
        self.store.put(b"coffee")
        # Its round has ended when the next one has begun.
        self.store.put(b"more")

        self.assertFalse(was_free)
        self.assertTrue(other.try_lock(layout.object_path(digest)))

    def test_segment_whose_records_are_not_marked_as_applied_is_not_written_again(self) -> None:
        digests = [self.store.put(b"0")]

        with self.refusing_marks():
            digests += [self.store.put(b"%d" % number) for number in range(1, 8)]
            self.assertIsInstance(self.upload(TEA).exception(PATIENCE), StoreUnavailable)
        root = self.cut_power()
        for digest in digests:
            os.truncate(self.path(digest, root), 0)
        self.recovered(root)

        # A checkpoint covers the first one, which is marked.
        self.assertEqual([0] + [1] * 7, [self.path(digest, root).stat().st_size for digest in digests])

    def test_checkpoint_that_fails_twice_covers_nothing_and_a_later_one_makes_files_anew(self) -> None:
        digest = self.store.put(TEA)
        before = self.inode(digest)
        self.disk.checkpoint_failures = [FAILURE, FAILURE]

        with self.assertLogs("filestoraged", "ERROR"):
            self.assertRaises(OSError, self.checkpoint)
        failed = self.inode(digest)
        root = self.cut_power()
        os.truncate(self.path(digest, root), 0)
        self.recovered(root)
        self.checkpoint()

        self.assertEqual(TEA, self.path(digest, root).read_bytes())
        self.assertEqual(3, len({before, failed, self.inode(digest)}))

    def test_process_that_dies_behind_a_failed_checkpoint_leaves_its_files_to_be_made_anew(self) -> None:
        digest = self.store.put(TEA)
        self.disk.checkpoint_failures = [FAILURE, FAILURE]
        with self.assertLogs("filestoraged", "ERROR"):
            self.assertRaises(OSError, self.checkpoint)
        root = self.cut_power()
        # The bytes are read as they should be, from memory.
        before = self.inode(digest, root)

        self.recovered(root)

        self.assertNotEqual(before, self.inode(digest, root))

    def test_whole_file_of_a_process_that_dies_is_not_made_anew(self) -> None:
        self.store.put(TEA)
        self.checkpoint()
        digest = self.store.put(b"coffee")
        root = self.cut_power()
        before = self.inode(digest, root)

        self.recovered(root)

        self.assertEqual(before, self.inode(digest, root))

    def test_checkpoint_that_cannot_be_put_in_doubt_syncs_nothing(self) -> None:
        self.store.put(TEA)

        with mock.patch.object(EpochFile, "begin_doubt", side_effect=FAILURE):
            self.assertRaises(OSError, self.checkpoint)

        self.assertEqual(0, self.disk.checkpoints)

    def test_uploads_are_refused_when_all_segments_are_full_and_checkpoints_fail(self) -> None:
        self.disk.before_checkpoint = mock.Mock(side_effect=FAILURE)

        with self.assertLogs("filestoraged", "ERROR"):
            errors = [self.upload(b"%d" % number).exception(PATIENCE) for number in range(12)]
            stored = self.store.list()
            self.disk.before_checkpoint = lambda: None
            self.wait_until("a checkpoint succeeds", lambda: self.upload(TEA).exception(PATIENCE) is None)

        self.assertEqual([None] * 8, errors[:8])
        self.assertEqual({StoreUnavailable}, {type(error) for error in errors[8:]})
        self.assertEqual(8, len(stored))

    def test_close_removes_the_journal(self) -> None:
        self.store.put(TEA)
        self.assertEqual(1, len(self.segments()))

        self.store.close()

        self.assertEqual(1, self.disk.checkpoints)
        self.assertEqual([], os.listdir(self.root / "staging"))

    def test_close_leaves_the_journal_if_its_checkpoint_fails(self) -> None:
        self.store.put(TEA)
        self.disk.before_checkpoint = mock.Mock(side_effect=FAILURE)

        with self.assertLogs("filestoraged"):
            self.store.close()
        root = self.cut_power()
        os.truncate(self.path(TEA_DIGEST, root), 0)
        self.recovered(root)

        self.assertEqual(TEA, self.path(TEA_DIGEST, root).read_bytes())

    def test_closed_store_begins_a_journal_anew(self) -> None:
        self.store.put(TEA)
        self.store.close()

        self.store.put(b"coffee")

        self.assertEqual(1, len(self.segments()))


class FullJournalTest(unittest.TestCase):
    def test_broken_segment_that_is_covered_refuses_those_who_wait_for_the_others(self) -> None:
        system, shared = Linux(), mock.create_autospec(SharedJournal, instance=True)
        shared.checkpoint.return_value = 10
        committer = JournalCommitter(shared, lambda: None, size=BLOCK, system=system)
        committer._journal = journal = mock.create_autospec(Journal, instance=True)
        broken, full = (JournalSegment(f"journal.{n}", -1, system.queue(), size=BLOCK, system=system) for n in (0, 1))
        broken.is_broken, full.time = True, 11
        for each in (full, broken, _END):
            committer._full.put(each)

        committer._run_checkpoints()

        self.assertIs(broken, broken.free.get(block=False))
        # At the end, to be closed.
        self.assertIs(full, full.free.get(block=False))
        # For the first, and for the two.
        self.assertEqual(2, journal.refuse.call_count)


class PlainTest(TempCase):
    """Without a journal."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.system = PlainLinux()
        self.store = prepared(self, DiskStore(self.root, system=self.system))

    def upload(self, data: bytes) -> Future[Any]:
        with self.store.stage(len(data)) as staging:
            staging.write(data)
            return staging.commit()

    def path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest

    def test_upload_is_synced_named_and_synced_before_it_is_answered(self) -> None:
        seen: list[tuple[bool, bool, bool]] = []
        real = os.fsync

        def sync(descriptor: int) -> None:
            is_bytes = not os.path.isdir(f"/proc/self/fd/{descriptor}")
            seen.append((is_bytes, self.path(TEA_DIGEST).exists(), done.done()))
            real(descriptor)

        done: Future[Any] = Future()
        with mock.patch.object(self.system, "fsync", sync):
            done = self.upload(TEA)
            done.result(PATIENCE)

        self.assertEqual((True, False, False), next(each for each in seen if each[0]))
        self.assertEqual((False, True, False), seen[-1])
        self.assertEqual([], [*self.root.glob("staging/*/journal*")])

    def test_several_changes_are_made_at_the_same_time(self) -> None:
        both = threading.Barrier(2)
        real = os.fsync

        def meet(descriptor: int) -> None:
            if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
                both.wait(PATIENCE)
            real(descriptor)

        with mock.patch.object(self.system, "fsync", meet):
            uploads = [self.upload(TEA), self.upload(b"coffee")]
            for each in uploads:
                each.result(PATIENCE)

    def test_failed_sync_of_the_name_takes_it_back(self) -> None:
        real = os.fsync

        def refuse(descriptor: int) -> None:
            if self.path(TEA_DIGEST).exists():
                raise FAILURE
            real(descriptor)

        with mock.patch.object(self.system, "fsync", refuse):
            self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))

        self.assertEqual([], self.files_below(self.root))
        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))

    def test_failed_sync_of_the_name_leaves_an_object_that_was_there(self) -> None:
        self.store.put(TEA)
        real = os.fsync

        def refuse(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(self.path(TEA_DIGEST).parent):
                raise FAILURE
            real(descriptor)

        with mock.patch.object(self.system, "fsync", refuse):
            self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))

        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())

    def test_sync_that_succeeds_on_a_failed_file_system_fails_the_change(self) -> None:
        stored = self.store.put(b"stored")

        with mock.patch.object(self.system, "removexattr", side_effect=FAILURE):
            self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))
            self.assertIs(FAILURE, self.upload(bytes(SMALL + 1)).exception(PATIENCE))
            self.assertIs(FAILURE, self.store.remove_later(stored).exception(PATIENCE))

        self.assertEqual([], self.files_below(self.root))

    def test_error_of_a_change_during_which_the_root_is_lost_is_that_loss(self) -> None:
        """On the way of a name to the disk: the directory above the shard is missing when it is synced."""
        away = self.directory / "away"
        real = os.fsync

        def lose(descriptor: int) -> None:
            real(descriptor)
            if self.path(TEA_DIGEST).exists():
                os.rename(self.root, away)

        with mock.patch.object(self.system, "fsync", lose):
            self.assertIsInstance(self.upload(TEA).exception(PATIENCE), StoreDetached)

        self.assertFalse(self.root.exists())

    def test_change_without_a_thread_fails_and_leaves_nothing(self) -> None:
        with mock.patch.object(self.system, "start_thread", return_value=None):
            error = self.upload(TEA).exception(PATIENCE)

        self.assertIsInstance(error, StoreUnavailable)
        self.assertEqual(MEMORY, self.store.volume.staging_memory._left)
        self.assertEqual([], self.files_below(self.root))

    def test_thread_that_cannot_be_started_leaves_the_changes_to_others(self) -> None:
        self.upload(TEA).result(PATIENCE)

        with mock.patch.object(self.system, "start_thread", return_value=None):
            uploads = [self.upload(b"%d" % number) for number in range(5)]

            for each in uploads:
                each.result(PATIENCE)


class MemoryTest(JournalCase):
    def test_staging_beyond_the_memory_of_all_is_a_file(self) -> None:
        self.store.volume.staging_memory.reserve(MEMORY - 2)

        with self.store.stage(len(TEA)) as staging:
            staging.write(TEA)
            self.assertEqual(1, len(self.files_below(self.root / "staging")))
            staging.commit().result(PATIENCE)

        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())
        self.assertEqual(2, self.store.volume.staging_memory._left)

    def test_memory_of_a_declared_size_is_reserved_before_its_bytes_come(self) -> None:
        with self.store.stage(1000) as staging:
            reserved = MEMORY - self.store.volume.staging_memory._left
            staging.write(TEA)

        self.assertEqual(1000, reserved)

    def test_memory_is_released_by_a_discarded_staging(self) -> None:
        with self.store.stage(len(TEA)) as staging:
            staging.write(TEA)

        self.assertEqual(MEMORY, self.store.volume.staging_memory._left)

    def test_memory_is_released_by_a_staging_that_becomes_large(self) -> None:
        with self.store.stage() as staging:
            for _ in range(3):
                staging.write(bytes(SMALL // 2))
            self.assertEqual(MEMORY, self.store.volume.staging_memory._left)
            staging.commit().result(PATIENCE)
