"""The key-value database: visibility, durability, locks, and refused files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.clock import Clock
from filestoraged.command_errors import StartError
from filestoraged.errors import StorageFull, StoreDetached, StoreFailed, StoreUnavailable
from filestoraged.store import kv
from filestoraged.store.batch_writer import URGENT
from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.store.path_identity import database_identity
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.write_lock import WriteLock
from filestoraged.store.system import LINUX
from tests.clock import PassingClock
from tests.daemon.process import ROOT
from tests.store import kv_contract
from tests.support import PATIENCE, TempCase, in_threads

# A process that queues, commits, queues again, prints a line, and waits to be killed.
_HALF = """
import sys
from filestoraged.store.kv import KeyValues
keys = KeyValues(sys.argv[1])
keys.set("committed", b"1").result()
keys.commit().result()
keys.set("queued", b"2").result()
print("queued", flush=True)
sys.stdin.read()
"""

# A process that prints two values.
_READ = """
import sys
from filestoraged.store.kv import KeyValues
keys = KeyValues(sys.argv[1])
print([keys.get("committed"), keys.get("c")])
"""


class KeysCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "kv.sqlite")
        database.prepare(self.path, KEYS_SCHEMA)
        self.keys = self.open_keys()

    # Of KeyValues.
    settings: dict[str, Any] = {}

    def open_keys(self, **settings: Any) -> KeyValues:
        keys = KeyValues(self.path, **self.settings, **settings)
        self.addCleanup(keys.close)
        return keys


class KeysTest(KeysCase, kv_contract.KeysContract):
    pass


class CommitTest(KeysCase):
    def test_changes_and_commit_of_one_batch_are_committed_in_their_order(self) -> None:
        for key in ("cup", "pot", "tray"):
            self.keys.set(key, b"0").result()
        self.keys.commit().result()
        with WriteLock(self.path):
            sets = [self.keys.set("cup", b"1"), self.keys.set("new", b"1")]
            self.keys.delete("cup")
            self.keys.delete("pot")
            self.keys.delete("none")
            sets += [self.keys.set("pot", b"2"), *(self.keys.set(f"{n}", b"%d" % n) for n in range(100))]
            commits = [self.keys.commit(), self.keys.commit()]
        for commit in commits:
            commit.result(PATIENCE)

        values = [self.keys.get(key) for key in ("cup", "pot", "tray", "none", "new", "0", "99")]
        self.assertEqual([None, b"2", b"0", None, b"1", b"0", b"99"], values)
        self.assertEqual([False, True, False, *[True] * 100], [each.result(PATIENCE) for each in sets])
        self.assertEqual(0, self.keys.queued)

    def test_count_of_commits_changes_with_each_commit_of_any_process(self) -> None:
        other = self.open_keys()
        before = other.commits
        self.keys.set("cup", b"1").result()
        queued = other.commits
        self.keys.commit().result()

        self.assertEqual(before, queued)
        self.assertGreater(other.commits, before)
        self.assertEqual(0, other.commits % 2)


class KilledTest(KeysCase):
    def test_queued_and_committed_changes_survive_a_kill(self) -> None:
        child = subprocess.Popen(
            [sys.executable, "-c", _HALF, self.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            child.kill()

        self.assertEqual([b"1", None], [self.keys.get("committed"), self.keys.get("queued")])
        self.keys.commit().result()
        self.assertEqual(b"2", self.keys.get("queued"))

    def test_odd_count_after_a_kill_is_even_after_the_next_commit(self) -> None:
        turn = WriteLock(self.path)
        self.addCleanup(turn.close)
        with self.assertRaises(KeyboardInterrupt), turn, turn.committing():
            raise KeyboardInterrupt
        odd = self.keys.commits

        self.keys.commit().result()

        self.assertEqual((1, 0), (odd % 2, self.keys.commits % 2))
        self.assertGreater(self.keys.commits, odd)


class FailingTest(KeysCase):
    def test_full_disk_raises_storage_full_and_loses_nothing(self) -> None:
        self.keys.set("cup", b"1").result()
        connection = self.keys._connect()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 2}")

        self.assertRaises(StorageFull, self.keys.set("large", b"x" * 100_000).result)

        connection.execute("PRAGMA max_page_count = 100000")
        self.keys.set("saucer", b"2").result()
        self.keys.commit().result()
        self.assertEqual([b"1", b"2", None], [self.keys.get(key) for key in ("cup", "saucer", "large")])

    def test_lock_of_another_program_raises_store_unavailable(self) -> None:
        keys = self.open_keys()
        keys._connect().execute("PRAGMA busy_timeout = 50")
        shell = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(shell.close)
        shell.execute("BEGIN IMMEDIATE")

        self.assertRaises(StoreUnavailable, keys.set("cup", b"1").result)

        shell.execute("ROLLBACK")
        self.assertTrue(keys.set("cup", b"1").result())

    def test_unexpected_error_is_raised_to_all_callers(self) -> None:
        failing = mock.Mock(side_effect=ZeroDivisionError)
        with mock.patch.object(KeyValues, "_transact", failing):
            results = [self.keys.set("cup", b"1") for _ in range(5)]
            errors = [result.exception(PATIENCE) for result in results]

        self.assertEqual({ZeroDivisionError}, {type(error) for error in errors})
        self.assertTrue(self.keys.set("cup", b"1").result())


class PrepareTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "kv.sqlite"

    def test_many_processes_may_make_the_database_at_once(self) -> None:
        in_threads(8, lambda _: database.prepare(str(self.path), KEYS_SCHEMA))

    def test_file_that_is_not_a_database_is_refused(self) -> None:
        for data in (b"nonsense " * 1000, b"x", b"SQLite format 3\0" + b"x" * 5000):
            self.path.write_bytes(data)

            self.assert_refused("cannot use the database")
            self.assertEqual(data, self.path.read_bytes())

    def test_database_of_another_program_or_a_newer_version_is_refused(self) -> None:
        for statement in ("CREATE TABLE cats (name)", "PRAGMA application_id = 7", "PRAGMA user_version = 3"):
            self.execute(statement)

            self.assert_refused("belongs to another program")
            self.path.unlink()
        database.prepare(str(self.path), KEYS_SCHEMA)
        self.execute("PRAGMA user_version = 3")

        self.assert_refused("newer than this program")

    def test_damaged_database_is_refused(self) -> None:
        damages: list[Callable[[bytearray], object]] = [
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

    def test_database_too_large_to_check_in_time_is_accepted(self) -> None:
        self.make_large()
        data = bytearray(self.path.read_bytes())
        data[-4096:] = os.urandom(4096)
        self.path.write_bytes(data)

        clock = PassingClock()

        def read_slowly() -> float:
            clock.advance(3)
            return clock.date()

        with mock.patch.object(clock, "now", read_slowly):
            self.assert_not_checked(clock)
        # With a hole behind the end of the database.
        os.truncate(self.path, 17 * 1024 * 1024)
        self.assert_not_checked(PassingClock())

    def assert_not_checked(self, clock: Clock) -> None:
        with self.assertLogs("filestoraged.store.sqlite.database", "INFO") as logged:
            database.prepare(str(self.path), KEYS_SCHEMA, clock)
        self.assertIn("too large to be checked", logged.output[0])

    def test_database_in_a_missing_directory_is_refused(self) -> None:
        self.path = Path(self.directory, "none", "kv.sqlite")

        self.assert_refused("cannot use the database")

    def make_large(self) -> None:
        database.prepare(str(self.path), KEYS_SCHEMA)
        keys = KeyValues(str(self.path))
        for number in range(1000):
            keys.set(f"key {number}", b"%d" % number * 30)
        keys.commit().result()
        keys.close()

    def execute(self, statement: str) -> None:
        connection = sqlite3.connect(self.path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    def assert_refused(self, reason: str) -> None:
        with self.assertRaises(StartError) as caught:
            database.prepare(str(self.path), KEYS_SCHEMA)
        self.assertIn(reason, str(caught.exception))
        self.assertNotIn("\n", str(caught.exception))


class LargeCommitTest(CommitTest):
    """Every queue counts as large, and each transaction has one row."""

    settings = {"large_queue": -1, "rows": (1, 1)}


class SyncTest(KeysCase):
    def synced(self, statement: str, work: Callable[[], object]) -> list[str]:
        """The modes of syncing in which `work` executes statements that begin so."""
        mode = "?"
        modes = []

        def note(executed: str) -> None:
            nonlocal mode
            if executed.startswith("PRAGMA synchronous = "):
                mode = executed.rpartition(" ")[2]
            elif executed.startswith(statement):
                modes.append(mode)

        assert self.keys._connection is not None
        self.keys._connection.set_trace_callback(note)
        work()
        return modes

    def test_commit_is_synced_before_its_result(self) -> None:
        self.keys.set("cup", b"1").result()

        self.assertEqual(["FULL"], self.synced("COMMIT", lambda: self.keys.commit().result()))

    def test_transaction_that_makes_a_large_commit_visible_is_synced(self) -> None:
        self.keys = self.open_keys(large_queue=10, rows=(5, 5))
        for number in range(20):
            self.keys.set(f"key {number}", b"1").result()

        self.assertEqual(["FULL"], self.synced("UPDATE state SET is_visible = 1", lambda: self.keys.commit().result()))


class SlicedCommitTest(KeysCase):
    """A commit that takes several transactions."""

    settings = {"large_queue": 10, "rows": (5, 5)}

    def queue(self, count: int) -> None:
        for number in range(count):
            self.keys.set(f"key {number % 30}", b"%d" % number).result()

    def values(self, keys: KeyValues) -> list[object]:
        return [keys.get(f"key {number}") for number in range(30)]

    def test_sets_and_commits_of_others_run_between_its_transactions(self) -> None:
        goes_on = threading.Event()
        staged = threading.Event()
        step = KeyValues._step

        def step_once(keys: KeyValues) -> float:
            if staged.is_set() and not goes_on.is_set():
                return URGENT
            pause = step(keys)
            staged.set()
            return pause

        self.queue(100)
        with mock.patch.object(KeyValues, "_step", step_once):
            large = self.keys.commit()
            self.assertTrue(staged.wait(PATIENCE))
            half = self.values(self.keys)
            other = self.open_keys()
            other.set("later", b"1").result()
            goes_on.set()
            large.result(PATIENCE)
            whole = self.values(self.keys)

        self.assertEqual([None] * 30, half)
        self.assertEqual([b"%d" % (90 + n if n < 10 else 60 + n) for n in range(30)], whole)

    def test_step_has_a_maximum_size_and_at_least_one_row(self) -> None:
        rows = [("a", 10), ("b", 1_000_000), ("c", 1_000_000), ("d", 1_000_000), ("e", 10)]

        self.assertEqual(("c", 2_000_010), kv._first_rows(iter(rows)))
        self.assertEqual(("x", 90_000_000), kv._first_rows(iter([("x", 90_000_000), ("y", 1)])))
        self.assertEqual((None, 0), kv._first_rows(iter([])))

    def test_interrupted_commit_is_completed_by_the_next(self) -> None:
        self.queue(100)
        with mock.patch.object(KeyValues, "_make_visible", side_effect=OSError(5, "Input/output error")):
            self.assertRaises(StoreFailed, self.keys.commit().result)
        before = self.values(self.keys)
        self.keys.set("key 0", b"last").result()
        queued = self.keys.queued

        self.open_keys().commit().result()

        self.assertEqual([None] * 30, before)
        self.assertGreaterEqual(queued, 30)
        self.assertEqual([b"last", b"91"], self.values(self.keys)[:2])
        self.assertEqual(0, self.keys.queued)

    def test_visible_staged_pairs_count_as_committed(self) -> None:
        with mock.patch.object(KeyValues, "_move_staged"):
            self.queue(100)
            self.keys.commit().result()
            self.keys.delete("key 1").result()
            self.keys.set("key 2", b"new").result()
            self.keys.commit().result()

            answers = [self.keys.set(f"key {number}", b"again").result() for number in (0, 1, 2, 31)]
            values = self.values(self.keys)[:3]
        self.keys.commit().result()
        self.wait_until("all is moved", self.is_moved)

        self.assertEqual([b"90", None, b"new"], values)
        self.assertEqual([False, True, False, True], answers)
        self.assertEqual([b"again"] * 3, self.values(self.keys)[:3])

    def is_moved(self) -> bool:
        shell = sqlite3.connect(self.path)
        try:
            (visible,) = shell.execute("SELECT is_visible FROM state").fetchone()
            (staged,) = shell.execute("SELECT count(*) FROM staged").fetchone()
        finally:
            shell.close()
        return not visible and not staged


class DoubtTest(KeysCase):
    """A write or a sync of the log that failed in any process."""

    def test_log_is_rewritten_before_anything_else_is_written(self) -> None:
        self.keys.set("queued", b"1").result()
        WriteLock(self.path).begin_writing()

        with self.assertLogs("filestoraged.store.sqlite.group_commit", "WARNING") as logged:
            self.keys.set("later", b"2").result()

        self.assertEqual([(b"queued",)], self.in_database("SELECT key FROM queue"))
        self.assertEqual(1, len(logged.output))

    def test_transaction_that_fails_leaves_the_log_in_doubt_for_all(self) -> None:
        other = self.open_keys()
        self.keys.set("queued", b"1").result()
        with mock.patch.object(KeyValues, "_connect", return_value=Failing(self.keys._connect(), "COMMIT")):
            self.assertRaises(StoreFailed, self.keys.commit().result)
        self.assertEqual([], self.in_database("SELECT key FROM queue"))

        with self.assertLogs("filestoraged.store.sqlite.group_commit", "WARNING"):
            other.set("later", b"2").result()

        self.assertEqual([(b"queued",)], self.in_database("SELECT key FROM queue"))

    def test_nothing_is_written_while_the_log_cannot_be_rewritten(self) -> None:
        self.keys.set("queued", b"1").result()
        WriteLock(self.path).begin_writing()
        with mock.patch.object(KeyValues, "_connect", return_value=Failing(self.keys._connect(), "PRAGMA wal_")):
            self.assertRaises(StoreFailed, self.keys.set("later", b"2").result)
            self.assertRaises(StoreFailed, self.keys.commit().result)

        self.assertEqual(1, self.keys.queued)

    def test_failed_checkpoint_is_repeated(self) -> None:
        self.keys.set("queued", b"1").result()
        other = self.open_keys(checkpoint_pages=1)
        failing = Failing(other._connect(), "wal_checkpoint(P")
        with mock.patch.object(KeyValues, "_connect", return_value=failing):
            other.set("saucer", b"2").result()
            # The log is in doubt during each write, so that does not tell of the failure.
            self.assertTrue(failing.has_failed.wait(PATIENCE))

        with self.assertLogs("filestoraged.store.sqlite.group_commit", "WARNING"):
            self.keys.commit().result()

        self.assertFalse(self.keys._write_lock.is_doubtful)

    def test_log_is_copied_into_the_database_when_it_has_grown(self) -> None:
        self.keys = self.open_keys(checkpoint_pages=10)
        self.keys.set("large", b"x" * 100_000).result()
        self.keys.set("cup", b"1").result()
        self.wait_until("it is copied", lambda: self.in_database("SELECT key FROM queue") != [])

        self.assertFalse(self.keys._write_lock.is_doubtful)

    def test_closing_copies_the_log_into_the_database(self) -> None:
        self.keys.set("queued", b"1").result()
        self.keys.close()

        self.assertEqual([(b"queued",)], self.in_database("SELECT key FROM queue"))
        self.assertFalse(WriteLock(self.path).is_doubtful)

    def test_closing_while_others_read_leaves_no_doubt(self) -> None:
        other = self.open_keys()
        self.keys.set("queued", b"1").result()
        shell = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(shell.close)
        shell.execute("BEGIN")
        shell.execute("SELECT * FROM pairs").fetchall()
        other.set("other", b"2").result()

        self.keys.close()
        database.prepare(self.path, KEYS_SCHEMA)

        self.assertFalse(WriteLock(self.path).is_doubtful)
        self.assertTrue(other.set("later", b"3").result())

    def test_log_that_cannot_be_copied_on_close_stays_in_doubt(self) -> None:
        self.keys.set("queued", b"1").result()
        self.keys._connection = Failing(self.keys._connect(), "wal_checkpoint")  # type: ignore[assignment]
        self.keys.close()

        self.assertTrue(WriteLock(self.path).is_doubtful)

    def in_database(self, question: str) -> list[object]:
        """The pairs in the database without its log."""
        shell = sqlite3.connect(f"file:{self.path}?immutable=1", uri=True)
        try:
            return shell.execute(question).fetchall()
        finally:
            shell.close()


class Failing:
    """A connection that fails at statements that contain a text."""

    def __init__(self, connection: sqlite3.Connection, text: str) -> None:
        self._connection = connection
        self._text = text
        self.has_failed = threading.Event()

    def execute(self, statement: str, *values: Any) -> object:
        if self._text in statement:
            self.has_failed.set()
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)


class LockedTest(KeysCase):
    def test_writes_are_refused_while_another_process_holds_the_lock(self) -> None:
        self.keys.set("cup", b"1").result()
        self.keys.commit().result()
        with WriteLock(self.path):
            self.keys._writer._timeout = 0.1
            self.assertRaises(StoreUnavailable, self.keys.set("saucer", b"2").result)
            self.assertRaises(StoreUnavailable, self.keys.commit().result)
            self.assertRaises(StoreUnavailable, self.keys.probe)
            self.assertEqual(b"1", self.keys.get("cup"))
            self.keys._writer._timeout = PATIENCE

        self.assertTrue(self.keys.set("saucer", b"3").result())
        self.keys.probe()
        self.assertEqual(1, self.keys.queued)

    def test_existing_database_is_usable_while_another_process_holds_the_lock(self) -> None:
        with WriteLock(self.path):
            database.prepare(self.path, KEYS_SCHEMA)

    def test_making_a_database_while_the_lock_is_held_times_out(self) -> None:
        path = str(self.directory / "new.sqlite")
        with WriteLock(path), self.assertRaises(StartError) as caught:
            database.prepare(path, KEYS_SCHEMA, PassingClock())

        self.assertIn("held the write lock for 5 s", str(caught.exception))


class PrivateTest(TempCase):
    def test_files_are_private_with_any_umask(self) -> None:
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        path = str(self.directory / "kv.sqlite")
        database.prepare(path, KEYS_SCHEMA)
        keys = KeyValues(path)
        self.addCleanup(keys.close)
        keys.set("cup", b"1").result()

        modes = {name: os.stat(self.directory / name).st_mode & 0o777 for name in os.listdir(self.directory)}

        self.assertEqual(dict.fromkeys(modes, 0o600), modes)
        self.assertEqual(5, len(modes))


class UpgradeTest(TempCase):
    def test_database_of_the_first_version_keeps_its_keys_and_its_queue(self) -> None:
        path = str(self.directory / "kv.sqlite")
        shell = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "CREATE TABLE pairs (key BLOB PRIMARY KEY, value BLOB NOT NULL)",
            "CREATE TABLE queue (id INTEGER PRIMARY KEY, key BLOB NOT NULL, value BLOB)",
            "INSERT INTO pairs VALUES (CAST('cup' AS BLOB), CAST('1' AS BLOB))",
            "INSERT INTO queue (key, value) VALUES (CAST('saucer' AS BLOB), CAST('2' AS BLOB))",
            f"PRAGMA application_id = {0x66736B76}",
            "PRAGMA user_version = 1",
        ):
            shell.execute(statement)
        shell.close()

        database.prepare(path, KEYS_SCHEMA)
        keys = KeyValues(path)
        self.addCleanup(keys.close)
        keys.commit().result()

        self.assertEqual([b"1", b"2"], [keys.get("cup"), keys.get("saucer")])


class LostDatabaseTest(TempCase):
    """The file is removed, moved or replaced while a process, or two, have opened it."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "store"
        self.store.mkdir()
        self.path = self.store / "kv.sqlite"
        database.prepare(str(self.path), KEYS_SCHEMA)
        # As the master does.
        self.identity = database_identity(str(self.path))
        self.identity.fix()
        self.keys = self.open()
        self.keys.set("a", b"1").result()
        self.keys.commit().result()
        self.assertEqual(b"1", self.keys.get("a"))

    def open(self) -> KeyValues:
        keys = KeyValues(str(self.path), self.identity)
        self.addCleanup(keys.close)
        return keys

    def assert_refused(self, keys: KeyValues) -> None:
        actions: dict[str, Callable[[], object]] = {
            "set": lambda: keys.set("b", b"2").result(),
            "delete": lambda: keys.delete("a").result(),
            "commit": lambda: keys.commit().result(),
            "get": lambda: keys.get("a"),
            "queued": lambda: keys.queued,
            "probe": keys.probe,
        }
        for name, action in actions.items():
            with self.subTest(name), self.assertRaises(StoreDetached):
                action()
        # No cached value is valid.
        self.assertEqual(1, keys.commits % 2)

    def test_removed_database_refuses_reads_and_writes_and_is_not_made_again(self) -> None:
        for path in self.store.iterdir():
            path.unlink()

        self.assert_refused(self.keys)
        self.assert_refused(self.open())
        self.keys.close()

        self.assertEqual([], list(self.store.iterdir()))

    def test_copy_in_its_place_is_neither_read_nor_written(self) -> None:
        kept = self.directory / "kept"
        os.rename(self.path, kept)
        shutil.copyfile(kept, self.path)
        before = {path.name: path.read_bytes() for path in self.store.iterdir()}

        self.assert_refused(self.keys)
        self.assert_refused(self.open())
        self.keys.close()

        self.assertEqual(before, {path.name: path.read_bytes() for path in self.store.iterdir()})

    def test_log_of_a_clone_with_the_same_inode_numbers_is_kept_when_the_lost_database_is_closed(self) -> None:
        """A snapshot of the file system is mounted in place. SQLite compares inode numbers alone, and no devices."""
        before = {path.name: path.read_bytes() for path in self.store.iterdir()}
        self.assertTrue(before["kv.sqlite-wal"])
        self.keys.get("a")
        real = os.stat

        def stat_clone(path: str) -> os.stat_result:
            fields = list(real(path))
            fields[stat.ST_DEV] += 1
            return os.stat_result(fields)

        with mock.patch.object(LINUX, "stat", stat_clone):
            self.assert_refused(self.keys)
            self.keys.close()
        after = {path.name: path.read_bytes() for path in self.store.iterdir()}

        self.assertEqual(before, after)
        for connection in self.identity.kept:
            connection.close()

    def test_file_that_is_moved_away_and_back_goes_on(self) -> None:
        kept = self.directory / "kept"
        os.rename(self.path, kept)
        later = self.open()
        self.assert_refused(self.keys)
        self.assert_refused(later)

        os.rename(kept, self.path)

        for number, keys in enumerate((self.keys, later)):
            keys.set("b", b"%d" % number).result()
            keys.commit().result()
            self.assertEqual([b"1", b"%d" % number], [keys.get("a"), keys.get("b")])
            self.assertEqual(0, keys.commits % 2)

    def test_directory_that_is_moved_away_and_back_keeps_the_log_and_goes_on(self) -> None:
        away = self.directory / "away"
        os.rename(self.store, away)
        later = self.open()
        self.assert_refused(self.keys)
        self.assert_refused(later)

        os.rename(away, self.store)
        self.keys.set("b", b"2").result()
        self.keys.commit().result()

        self.assertEqual([b"1", b"2"], [later.get("a"), later.get("b")])
        self.assertEqual([b"1", b"2"], [self.keys.get("a"), self.keys.get("b")])

    def test_removed_log_refuses_writes_and_what_it_had_is_saved_on_close(self) -> None:
        for name in ("kv.sqlite-wal", "kv.sqlite-shm"):
            (self.store / name).unlink()

        for action in (lambda: self.keys.set("b", b"2").result(), lambda: self.keys.commit().result(), self.keys.probe):
            self.assertRaises(StoreDetached, action)
        exists = (self.store / "kv.sqlite-wal").exists()
        self.keys.close()

        self.assertFalse(exists)
        self.assertEqual([b"1", None], [self.open().get("a"), self.open().get("b")])

    def test_lookup_that_fails_without_the_log_has_no_answer(self) -> None:
        later = self.open()
        later.set("b", b"2").result()
        (self.store / "kv.sqlite-wal").unlink()

        # SQLite has opened the log for the writer alone.
        self.assertRaises(StoreDetached, later.get, "a")

    def test_log_that_another_process_has_made_where_one_was_removed_keeps_what_that_one_committed(self) -> None:
        for name in ("kv.sqlite-wal", "kv.sqlite-shm"):
            (self.store / name).unlink()
        with subprocess.Popen(
            [sys.executable, "-c", _HALF, str(self.path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            self.assertRaises(StoreDetached, self.keys.set("c", b"3").result)
            self.keys.close()
            other.kill()
        with subprocess.Popen(
            [sys.executable, "-c", _READ, str(self.path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as reader:
            assert reader.stdout is not None
            values = reader.stdout.read()
        for connection in self.identity.kept:
            connection.close()

        self.assertEqual(b"[b'1', None]", values.strip())

    def test_connection_that_was_opened_to_a_copy_is_not_used(self) -> None:
        """The path leads to a copy just while it is opened, and to the database before and behind."""
        kept = self.directory / "kept"
        later = self.open()
        real = sqlite3.connect

        def connect_to_copy(*arguments: Any, **settings: Any) -> sqlite3.Connection:
            os.rename(self.path, kept)
            shutil.copyfile(kept, self.path)
            connection: sqlite3.Connection = real(*arguments, **settings)
            return connection

        with mock.patch("sqlite3.connect", connect_to_copy), self.assertRaises(StoreDetached):
            later.get("a")

        os.rename(kept, self.path)
        self.assertEqual(b"1", later.get("a"))

    def test_database_that_was_made_late_is_identified_by_its_first_connection(self) -> None:
        path = self.directory / "late.sqlite"
        keys = KeyValues(str(path))
        self.addCleanup(keys.close)
        keys.set("a", b"1").result()

        path.unlink()

        with self.assertRaises(StoreDetached):
            keys.set("a", b"2").result()
        self.assertFalse(path.exists())
