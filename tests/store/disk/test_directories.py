"""The directories that are synced to make a name durable, and the memory of those syncs."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
import unittest
from typing import Any, NamedTuple
from unittest import mock

from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.store import DiskStore
from tests.store.contract import TEA, TEA_DIGEST
from tests.store.disk.systems import PlainLinux, put
from tests.store.simulation.machine import Machine
from tests.store.simulation.process import Process
from tests.support import TempCase, read


class DirectoriesTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.system = PlainLinux()
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


class DirectoryAboveTest(unittest.TestCase):
    def setUp(self) -> None:
        self.machine = Machine(1)
        self.machine.release = "4.19.0"
        self.process = Process(self.machine)
        self.store = DiskStore("/store", system=self.process)
        put(self.process, self.store, TEA)
        self.shard = f"/store/{TEA_DIGEST[:2]}"

    def put_and_count_syncs_of_root(self, number: int) -> int:
        before = len(self.machine.calls)
        put(self.process, self.store, TEA, name=f"{TEA_DIGEST[:2]}{number:062x}")
        return sum(call.name == "open" and call.arguments[0] == "/store" for call in self.machine.calls[before:])

    def test_directory_above_is_synced_once_while_nothing_changes_in_it(self) -> None:
        soon = [self.put_and_count_syncs_of_root(number) for number in range(2)]
        self.machine.pass_time(1)

        later = [self.put_and_count_syncs_of_root(number) for number in range(2, 5)]

        self.assertEqual(([1, 1], [1, 0, 0]), (soon, later))

    def test_shard_directory_made_again_by_another_process_is_synced_into_the_one_above(self) -> None:
        self.machine.pass_time(1)
        self.put_and_count_syncs_of_root(1)
        for name in self.process.listdir(self.shard):
            self.process.unlink(f"{self.shard}/{name}")
        self.process.rmdir(self.shard)
        # Made by a process that has not synced it yet.
        self.process.mkdir(self.shard)

        self.assertEqual(1, self.put_and_count_syncs_of_root(2))
