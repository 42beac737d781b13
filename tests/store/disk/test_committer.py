"""Group commit of a disk store: rounds, their one sync, failures of it, and file systems where each change is alone."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.digest import Digest
from filestoraged.errors import AlreadyExists, NotFound, StoreDetached, StoreUnavailable
from filestoraged.future import Future
from filestoraged.store.disk.changes import Removal
from filestoraged.store.disk.committer import Change, Committer
from filestoraged.store.disk.small_blobs import SMALL
from filestoraged.store.disk.staging import DiskStaging
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.disk.sync_choice import SyncChoice
from filestoraged.store.system import Linux
from tests.store import contract
from tests.store.contract import TEA, TEA_DIGEST
from tests.support import PATIENCE, TempCase

FAILURE = OSError(errno.EIO, "Input/output error")


class FakeFileSystem:
    """Counts its syncs. A test may hold them back, look at the store before each, or let the next one fail."""

    def __init__(self) -> None:
        self.is_busy = False
        self.syncs = 0
        self.failures: list[OSError] = []
        # Of the checks behind syncs.
        self.faults: list[OSError] = []
        self.before: Callable[[], None] = lambda: None
        self.is_open = threading.Event()
        self.is_open.set()

    def sync(self) -> None:
        self.is_open.wait(PATIENCE)
        self.before()
        self.syncs += 1
        if self.failures:
            raise self.failures.pop()

    def check(self) -> None:
        if self.faults:
            raise self.faults.pop()

    def close(self) -> None:
        pass


class AlwaysTogether(SyncChoice):
    def is_together(self, count: int) -> bool:
        return True


class LaterStaging(DiskStaging):
    """Commits later, and waits."""

    def commit(self, *, name: str | None = None) -> Digest:
        return self.commit_later(name=name).result(PATIENCE)

    def commit_new(self, *, name: str | None = None) -> Digest:
        return self.commit_new_later(name=name).result(PATIENCE)


class LaterStore(DiskStore):
    """Makes all changes in groups."""

    def stage(self, size: int | None = None, **settings: Any) -> LaterStaging:
        return LaterStaging(self, size, settings.get("expected", ()), volume=self.volume, root=self.root)

    def remove(self, name: str) -> None:
        self.remove_later(name).result(PATIENCE)

    def namespace(self, name: str, *, algorithm: str | None = None) -> LaterStore:
        root = os.path.join(self.root, name)
        return LaterStore(root, algorithm=algorithm or self.algorithm, max_size=self.max_size, within=self)


class GroupedContractTest(contract.StoreContract):
    def make_store(self, **settings: Any) -> DiskStore:
        store = LaterStore(self.directory / "store", **settings)
        store.volume.committer = Committer(FakeFileSystem(), store.volume.check_changes, AlwaysTogether())
        self.addCleanup(store.close)
        return store


class BusyFileSystemContractTest(contract.StoreContract):
    """Each change is synced apart."""

    def make_store(self, **settings: Any) -> DiskStore:
        store = LaterStore(self.directory / "store", **settings)
        busy = FakeFileSystem()
        busy.is_busy = True
        store.volume.committer = Committer(busy, store.volume.check_changes, AlwaysTogether())
        self.addCleanup(store.close)
        return store


class WaitingThreadTest(TempCase):
    def test_committer_that_waits_does_not_keep_the_changes_of_its_last_round(self) -> None:
        kept: list[bool] = []

        class Observed(Committer):
            def _take(self) -> list[Change]:
                kept.append(begun() is not None)
                return super()._take()

        store, file_system = DiskStore(self.directory), FakeFileSystem()
        store.put(TEA)
        store.volume.committer = Observed(file_system, store.volume.check_changes, AlwaysTogether())
        file_system.is_open.clear()
        removal = Removal(store.root, TEA_DIGEST, system=store.volume.system)
        begun, done = weakref.ref(removal), removal.done
        store.volume.commit(removal)
        del removal
        file_system.is_open.set()
        done.result(PATIENCE)
        store.close()

        self.assertEqual([True, False], [kept[0], kept[-1]])


class CommitterCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.system = Linux()
        self.store = DiskStore(self.root, system=self.system)
        self.store.prepare()
        self.file_system = FakeFileSystem()
        self.store.volume.committer = Committer(self.file_system, self.file_system.check, AlwaysTogether())
        self.addCleanup(self.store.close)
        self.addCleanup(self.file_system.is_open.set)

    def upload(self, data: bytes, *, name: str | None = None) -> Future[Digest]:
        with self.store.stage(len(data)) as staging:
            staging.write(data)
            return staging.commit_later(name=name)

    def hold(self) -> Future[Digest]:
        """Keep the committer in the first round of an upload."""
        reached = threading.Event()
        self.file_system.before = reached.set
        self.file_system.is_open.clear()
        held = self.upload(b"held")
        self.wait_until("it is written", lambda: len(self.files_below(self.root / "staging")) == 1)
        return held

    def go_on(self) -> None:
        self.file_system.is_open.set()

    def path(self, digest: str) -> Path:
        return self.root / digest[:2] / digest


class RoundTest(CommitterCase):
    def test_upload_is_written_synced_named_and_synced_before_it_is_answered(self) -> None:
        seen: list[tuple[bool, bool]] = []
        self.file_system.before = lambda: seen.append((self.path(TEA_DIGEST).exists(), future.done()))

        future: Future[Digest] = Future()
        future = self.upload(TEA)
        future.result(PATIENCE)

        self.assertEqual([(False, False), (True, False)], seen)

    def test_changes_that_wait_share_the_syncs(self) -> None:
        removed = self.store.put(b"old")
        held = self.hold()
        waiting = [self.upload(b"%d" % number) for number in range(20)]
        removal = self.store.remove_later(removed)

        self.go_on()
        futures: list[Future[Any]] = [held, *waiting, removal]
        for future in futures:
            future.result(PATIENCE)

        # The first round, the one that names the first upload and writes the others, and the one that names these.
        self.assertEqual(3, self.file_system.syncs)
        self.assertFalse(self.path(removed).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))

    def test_removal_is_not_answered_before_its_sync(self) -> None:
        digest = self.store.put(TEA)
        self.file_system.is_open.clear()

        removal = self.store.remove_later(digest)
        self.wait_until("it is removed", lambda: not self.path(digest).exists())
        answered_early = removal.done()
        self.go_on()
        removal.result(PATIENCE)

        self.assertFalse(answered_early)

    def test_removal_of_a_missing_object_is_synced_too(self) -> None:
        self.assertIsInstance(self.store.remove_later(TEA_DIGEST).exception(PATIENCE), NotFound)

        self.assertEqual(1, self.file_system.syncs)

    def test_large_upload_is_committed_alone(self) -> None:
        done = self.upload(bytes(SMALL + 1))

        self.assertTrue(done.done())
        self.assertEqual(0, self.file_system.syncs)

    def test_close_finishes_what_waits(self) -> None:
        held = self.hold()
        waiting = self.upload(TEA)

        threading.Timer(0.05, self.go_on).start()
        self.store.close()

        self.assertTrue(held.done() and waiting.done())
        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())


class FailureTest(CommitterCase):
    def test_failed_sync_of_the_bytes_fails_all_of_the_round_and_leaves_nothing(self) -> None:
        held = self.hold()
        waiting = [self.upload(b"%d" % number) for number in range(5)]

        self.file_system.failures = [FAILURE]
        self.go_on()

        self.assertIs(FAILURE, held.exception(PATIENCE))
        # They came behind the sync that failed.
        self.assertEqual([None] * 5, [future.exception(PATIENCE) for future in waiting])
        self.assertNotIn(b"held", [path.read_bytes() for path in self.root.glob("??/*")])
        self.assertEqual([], self.files_below(self.root / "staging"))

    def test_failed_sync_of_the_names_takes_them_back(self) -> None:
        failures = iter([[], [FAILURE]])
        self.file_system.before = lambda: self.file_system.failures.extend(next(failures, []))

        self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))

        self.assertEqual([], self.files_below(self.root))
        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))

    def test_sync_that_succeeds_on_a_failed_file_system_fails_all_of_the_round(self) -> None:
        for is_busy in (False, True):
            with self.subTest(is_busy=is_busy):
                self.file_system.is_busy = is_busy
                self.file_system.faults = [FAILURE]

                self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))

                self.assertEqual([], self.files_below(self.root))
                self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))
                self.store.remove(TEA_DIGEST)

    def test_round_that_finds_the_root_lost_fails_before_it_changes_anything(self) -> None:
        stored = self.store.put(TEA)
        detached = StoreDetached("The store's directory")
        self.store.close()
        self.store.volume.committer = Committer(
            self.file_system, self.file_system.check, AlwaysTogether(), check_root=mock.Mock(side_effect=detached)
        )

        futures: list[Future[Any]] = [self.upload(b"coffee"), self.store.remove_later(stored)]

        self.assertEqual([detached] * 2, [future.exception(PATIENCE) for future in futures])
        self.assertEqual(0, self.file_system.syncs)
        self.assertEqual([f"{stored[:2]}/{stored}"], self.files_below(self.root))

    def test_root_that_is_lost_during_a_round_fails_its_changes(self) -> None:
        away = self.directory / "away"
        self.store.close()
        volume = self.store.volume
        volume.committer = Committer(
            self.file_system, volume.check_changes, AlwaysTogether(), check_root=volume.identity.check
        )
        stored = self.store.put(TEA)
        self.file_system.before = lambda: os.rename(self.root, away)

        removal = self.store.remove_later(stored)

        self.assertIsInstance(removal.exception(PATIENCE), StoreDetached)
        self.assertFalse(self.root.exists())

    def test_error_of_a_change_during_which_the_root_is_lost_is_that_loss(self) -> None:
        """On the way of a name to the disk: the directory above the shard is missing when it is synced."""
        away = self.directory / "away"
        self.store.close()
        volume = self.store.volume
        apart = mock.Mock(**{"is_together.return_value": False})
        real = os.fsync

        def lose(descriptor: int) -> None:
            real(descriptor)
            if self.store.list():
                os.rename(self.root, away)

        for committer in (
            Committer(self.file_system, volume.check_changes, apart, check_root=volume.identity.check),
            None,
        ):
            volume.committer = committer
            with self.subTest(is_grouped=committer is not None), mock.patch.object(self.system, "fsync", lose):
                self.assertRaises(StoreDetached, lambda: self.upload(b"coffee").result(PATIENCE))
            self.assertFalse(self.root.exists())
            os.rename(away, self.root)
            self.store.remove(self.store.list()[0])

    def test_large_upload_and_removal_on_a_failed_file_system_fail(self) -> None:
        stored = self.store.put(TEA)
        refusal = mock.patch.object(self.store.volume, "check_changes", side_effect=FAILURE)

        with refusal, self.assertRaises(OSError):
            self.upload(bytes(SMALL + 1))
        with refusal, self.assertRaises(OSError):
            self.store.remove(stored)

        self.assertEqual([], self.files_below(self.root))

    def test_failed_sync_leaves_an_object_that_was_there(self) -> None:
        self.store.put(TEA)
        failures = iter([[], [FAILURE]])
        self.file_system.before = lambda: self.file_system.failures.extend(next(failures, []))

        self.assertIs(FAILURE, self.upload(TEA).exception(PATIENCE))

        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())

    def test_failed_sync_fails_a_removal_and_its_retry_syncs_again(self) -> None:
        digest = self.store.put(TEA)
        self.file_system.failures = [FAILURE]

        self.assertIs(FAILURE, self.store.remove_later(digest).exception(PATIENCE))
        self.assertIsInstance(self.store.remove_later(digest).exception(PATIENCE), NotFound)

        self.assertEqual(2, self.file_system.syncs)

    def test_upload_that_cannot_be_named_fails_alone(self) -> None:
        held = self.hold()
        link = os.link

        def refuse_one(source: str, target: str, **settings: Any) -> None:
            if target.endswith(TEA_DIGEST):
                raise OSError(errno.ENOSPC, "No space left on device")
            link(source, target, **settings)

        refused, other = self.upload(TEA), self.upload(b"coffee")
        with mock.patch.object(self.system, "link", refuse_one):
            self.go_on()
            error = refused.exception(PATIENCE)
            other.result(PATIENCE)

        assert isinstance(error, OSError)
        self.assertEqual(errno.ENOSPC, error.errno)
        self.assertIsNone(held.exception(PATIENCE))
        self.assertFalse(self.path(TEA_DIGEST).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))

    def test_upload_that_cannot_be_written_fails_alone(self) -> None:
        held = self.hold()
        write = os.write

        def refuse_one(descriptor: int, data: bytes) -> int:
            if bytes(data) == TEA:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        refused, other = self.upload(TEA), self.upload(b"coffee")
        with mock.patch.object(self.system, "write", refuse_one):
            self.go_on()
            error = refused.exception(PATIENCE)
            other.result(PATIENCE)

        self.assertIsInstance(error, OSError)
        self.assertIsNone(held.exception(PATIENCE))
        self.assertEqual(self.store.volume.staging_memory._left, 32 * 1024 * 1024)

    def test_object_that_another_upload_has_stored_meanwhile_refuses_commit_new(self) -> None:
        held = self.hold()
        with self.store.stage(len(TEA)) as staging:
            staging.write(TEA)
            refused = staging.commit_new_later()
        DiskStore(self.root).put(TEA)

        self.go_on()

        self.assertIsInstance(refused.exception(PATIENCE), AlreadyExists)
        self.assertIsNone(held.exception(PATIENCE))
        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())

    def test_unexpected_error_does_not_end_the_thread(self) -> None:
        with (
            mock.patch.object(Committer, "_sync_together", side_effect=ZeroDivisionError),
            self.assertLogs("filestoraged"),
        ):
            self.assertIsInstance(self.upload(TEA).exception(PATIENCE), ZeroDivisionError)

        self.assertEqual(TEA_DIGEST, self.upload(TEA).result(PATIENCE))

    def test_change_without_a_thread_fails_and_leaves_nothing(self) -> None:
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            error = self.upload(TEA).exception(PATIENCE)

        self.assertIsInstance(error, StoreUnavailable)
        self.assertEqual(self.store.volume.staging_memory._left, 32 * 1024 * 1024)
        self.assertEqual([], self.files_below(self.root))


class SameObjectTest(CommitterCase):
    """Uploads of the same bytes in one round have one name, and one outcome."""

    def test_uploads_of_the_same_bytes_are_all_answered_and_leave_one_file(self) -> None:
        held = self.hold()
        uploads = [self.upload(TEA) for _ in range(50)]

        self.go_on()

        self.assertEqual([TEA_DIGEST] * 50, [each.result(PATIENCE) for each in uploads])
        self.assertIsNone(held.exception(PATIENCE))
        self.assertEqual(3, self.file_system.syncs)
        self.assertEqual(2, len(self.files_below(self.root)))

    def test_failed_sync_of_two_uploads_of_the_same_bytes_leaves_nothing(self) -> None:
        self.hold()
        uploads = [self.upload(TEA) for _ in range(2)]
        syncs = iter([[], [], [FAILURE]])
        self.file_system.before = lambda: self.file_system.failures.extend(next(syncs, []))

        self.go_on()

        self.assertEqual([FAILURE] * 2, [each.exception(PATIENCE) for each in uploads])
        self.assertFalse(self.path(TEA_DIGEST).exists())
        self.assertEqual([], self.files_below(self.root / "staging"))


class MemoryTest(CommitterCase):
    def test_staging_beyond_the_memory_of_all_is_a_file(self) -> None:
        self.store.volume.staging_memory.reserve(32 * 1024 * 1024 - 2)

        with self.store.stage(len(TEA)) as staging:
            staging.write(TEA)
            self.assertEqual(1, len(self.files_below(self.root / "staging")))
            staging.commit_later().result(PATIENCE)

        self.assertEqual(TEA, self.path(TEA_DIGEST).read_bytes())
        self.assertEqual(2, self.store.volume.staging_memory._left)

    def test_memory_of_a_declared_size_is_reserved_before_its_bytes_come(self) -> None:
        with self.store.stage(1000) as staging:
            reserved = 32 * 1024 * 1024 - self.store.volume.staging_memory._left
            staging.write(TEA)

        self.assertEqual(1000, reserved)

    def test_memory_is_released_by_a_discarded_staging(self) -> None:
        with self.store.stage(len(TEA)) as staging:
            staging.write(TEA)

        self.assertEqual(32 * 1024 * 1024, self.store.volume.staging_memory._left)

    def test_memory_is_released_by_a_staging_that_becomes_large(self) -> None:
        with self.store.stage() as staging:
            for _ in range(3):
                staging.write(bytes(SMALL // 2))
            self.assertEqual(32 * 1024 * 1024, self.store.volume.staging_memory._left)
            staging.commit()
