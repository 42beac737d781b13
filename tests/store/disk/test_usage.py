"""Counts are exact, and list only directories that changed."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from typing import Any
from unittest import mock

from filestoraged.store.contract import Usage
from filestoraged.store.disk.directories import is_past
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.disk.usage import DiskUsage
from filestoraged.store.system import Linux
from tests.support import TempCase


class DiskUsageTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = DiskStore(self.directory / "store")
        self.system = Linux()
        self.usage = DiskUsage(self.store.root, system=self.system)

    def count(self) -> dict[str, Usage]:
        return self.usage.count(lambda: None)

    def scanned(self) -> int:
        """The number of directories that a count lists."""
        with mock.patch.object(self.system, "scandir", wraps=self.system.scandir) as scandir:
            self.count()
        return sum(len(os.path.basename(call.args[0])) == 2 for call in scandir.call_args_list)

    def wait_until_all_is_past(self) -> None:
        paths = [path for path in self.directory.rglob("*") if path.is_dir()]
        self.wait_until("past", lambda: all(is_past(path.stat().st_mtime_ns) for path in paths))

    def test_objects_and_bytes_are_counted_by_interface(self) -> None:
        for data in (b"tea", b"coffee"):
            self.store.put(data)
        for name in ("pets", "others"):
            self.store.namespace("repositories").namespace(name).put(b"cat")
        self.store.namespace("drops").put(b"x", name="ab" * 16)

        counted = self.count()

        self.assertEqual({"files": Usage(2, 9), "repositories": Usage(2, 6), "drops": Usage(1, 1)}, counted)

    def test_directories_that_did_not_change_are_not_listed_again(self) -> None:
        digests = [self.store.put(bytes([number])) for number in range(10)]
        self.wait_until_all_is_past()
        self.assertGreater(self.scanned(), 1)
        self.assertEqual(0, self.scanned())

        self.store.namespace("").put(b"x", name=digests[0][:2] + "0" * 62)

        self.assertEqual(1, self.scanned())
        self.assertEqual(11, self.count()["files"].objects)

    def test_directories_that_have_just_changed_are_listed_again(self) -> None:
        self.store.put(b"tea")

        with mock.patch("filestoraged.store.disk.usage.is_past", return_value=False):
            self.assertEqual([1, 1], [self.scanned(), self.scanned()])

    def test_counts_of_removed_directories_are_forgotten(self) -> None:
        self.store.put(b"tea")
        self.wait_until_all_is_past()
        self.count()
        self.assertEqual(1, len(self.usage._counts))
        for entry in os.scandir(self.store.root):
            shutil.rmtree(entry.path)

        self.count()

        self.assertEqual(0, len(self.usage._counts))

    def test_count_of_a_large_directory_pauses_often(self) -> None:
        folder = self.directory / "store" / "ab"
        folder.mkdir(parents=True)
        for number in range(1000):
            (folder / f"ab{number}").touch()
        pauses: list[None] = []

        self.usage.count(lambda: pauses.append(None))

        self.assertGreaterEqual(len(pauses), 10)

    def test_remembered_directories_stay_within_their_bound(self) -> None:
        usage = DiskUsage("/var/lib/filestoraged", system=self.system)
        numbers = iter(range(2**40, 2**41))

        class Status:
            @property
            def st_mtime_ns(self) -> int:
                return next(numbers)

        changed = Status()

        def contents(*_: Any) -> Usage:
            return Usage(next(numbers), next(numbers))

        with (
            mock.patch("filestoraged.store.disk.usage._count_files", contents),
            mock.patch.object(self.system, "stat", lambda _: changed),
        ):
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            for number in range(20_000):
                usage._shard(f"/var/lib/filestoraged/repositories/{number:0128}/ab", {}, lambda: None)
            _, peak = tracemalloc.get_traced_memory()

        self.assertEqual(16_384, len(usage._counts))
        self.assertLess(peak, 8 * 2**20)
