"""The directories that are synced to make a name durable, and the memory of those syncs."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
from hashlib import sha256
from typing import Any, NamedTuple
from unittest import mock

from filestoraged.store.disk.directories import Directories, is_past
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.system import Linux
from tests.store.contract import TEA, TEA_DIGEST
from tests.support import TempCase, read


class DirectoriesTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.system = Linux()
        self.store = DiskStore(self.root, system=self.system)
        self.shard = TEA_DIGEST[:2]
        self.store.put(TEA)

    def test_directory_of_the_daemons_own_that_becomes_a_symbolic_link_is_refused(self) -> None:
        outside = self.directory / "outside"
        outside.mkdir()
        drops = DiskStore(self.root / "drops", within=self.store)
        drops.put(TEA)
        (self.root / "drops").rename(outside / "drops")
        (self.root / "drops").symlink_to(outside / "drops")
        (self.root / "uploads").symlink_to(self.directory / "missing")
        directories = self.store.volume.directories

        for refused in (
            lambda: drops.put(b"another"),
            lambda: drops.open(TEA_DIGEST),
            lambda: drops.remove(TEA_DIGEST),
            lambda: directories.open(f"{self.root}/uploads"),
            lambda: directories.make(f"{self.root}/uploads/directory", 0o700),
        ):
            with self.assertRaisesRegex(OSError, f"'{self.root}/(drops|uploads)' is a symbolic link"):
                refused()
        self.assertEqual([TEA_DIGEST], list(drops.remove_all([TEA_DIGEST])))
        self.assertEqual([f"drops/{self.shard}/{TEA_DIGEST}"], self.files_below(outside))
        self.assertFalse((self.directory / "missing").exists())

    def put_and_count_syncs_of_root(self) -> int:
        real, digest = os.fsync, sha256(os.urandom(8)).hexdigest()
        count = 0

        def sync(descriptor: int) -> None:
            nonlocal count
            count += os.readlink(f"/proc/self/fd/{descriptor}") == str(self.root)
            real(descriptor)

        with mock.patch.object(self.system, "fsync", sync):
            self.store.put(TEA, name=self.shard + digest[2:])
        return count

    def wait_until_past(self) -> None:
        self.wait_until("the last change is past", lambda: is_past(self.root.stat().st_ctime_ns))

    def test_directory_above_is_synced_once_while_nothing_changes_in_it(self) -> None:
        self.wait_until_past()

        self.assertEqual([1, 0, 0], [self.put_and_count_syncs_of_root() for _ in range(3)])

    def test_directory_above_that_has_just_changed_is_synced_each_time(self) -> None:
        with mock.patch("filestoraged.store.disk.directories.is_past", return_value=False):
            self.assertEqual([1, 1], [self.put_and_count_syncs_of_root() for _ in range(2)])

    def test_shard_directory_made_again_by_another_process_is_synced_into_the_one_above(self) -> None:
        self.wait_until_past()
        self.put_and_count_syncs_of_root()
        shutil.rmtree(self.root / self.shard)
        # Made by a process that has not synced it yet.
        (self.root / self.shard).mkdir()

        self.assertGreaterEqual(self.put_and_count_syncs_of_root(), 1)

    def test_sync_of_the_directory_above_that_failed_is_tried_again(self) -> None:
        self.wait_until_past()
        with mock.patch(
            "filestoraged.store.disk.directories.sync", side_effect=OSError(errno.EIO, "Input/output error")
        ):
            self.assertRaises(OSError, self.store.put, TEA)

        self.assertEqual(1, self.put_and_count_syncs_of_root())

    def test_store_and_the_directories_above_it_are_synced_into_their_own(self) -> None:
        synced = []
        real = os.fsync

        def sync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        with mock.patch.object(self.system, "fsync", sync):
            DiskStore(self.directory / "var" / "lib" / "store", system=self.system).prepare()
        made = [str(self.directory), str(self.directory / "var"), str(self.directory / "var" / "lib")]
        self.assertEqual(made, synced)

    def test_root_that_another_process_made_is_synced_into_the_directory_above_it_once(self) -> None:
        root = self.directory / "other"
        root.mkdir()
        store = DiskStore(root, system=self.system)
        synced: list[str] = []
        real = os.fsync

        def sync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        with mock.patch.object(self.system, "fsync", sync):
            for data in (b"tea", b"milk", b"coffee"):
                store.put(data)

        self.assertEqual(1, synced.count(str(self.directory)))

    def test_upload_fails_if_the_entry_of_its_root_cannot_be_synced(self) -> None:
        root = self.directory / "other"
        root.mkdir()
        store = DiskStore(root, system=self.system)
        real = os.fsync

        def fail(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(self.directory):
                raise OSError(errno.EIO, "Input/output error")
            real(descriptor)

        with mock.patch.object(self.system, "fsync", fail):
            self.assertRaises(OSError, store.put, TEA)
        self.assertEqual([], self.files_below(root))

        self.assertEqual(TEA_DIGEST, store.put(TEA))

    def test_upload_makes_its_directory_again_that_removals_take_away_as_it_is_made(self) -> None:
        self.store.remove(TEA_DIGEST)
        shard, real, taken = str(self.root / self.shard), os.stat, list[str]()

        def take_away(path: Any, **options: Any) -> os.stat_result:
            # Between the calls that make the directory and look at its mode.
            if path == shard and len(taken) < 5:
                taken.append(path)
                os.rmdir(shard)
            return real(path, **options)

        with mock.patch.object(self.system, "stat", take_away):
            self.store.put(TEA)

        self.assertEqual(5, len(taken))
        self.assertEqual(TEA, read(self.store.get(TEA_DIGEST)))

    def test_directory_that_another_process_removes_as_it_is_looked_at_is_not_taken_for_a_file(self) -> None:
        shard, lstat = str(self.root / self.shard), self.system.lstat

        def look_and_remove(path: str) -> os.stat_result:
            status = lstat(path)
            if path == shard:
                shutil.rmtree(shard)
            return status

        # It was there when it was to be made.
        with mock.patch.object(self.system, "lstat", look_and_remove):
            self.store.volume.directories.make(shard, 0o700)

        self.assertFalse((self.root / self.shard).exists())

    def test_remembered_directories_stay_within_their_bound(self) -> None:
        class Status(NamedTuple):
            st_dev: int
            st_ino: int
            st_ctime_ns: int

        def status(path: str) -> Status:
            number = int(path[-10:]) if len(path) > 100 else 0
            return Status(2**20 + number, 2**40 + number, 2**60 + number)

        directories = Directories("/var/lib/filestoraged", system=self.system)
        peaks = []
        with mock.patch.multiple(
            self.system, stat=status, open=lambda *_: 0, fsync=lambda _: None, close=lambda _: None
        ):
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            for number in range(20_000):
                directories._sync_name(f"{directories.root}/repositories/{number:0128}/ab")
                peaks.append(len(directories._durable))
            _, peak = tracemalloc.get_traced_memory()

        self.assertGreater(max(peaks), 16_000)
        self.assertLess(peak, 8 * 2**20)
