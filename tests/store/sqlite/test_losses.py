"""What SQLite loses without a word: damage is found, and what a kill or a power cut leaves is not taken for damage."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.store.locks import LOCKS_SCHEMA
from filestoraged.store.sqlite import database, losses
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.sqlite.losses import _frames, count_lost_frames, find_losses
from filestoraged.store.sqlite.write_lock import is_of_this_boot
from tests.clock import PATIENT_CLOCK
from tests.runner.marks import thorough
from tests.support import PATIENCE, TempCase

SUFFIXES = ("", "-wal", "-shm", ".turn")
HEADER, FRAME, SECTOR = 32, 24 + 4096, 512

Files = dict[str, bytes]


class LossesCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        (self.directory / "store").mkdir()
        self.copies = 0
        database.prepare(self.path("locks.sqlite"), LOCKS_SCHEMA)
        self.open_locks()

    def open_locks(self, **settings: Any) -> None:
        self.locks = TransactionQueue(self.path("locks.sqlite"), LOCKS_SCHEMA, **{"clock": PATIENT_CLOCK, **settings})
        self.addCleanup(self.locks.close)

    def path(self, name: str) -> str:
        return str(self.directory / "store" / name)

    def lock(self, path: str) -> None:
        """One transaction, which is synced."""
        statement = "INSERT INTO locks (repository, path, owner, created) VALUES ('pets', ?, 'me', 0)"
        self.locks.write_rows(statement, [(path,)]).result(PATIENCE)

    def locks_killed_after(self, count: int) -> Files:
        for number in range(count):
            self.lock(f"{number:03}" * 900)
        return self.killed("locks.sqlite")

    def killed(self, name: str) -> Files:
        """The files of a database as they are found after a kill at this moment."""
        return {suffix: Path(self.path(name) + suffix).read_bytes() for suffix in SUFFIXES}

    def restore(self, files: Files, name: str = "locks.sqlite") -> str:
        self.copies += 1
        directory = self.directory / str(self.copies)
        directory.mkdir()
        for suffix, data in files.items():
            (directory / (name + suffix)).write_bytes(data)
        return str(directory / name)

    def lost(self, files: Files, name: str = "locks.sqlite") -> int:
        path = self.restore(files, name)
        try:
            return count_lost_frames(path)
        finally:
            shutil.rmtree(os.path.dirname(path))

    def recovered(self, files: Files) -> int:
        """The frames that SQLite takes from the log."""
        path = self.restore({"": files[""], "-wal": files["-wal"]})
        with contextlib.closing(sqlite3.connect(path)) as connection:
            (_, frames, _) = connection.execute("PRAGMA wal_checkpoint").fetchone()
        return int(frames)

    @contextlib.contextmanager
    def after_a_reboot(self) -> Iterator[None]:
        with mock.patch("filestoraged.store.sqlite.write_lock._boot", return_value=7):
            yield


def frames(log: bytes) -> int:
    return (len(log) - HEADER) // FRAME


def commits(log: bytes) -> list[int]:
    """The numbers of the frames that commit a transaction."""
    return [number for number in range(1, frames(log) + 1) if any(log[offset(number) + 4 : offset(number) + 8])]


def offset(number: int) -> int:
    return HEADER + (number - 1) * FRAME


def overwritten(log: bytes, start: int, data: bytes) -> bytes:
    return log[:start] + data + log[start + len(data) :]


class KilledTest(LossesCase):
    """The machine has not been booted since the last transaction."""

    def test_log_after_a_kill_has_lost_nothing(self) -> None:
        for number in range(8):
            self.lock(f"{number}" * 3000)

            self.assertEqual(0, self.lost(self.killed("locks.sqlite")))

    def test_truncated_log_has_lost_the_frames_behind_the_last_whole_transaction(self) -> None:
        files = self.locks_killed_after(12)
        chance = random.Random(1)
        for size in [0, 10, HEADER, *(chance.randrange(len(files["-wal"])) for _ in range(40))]:
            damaged = {**files, "-wal": files["-wal"][:size]}

            with self.subTest(size=size):
                self.assertEqual(frames(files["-wal"]) - self.recovered(damaged), self.lost(damaged))
                self.assertGreater(self.lost(damaged), 0)

    def test_log_that_is_missing_or_has_an_overwritten_header_has_lost_all_frames(self) -> None:
        files = self.locks_killed_after(5)
        log = files.pop("-wal")

        self.assertEqual(frames(log), self.lost(files))
        for header in (bytes(HEADER), b"x" * HEADER):
            self.assertEqual(frames(log), self.lost({**files, "-wal": overwritten(log, 0, header)}))

    def test_bytes_overwritten_anywhere_in_a_log_lose_the_frames_behind_them(self) -> None:
        files = self.locks_killed_after(12)
        for seed in range(40):
            chance = random.Random(seed)
            start = chance.randrange(len(files["-wal"]))
            length = min(chance.choice((1, 8, SECTOR, 4096, 20_000)), len(files["-wal"]) - start)
            damaged = {**files, "-wal": overwritten(files["-wal"], start, chance.randbytes(length))}

            with self.subTest(seed=seed, start=start, length=length):
                self.assertEqual(frames(files["-wal"]) - self.recovered(damaged), self.lost(damaged))

    def test_end_of_a_transaction_that_was_killed_is_not_lost(self) -> None:
        before = self.locks_killed_after(4)
        self.lock("x" * 20_000)
        after = self.killed("locks.sqlite")["-wal"]
        for size in range(len(before["-wal"]), len(after), 1000):
            self.assertEqual(0, self.lost({**before, "-wal": after[:size]}))

    def test_frames_of_the_log_before_it_began_anew_are_not_lost(self) -> None:
        self.open_locks(checkpoint_pages=30)
        whole = 0
        for number in range(40):
            self.lock(f"{number}" * 1500)
            files = self.killed("locks.sqlite")
            whole += frames(files["-wal"]) > self.recovered(files)

            self.assertEqual(0, self.lost(files))
        self.assertGreater(whole, 0)

    def test_damage_before_frames_of_an_earlier_log_is_counted_without_these(self) -> None:
        self.open_locks(checkpoint_pages=30)
        files = self.locks_killed_after(14)
        taken = self.recovered(files)
        damaged = {**files, "-wal": overwritten(files["-wal"], offset(2), b"x" * 100)}

        self.assertGreater(frames(files["-wal"]), taken)
        self.assertEqual(taken, self.lost(damaged))

    def test_log_that_was_copied_into_the_database_and_truncated_has_lost_nothing(self) -> None:
        self.locks_killed_after(3)
        self.locks._connect().execute("PRAGMA wal_checkpoint(TRUNCATE)")

        self.assertEqual(0, self.lost(self.killed("locks.sqlite")))

    def test_frames_that_are_in_the_database_are_not_lost_with_the_whole_log(self) -> None:
        self.locks_killed_after(3)
        self.locks._connect().execute("PRAGMA wal_checkpoint(PASSIVE)")
        files = self.killed("locks.sqlite")

        self.assertEqual(0, self.lost({**files, "-wal": b""}))

    def test_log_without_an_index_is_judged_by_its_checksums(self) -> None:
        files = self.locks_killed_after(6)
        del files["-shm"]
        whole = self.lost(files)
        files["-wal"] = overwritten(files["-wal"], offset(2) + 1000, b"x")

        self.assertEqual(0, whole)
        self.assertEqual(commits(files["-wal"])[-2] - self.recovered(files), self.lost(files))

    def test_log_that_takes_too_long_to_read_is_not_judged(self) -> None:
        path = self.restore({**self.locks_killed_after(3), "-wal": b"x" * 100_000})

        self.assertEqual(0, count_lost_frames(path, timeout=-1))

    def test_log_that_is_written_meanwhile_is_not_judged(self) -> None:
        files = self.locks_killed_after(6)
        path = self.restore({**files, "-wal": b""})
        self.lock("later")
        later = self.killed("locks.sqlite")["-shm"]

        def write(path: str) -> bool:
            Path(path + "-shm").write_bytes(later)
            return is_of_this_boot(path)

        with mock.patch("filestoraged.store.sqlite.losses.is_of_this_boot", write):
            self.assertEqual(0, count_lost_frames(path))

    def test_log_that_is_begun_anew_meanwhile_is_not_judged(self) -> None:
        files = self.locks_killed_after(8)
        del files["-shm"]
        files["-wal"] = overwritten(files["-wal"], offset(2), b"x" * 100)
        path = self.restore(files)

        def begin_anew(file: BinaryIO, header: losses._Header) -> Iterator[losses._Frame]:
            found = list(_frames(file, header))
            Path(path + "-wal").write_bytes(b"x" * HEADER + files["-wal"][HEADER:])
            return iter(found)

        self.assertGreater(count_lost_frames(path), 0)
        with mock.patch("filestoraged.store.sqlite.losses._frames", begin_anew):
            self.assertEqual(0, count_lost_frames(path))

    def test_nothing_is_changed(self) -> None:
        files = self.locks_killed_after(6)
        files["-wal"] = files["-wal"][:10_000]
        path = self.restore(files)

        self.assertEqual([f"{path}-wal"], [loss.path for loss in find_losses(path)])
        self.assertEqual(files, {suffix: Path(path + suffix).read_bytes() for suffix in SUFFIXES})

    def test_log_that_is_no_file_is_not_opened(self) -> None:
        path = self.restore({"": b"x" * 4096})
        os.mkfifo(path + "-wal")

        self.assertEqual([], find_losses(path))


class PowerCutTest(LossesCase):
    """The machine has been booted since the last transaction. What was not synced may be there or not."""

    @thorough("each of hundreds of states of a disk")
    def test_any_sectors_of_the_last_transaction_may_be_missing(self) -> None:
        self.lock("first")
        restarts = 0
        self.open_locks(checkpoint_pages=60)
        for seed in range(60):
            chance = random.Random(seed)
            before = self.killed("locks.sqlite")
            self.lock(f"{seed:03}" * chance.choice((3, 1000, 10_000)))
            after = self.killed("locks.sqlite")
            restarts += before["-wal"][:HEADER] != after["-wal"][:HEADER]
            with self.after_a_reboot(), self.subTest(seed=seed):
                for _ in range(5):
                    log = half_written(chance, before["-wal"], after["-wal"])
                    index = chance.choice((before, after))["-shm"]
                    self.assertEqual(0, self.lost({**before, "-wal": log, "-shm": index}))
        self.assertGreater(restarts, 0)

    def test_rest_of_a_cut_transaction_behind_later_ones_is_not_lost(self) -> None:
        first = self.locks_killed_after(3)
        self.lock("x" * 40_000)
        cut = bytearray(self.killed("locks.sqlite")["-wal"])
        cut[len(first["-wal"]) + 100] ^= 1
        path = self.restore({**first, "-wal": bytes(cut)})
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("INSERT INTO locks (repository, path, owner, created) VALUES ('pets', 'y', 'me', 0)")
            connection.commit()
            log = Path(path + "-wal").read_bytes()

        self.assertEqual(len(cut), len(log))
        with self.after_a_reboot():
            self.assertEqual(0, self.lost({**first, "-wal": log}))

    def test_any_sectors_of_all_sets_since_a_commit_may_be_missing(self) -> None:
        database.prepare(self.path("kv.sqlite"), KEYS_SCHEMA)
        keys = KeyValues(self.path("kv.sqlite"))
        self.addCleanup(keys.close)
        for seed in range(8):
            chance = random.Random(seed)
            keys.commit().result()
            before = self.killed("kv.sqlite")
            for number in range(12):
                keys.set(f"{number}", b"x" * chance.randrange(5000)).result()
            after = self.killed("kv.sqlite")
            with self.after_a_reboot(), self.subTest(seed=seed):
                for _ in range(5):
                    log = half_written(chance, before["-wal"], after["-wal"])
                    index = chance.choice((before, after))["-shm"]
                    self.assertEqual(0, self.lost({**before, "-wal": log, "-shm": index}, "kv.sqlite"))

    def test_header_with_the_mark_of_a_commit_from_an_earlier_log_is_no_commit(self) -> None:
        before = self.locks_killed_after(3)
        self.lock("x" * 40_000)
        log = self.killed("locks.sqlite")["-wal"]
        first = frames(before["-wal"]) + 1
        log = overwritten(log, offset(first) + 1000, b"x" * SECTOR)
        log = overwritten(log, offset(first + 2) + 4, b"\0\0\0\x07")

        with self.after_a_reboot():
            self.assertEqual(0, self.lost({**before, "-wal": log}))

    def test_damage_before_the_last_transactions_is_found(self) -> None:
        files = self.locks_killed_after(12)
        acknowledged = commits(files["-wal"])[-2]
        for seed in range(30):
            chance = random.Random(seed)
            start = chance.randrange(HEADER, offset(acknowledged - 1))
            length = min(chance.choice((1, SECTOR, 5000)), offset(acknowledged - 1) - start)
            damaged = {**files, "-wal": overwritten(files["-wal"], start, chance.randbytes(length))}
            with self.after_a_reboot(), self.subTest(seed=seed, start=start, length=length):
                self.assertEqual(acknowledged - self.recovered(damaged), self.lost(damaged))

    def test_overwritten_header_is_found_in_any_database(self) -> None:
        files = self.locks_killed_after(5)
        for name in ("locks.sqlite", "kv.sqlite"):
            for start in (b"\0" * HEADER, b"x" * HEADER, b"x" * 6000):
                damaged = {**files, "-wal": overwritten(files["-wal"], 0, start)}
                with self.after_a_reboot():
                    self.assertEqual(frames(files["-wal"]), self.lost(damaged, name))

    def test_log_that_was_cut_off_is_not_told_from_one_that_was_not_synced(self) -> None:
        files = self.locks_killed_after(5)
        with self.after_a_reboot():
            for size in range(0, len(files["-wal"]), 1000):
                self.assertEqual(0, self.lost({**files, "-wal": files["-wal"][:size]}))


def half_written(chance: random.Random, before: bytes, after: bytes) -> bytes:
    """A log of which some of the sectors written last are on disk. Those that are not are as before, or zero.

    A new header is synced before the frames behind it are written.
    """
    size = max(len(before), len(after))
    new = after.ljust(size, b"\0")
    old = overwritten(before.ljust(size, b"\0"), 0, after[:HEADER])
    share = chance.random()
    starts = range(0, size, SECTOR)
    data = b"".join((new if chance.random() < share else old)[start : start + SECTOR] for start in starts)
    return data[: chance.choice((size, len(before), chance.randint(len(before), size)))]


class EmptiedTest(LossesCase):
    def test_missing_database_and_an_empty_one_of_a_new_store_have_lost_nothing(self) -> None:
        for path in (self.path("kv.sqlite"), self.restore({"": b""}, "kv.sqlite")):
            self.assertEqual([], find_losses(path))

    def test_empty_database_with_a_log_has_lost_its_contents(self) -> None:
        files = self.locks_killed_after(3)
        for emptied in ({**files, "": b""}, {"-wal": files["-wal"]}):
            path = self.restore(emptied)

            (loss,) = find_losses(path)

            self.assertEqual(path, loss.path)
            self.assertIn("it has a log", loss.reason)

    def test_empty_database_beside_another_one_has_lost_its_contents(self) -> None:
        Path(self.path("kv.sqlite")).touch()

        (loss,) = find_losses(self.path("kv.sqlite"))

        self.assertEqual(self.path("kv.sqlite"), loss.path)

    def test_empty_database_beside_objects_has_lost_its_contents(self) -> None:
        for each in ("ab", "repositories/pets/ab", "names/pets/ab", "drops/ab", "restic/pets/keys"):
            path = self.restore({"": b""}, "kv.sqlite")
            directory = Path(path).parent / each
            directory.mkdir(parents=True)
            self.assertEqual([], find_losses(path))
            (directory / ("ab" * 32)).write_bytes(b"tea")

            self.assertEqual([path], [loss.path for loss in find_losses(path)])
