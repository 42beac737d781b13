"""The key-value engine: what is visible when, what survives, and which files are refused."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Callable, List
from unittest import mock

from filestoraged.errors import StartError, StorageFull, StoreUnavailable
from filestoraged.store.kv import KeyValues, prepare_keys
from filestoraged.store.turn import Turn
from filestoraged.store.writer import Writer
from tests.daemon.process import ROOT
from tests.support import PATIENCE, TempCase, in_threads

# A process that queues, commits, queues again, says so, and waits to be killed.
_HALF = """
import sys
from filestoraged.store.kv import KeyValues
keys = KeyValues(sys.argv[1])
keys.set("committed", b"1")
keys.commit()
keys.set("queued", b"2")
print("queued", flush=True)
sys.stdin.read()
"""


class KeysCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "kv.sqlite")
        prepare_keys(self.path)
        self.keys = self.open_keys()

    def open_keys(self) -> KeyValues:
        keys = KeyValues(self.path)
        self.addCleanup(keys.close)
        return keys


class CommitTest(KeysCase):
    def test_what_is_queued_is_visible_when_it_is_committed(self) -> None:
        self.keys.set("cup", b'"tea"')
        before = self.keys.get("cup")
        self.keys.commit()

        self.assertIsNone(before)
        self.assertEqual(b'"tea"', self.keys.get("cup"))

    def test_a_deletion_is_queued_too(self) -> None:
        self.keys.set("cup", b"1")
        self.keys.commit()
        self.keys.delete("cup")
        before = self.keys.get("cup")
        self.keys.commit()

        self.assertEqual(b"1", before)
        self.assertIsNone(self.keys.get("cup"))

    def test_of_a_key_that_is_queued_again_the_last_counts(self) -> None:
        for steps, expected in (
            *(([b"1", b"2"], b"2"), ([b"1", None], None), ([None, b"1"], b"1"), ([b"1", None, b"3"], b"3")),
            *(([b"1", None, b"3", None], None), ([None], None)),
        ):
            for step in steps:
                if step is None:
                    self.keys.delete("cup")
                else:
                    self.keys.set("cup", step)
            self.keys.commit()

            with self.subTest(steps=steps):
                self.assertEqual(expected, self.keys.get("cup"))

    def test_a_key_is_new_until_it_is_committed(self) -> None:
        answers = [self.keys.set("cup", b"1"), self.keys.set("cup", b"2")]
        self.keys.commit()
        answers.append(self.keys.set("cup", b"3"))
        self.keys.delete("cup")
        answers.append(self.keys.set("cup", b"4"))
        self.keys.commit()
        self.keys.delete("cup")
        self.keys.commit()
        answers.append(self.keys.set("cup", b"5"))

        self.assertEqual([True, True, False, False, True], answers)

    def test_a_commit_of_nothing_is_one(self) -> None:
        self.keys.commit()
        self.keys.commit()

    def test_keys_are_any_strings(self) -> None:
        names = [
            "",
            " ",
            "a/b",
            "\0",
            "a\0b",
            "é",
            "e\u0301",
            "\U0001f600",
            "x" * 100_000,
            "'; DROP TABLE pairs; --",
            "1",
            "01",
        ]
        for number, name in enumerate(names):
            self.keys.set(name, b"%d" % number)
        self.keys.commit()

        self.assertEqual([b"%d" % number for number in range(len(names))], [self.keys.get(name) for name in names])

    def test_a_large_value_comes_back(self) -> None:
        value = b'"' + b"x" * 1_000_000 + b'"'
        self.keys.set("large", value)
        self.keys.commit()

        self.assertEqual(value, self.keys.get("large"))

    def test_the_count_says_whether_something_was_committed(self) -> None:
        before = self.keys.commits
        self.keys.set("cup", b"1")
        queued = self.keys.commits
        self.keys.commit()

        self.assertEqual(before, queued)
        self.assertGreater(self.keys.commits, before)
        self.assertEqual(0, self.keys.commits % 2)


class SharedTest(KeysCase):
    def test_all_who_have_the_database_open_see_the_same(self) -> None:
        other = self.open_keys()
        self.keys.set("cup", b"1")
        other.set("saucer", b"2")
        before = other.commits
        self.keys.commit()

        self.assertEqual([b"1", b"2"], [other.get("cup"), self.keys.get("cup") and other.get("saucer")])
        self.assertNotEqual(before, other.commits)
        self.assertFalse(other.set("cup", b"3"))

    def test_a_reader_never_sees_half_a_commit_nor_waits_for_a_writer(self) -> None:
        other = self.open_keys()
        done = threading.Event()
        halves: List[object] = []

        def read() -> None:
            while not done.is_set():
                # The second is never older than the first.
                first, second = other.get("first"), other.get("second")
                if int(second or b"0") < int(first or b"0"):
                    halves.append((first, second))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(200):
            self.keys.set("first", b"%d" % number)
            self.keys.set("second", b"%d" % number)
            self.keys.commit()
        done.set()
        reader.join(PATIENCE)

        self.assertEqual([], halves)

    def test_many_threads_and_writers_lose_nothing(self) -> None:
        others = [self.keys, self.open_keys(), self.open_keys()]

        def work(number: int) -> None:
            keys = others[number % 3]
            for step in range(30):
                keys.set(f"{number} {step}", b"%d" % step)
                if step % 7 == 0:
                    keys.commit()

        in_threads(12, work)
        self.keys.commit()

        missing = [(n, s) for n in range(12) for s in range(30) if self.keys.get(f"{n} {s}") != b"%d" % s]
        self.assertEqual([], missing)

    def test_what_is_queued_and_committed_survives_a_kill(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", _HALF, self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            child.kill()

        self.assertEqual([b"1", None], [self.keys.get("committed"), self.keys.get("queued")])
        self.keys.commit()
        self.assertEqual(b"2", self.keys.get("queued"))

    def test_a_count_that_a_kill_left_odd_is_mended_by_the_next_commit(self) -> None:
        turn = Turn(self.path)
        self.addCleanup(turn.close)
        with self.assertRaises(KeyboardInterrupt), turn, turn.committing():
            raise KeyboardInterrupt
        odd = self.keys.commits

        self.keys.commit()

        self.assertEqual((1, 0), (odd % 2, self.keys.commits % 2))
        self.assertGreater(self.keys.commits, odd)


class FailingTest(KeysCase):
    def test_a_full_disk_is_told_and_loses_nothing(self) -> None:
        self.keys.set("cup", b"1")
        connection = self.keys._connect()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

        self.assertRaises(StorageFull, self.keys.set, "large", b"x" * 100_000)

        connection.execute("PRAGMA max_page_count = 100000")
        self.keys.set("saucer", b"2")
        self.keys.commit()
        self.assertEqual([b"1", b"2", None], [self.keys.get(key) for key in ("cup", "saucer", "large")])

    def test_somebody_else_who_writes_for_ever_is_told_of(self) -> None:
        with mock.patch("filestoraged.store.database._PATIENCE", 0.05):
            keys = self.open_keys()
            keys._connect()
        shell = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(shell.close)
        shell.execute("BEGIN IMMEDIATE")

        self.assertRaises(StoreUnavailable, keys.set, "cup", b"1")

        shell.execute("ROLLBACK")
        self.assertTrue(keys.set("cup", b"1"))

    def test_whatever_fails_everybody_is_told(self) -> None:
        failing = mock.Mock(side_effect=ZeroDivisionError)
        with mock.patch.object(KeyValues, "_transact", failing):
            results = [self.keys.set_later("cup", b"1") for _ in range(5)]
            errors = [result.exception(PATIENCE) for result in results]

        self.assertEqual({ZeroDivisionError}, {type(error) for error in errors})
        self.assertTrue(self.keys.set("cup", b"1"))


class PrepareTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "kv.sqlite"

    def test_one_that_is_there_stays(self) -> None:
        prepare_keys(str(self.path))
        keys = KeyValues(str(self.path))
        keys.set("cup", b"1")
        keys.commit()
        keys.close()

        prepare_keys(str(self.path))

        keys = KeyValues(str(self.path))
        self.addCleanup(keys.close)
        self.assertEqual(b"1", keys.get("cup"))

    def test_many_may_make_it_at_once(self) -> None:
        in_threads(8, lambda _: prepare_keys(str(self.path)))

    def test_what_is_no_database_is_refused(self) -> None:
        for data in (b"nonsense " * 1000, b"x", b"SQLite format 3\0" + b"x" * 5000):
            self.path.write_bytes(data)

            self.assert_refused("cannot be used")
            self.assertEqual(data, self.path.read_bytes())

    def test_another_programs_database_is_refused(self) -> None:
        for statement in ("CREATE TABLE cats (name)", "PRAGMA application_id = 7", "PRAGMA user_version = 3"):
            self.execute(statement)

            self.assert_refused("another program's")
            self.path.unlink()

    def test_a_newer_version_is_refused(self) -> None:
        prepare_keys(str(self.path))
        self.execute("PRAGMA user_version = 2")

        self.assert_refused("newer than this program")

    def test_a_damaged_one_is_refused(self) -> None:
        damages: List[Callable[[bytearray], object]] = [
            lambda data: data.__delitem__(slice(len(data) // 2, None)),
            lambda data: data.__setitem__(slice(4096, 8192), os.urandom(4096)),
            lambda data: data.__setitem__(slice(len(data) - 4096, None), os.urandom(4096)),
        ]
        for number, damage in enumerate(damages):
            with self.subTest(damage=number):
                self.make_large()
                data = bytearray(self.path.read_bytes())
                damage(data)
                self.path.write_bytes(data)

                self.assert_refused("")
                self.path.unlink()

    def test_a_directory_that_is_not_there_is_refused(self) -> None:
        self.path = Path(self.directory, "none", "kv.sqlite")

        self.assert_refused("cannot be used")

    def make_large(self) -> None:
        prepare_keys(str(self.path))
        keys = KeyValues(str(self.path))
        for number in range(1000):
            keys.set_later(f"key {number}", b"%d" % number * 30)
        keys.commit()
        keys.close()

    def execute(self, statement: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    def assert_refused(self, reason: str) -> None:
        with self.assertRaises(StartError) as caught:
            prepare_keys(str(self.path))
        self.assertIn(reason, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


class WriterTest(TempCase):
    def test_what_comes_while_it_writes_is_written_together(self) -> None:
        rounds: List[List[int]] = []
        goes_on = threading.Event()
        begun = threading.Event()

        def write(jobs: List[int]) -> None:
            rounds.append(list(jobs))
            begun.set()
            goes_on.wait(PATIENCE)

        writer = Writer(write)
        writer.submit(0)
        begun.wait(PATIENCE)
        for number in range(1, 1201):
            writer.submit(number)
        goes_on.set()
        writer.close()

        self.assertEqual([1, 500, 500, 200], [len(each) for each in rounds])
        self.assertEqual(list(range(1201)), [job for each in rounds for job in each])
