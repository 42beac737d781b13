"""Counts are exact, and list only directories that changed."""

from __future__ import annotations

import os
import tracemalloc
import unittest
from typing import Any
from unittest import mock

from filestoraged.store.contract import Usage
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.disk.usage import DiskUsage
from filestoraged.store.system import Linux
from tests.store.disk.systems import finished, put
from tests.store.simulation.machine import Machine
from tests.store.simulation.process import Process
from tests.support import TempCase


class DiskUsageTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = DiskStore(self.directory / "store")
        self.system = Linux()
        self.usage = DiskUsage(self.store.root, system=self.system)

    def count(self) -> dict[str, Usage]:
        return self.usage.count(lambda: None)

    def test_objects_and_bytes_are_counted_by_interface(self) -> None:
        for data in (b"tea", b"coffee"):
            self.store.put(data)
        for name in ("pets", "others"):
            self.store.namespace("repositories").namespace(name).put(b"cat")
        self.store.namespace("drops").put(b"x", name="ab" * 16)
        laptop = self.store.namespace("restic/laptop")
        laptop.put(b"config", name="config")
        for type_ in ("data", "index", "locks"):
            laptop.namespace(type_).put(b"pack")

        counted = self.count()

        expected = {
            "files": Usage(2, 9),
            "repositories": Usage(2, 6),
            "names": Usage(),
            "restic": Usage(4, 18),
            "drops": Usage(1, 1),
        }
        self.assertEqual(expected, counted)

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


class RememberedCountsTest(unittest.TestCase):
    def setUp(self) -> None:
        self.machine = Machine(1)
        self.process = Process(self.machine)
        self.store = DiskStore("/store", system=self.process)
        self.usage = DiskUsage("/store", system=self.process)

    def scanned(self) -> int:
        """The number of directories that a count lists."""
        before = len(self.machine.calls)
        self.usage.count(lambda: None)
        listed = [str(call.arguments[0]) for call in self.machine.calls[before:] if call.name == "listdir"]
        return sum(len(os.path.basename(path)) == 2 for path in listed)

    def test_directories_that_did_not_change_are_not_listed_again(self) -> None:
        digests = [put(self.process, self.store, bytes([number])) for number in range(10)]
        self.machine.pass_time(1)
        shards = len({digest[:2] for digest in digests})
        self.assertEqual([shards, 0], [self.scanned(), self.scanned()])

        put(self.process, self.store, b"x", name=digests[0][:2] + "0" * 62)

        self.assertEqual(1, self.scanned())
        self.assertEqual(11, self.usage.count(lambda: None)["files"].objects)

    def test_directories_that_have_just_changed_are_listed_again(self) -> None:
        put(self.process, self.store, b"tea")

        self.assertEqual([1, 1], [self.scanned(), self.scanned()])

    def test_counts_of_removed_directories_are_forgotten(self) -> None:
        digest = put(self.process, self.store, b"tea")
        self.machine.pass_time(1)
        self.scanned()
        self.assertEqual(1, len(self.usage._counts))
        finished(self.process, self.store.remove_later(digest))

        self.scanned()

        self.assertEqual(0, len(self.usage._counts))
