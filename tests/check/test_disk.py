"""The check of a disk store: it reports each kind of damage and nothing else, while other processes use the store."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.check.databases import SqliteRegistry
from filestoraged.check.disk import CheckedDisk, check_disk
from filestoraged.check.findings import DAMAGED, FOREIGN, HALF_MADE, UNREADABLE, CheckTotals, Finding
from filestoraged.check.inventory import Item, ItemKind
from filestoraged.check.rows import IDS_PER_QUERY
from filestoraged.check.s3 import classify
from filestoraged.check.store_check import ItemChecker
from filestoraged.check.throttle import CheckStopped, FileHasher, Throttle
from filestoraged.command_errors import CheckError
from filestoraged.digest import ALGORITHMS
from filestoraged.errors import NotFound, StoreUnavailable
from filestoraged.store.disk.quarantine import Quarantine
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.disk.volume import Volume
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Drop, Drops
from filestoraged.store.kv import KEYS_SCHEMA, KeyValues
from filestoraged.store.locks import LOCKS_SCHEMA
from filestoraged.store.name_tables import NAMES_SCHEMA
from filestoraged.store.names import Link, Names
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.permissions import PRIVATE
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.sqlite.reading import query
from filestoraged.store.system import LINUX
from tests.clock import PATIENT_CLOCK, PassingClock
from tests.store.disk.journals import JournalCase
from tests.store.disk.systems import PlainLinux
from tests.support import PATIENCE, TempCase, ago, read

TEA = b"tea" * 10
# Larger than a small file, so that threads hash it.
POT = os.urandom(700_000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_a_process_that_dies(work: Callable[[], object]) -> None:
    """Call `work` in a child that ends without closing anything."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0, status


class DiskCheckCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        # Without journals, so that files are what the tests make them.
        self.store = DiskStore(self.root, system=PlainLinux())
        self.store.prepare()
        self.pets = self.store.namespace("repositories").namespace("pets")

    def check(self, **settings: Any) -> list[Finding]:
        settings = {"algorithm": "sha256", "throttle": Throttle(), "threads": 2, **settings}
        self.disk_check = check_disk(str(self.root), **settings)
        return sorted(found for found in self.disk_check.findings(PATIENCE) if found is not None)

    def found(self, **settings: Any) -> list[str]:
        return [f"{finding.kind} {finding.path}" for finding in self.check(**settings)]

    def checker(self, *, repair: bool = False) -> ItemChecker:
        throttle = Throttle()
        store = CheckedDisk(str(self.root), throttle)
        return ItemChecker(store, algorithm="sha256", throttle=throttle, totals=CheckTotals(), repair=repair)

    def path(self, digest: str, *, within: str = "") -> Path:
        return self.root / within / digest[:2] / digest

    def spoil(self, path: Path) -> None:
        """Flip one bit, as a failing disk does."""
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def quarantined(self) -> list[Path]:
        return [path for path in (self.root / "quarantine").rglob("*") if path.is_file()]

    def snapshot(self) -> dict[str, int]:
        return {str(path): path.lstat().st_ino for path in self.root.rglob("*")}


class JournalTest(JournalCase):
    """What a power cut has left is replayed before anything is read."""

    def check(self, root: Path, *, repair: bool = False) -> list[Finding]:
        disk_check = check_disk(str(root), algorithm="sha256", throttle=Throttle(), threads=1, repair=repair)
        return [finding for finding in disk_check.findings(PATIENCE) if finding is not None]

    def test_object_whose_bytes_were_not_synced_is_whole_for_the_check(self) -> None:
        digest = self.upload(TEA).result(PATIENCE)
        copy = self.cut_power()
        self.path(digest, copy).write_bytes(b"")

        found = [finding for finding in self.check(copy) if finding.kind != HALF_MADE]

        self.assertEqual([], found)
        self.assertEqual(TEA, self.path(digest, copy).read_bytes())

    def test_journal_that_is_damaged_ends_a_check_and_is_moved_by_a_repair(self) -> None:
        for data in (TEA, POT):
            self.upload(data).result(PATIENCE)
        copy = self.cut_power()
        (segment,) = self.segments(copy)
        with segment.open("r+b") as stream:
            stream.write(b"x")

        with self.assertRaises(CheckError) as refused:
            self.check(copy)
        found = self.check(copy, repair=True)

        path = str(segment.relative_to(copy))
        self.assertIn(str(segment), str(refused.exception))
        self.assertEqual(
            (DAMAGED, path, f"moved to quarantine/{path}"), (found[0].kind, found[0].path, found[0].remedy)
        )
        self.assertEqual([], self.check(copy))

    def test_object_that_a_check_moved_is_not_brought_back_by_a_replay(self) -> None:
        digest = self.upload(TEA).result(PATIENCE)
        self.path(digest).write_bytes(b"spoiled")

        (moved,) = self.check(self.root, repair=True)

        copy = self.cut_power()
        self.recovered(copy)
        self.assertEqual(DAMAGED, moved.kind)
        self.assertFalse(self.path(digest, copy).exists())


class ObjectsTest(DiskCheckCase):
    def test_whole_store_has_no_findings(self) -> None:
        for data in (b"", TEA, POT):
            self.store.put(data)
            self.pets.put(data)
        database.prepare(str(self.root / "kv.sqlite"), KEYS_SCHEMA)
        database.prepare(str(self.root / "drops.sqlite"), DROPS_SCHEMA)
        database.prepare(str(self.root / "locks.sqlite"), LOCKS_SCHEMA)
        (self.root / "lost+found").mkdir()

        self.assertEqual([], self.check())
        self.assertEqual(6, self.disk_check.totals.objects)
        self.assertEqual(2 * (len(TEA) + len(POT)), self.disk_check.totals.size)

    def test_files_of_every_algorithm_are_recognised(self) -> None:
        for algorithm in ALGORITHMS:
            for data in (TEA, POT):
                self.store.namespace(".", algorithm=algorithm).put(data)

        self.assertEqual([], self.check())
        self.assertEqual([], self.check(algorithm="blake2s"))
        self.assertEqual(2 * len(ALGORITHMS), self.disk_check.totals.objects)

    def test_changed_bit_is_reported_as_damaged(self) -> None:
        digests = [self.store.put(data) for data in (TEA, POT)] + [self.pets.put(data) for data in (TEA, POT)]
        small, large = digests[0], digests[1]
        self.spoil(self.path(small))
        self.spoil(self.path(large, within="repositories/pets"))

        self.assertEqual(
            sorted([f"damaged {small[:2]}/{small}", f"damaged repositories/pets/{large[:2]}/{large}"]), self.found()
        )

    def test_truncated_empty_and_extended_objects_are_damaged(self) -> None:
        for number, (size, more) in enumerate(((-1, b""), (0, b""), (None, b"\0"))):
            data = POT + bytes([number])
            self.path(self.store.put(data)).write_bytes(data[:size] + more)

        self.assertEqual([DAMAGED] * 3, [finding.kind for finding in self.check()])

    def test_repository_object_named_by_another_algorithm_is_damaged(self) -> None:
        digest = hashlib.blake2s(TEA).hexdigest()
        self.place(f"repositories/pets/{digest[:2]}/{digest}", TEA)

        self.assertEqual([f"damaged repositories/pets/{digest[:2]}/{digest}"], self.found(algorithm="blake2s"))

    def test_damaged_file_of_restic_is_reported_and_moved_aside(self) -> None:
        repository = self.store.namespace("restic/laptop")
        repository.put(b"any bytes", name="config")
        names = ("data", "index", "keys", "locks", "snapshots")
        digest = sha256(TEA)
        for name in names:
            repository.namespace(name).put(TEA)
            repository.namespace(name).put(POT)
        # As restic makes it.
        (self.root / "restic" / "laptop" / "data" / "ff").mkdir()
        self.assertEqual([], self.check())
        self.assertEqual(10, self.disk_check.totals.objects)
        paths = [f"restic/laptop/data/{digest[:2]}/{digest}", *(f"restic/laptop/{each}/{digest}" for each in names[1:])]
        for path in paths:
            self.spoil(self.root / path)

        self.assertEqual([f"{DAMAGED} {path}" for path in paths], self.found(repair=True))

        self.assertEqual(sorted(self.root / "quarantine" / path for path in paths), sorted(self.quarantined()))
        self.assertEqual([], self.check())
        repository.namespace("data").put(TEA)
        self.assertEqual(TEA, read(repository.namespace("data").get(digest)))

    def test_repositories_may_have_the_name_of_a_shard(self) -> None:
        for name in ("ab", "c0"):
            self.store.namespace(f"restic/{name}").put(b"any bytes", name="config")
            for each in (f"restic/{name}/data", f"restic/{name}/keys", f"repositories/{name}"):
                self.store.namespace(each).put(TEA)

        self.assertEqual([], self.check())
        self.assertEqual(6, self.disk_check.totals.objects)
        for name in ("ab", "c0"):
            self.assertIs(ItemKind.CONFIG, classify(f"restic/{name}/config"))

    def test_foreign_files_in_a_repository_of_restic_are_reported(self) -> None:
        repository = self.store.namespace("restic/laptop")
        repository.put(b"any bytes", name="config")
        digest = repository.namespace("data").put(TEA)
        laptop = self.root / "restic" / "laptop"
        for path in ("notes", digest, "data/notes", f"data/{digest}", f"data/{digest[:2]}/notes", "locks/tmp/notes"):
            (laptop / path).parent.mkdir(parents=True, exist_ok=True)
            (laptop / path).touch()
        (laptop / "keys").touch()

        expected = ["notes", digest, "data/notes", f"data/{digest}", f"data/{digest[:2]}/notes", "locks/tmp"]

        found = self.found()
        self.assertEqual(sorted(f"{FOREIGN} restic/laptop/{path}" for path in expected), [*found[1:]])
        self.assertEqual(f"{DAMAGED} restic/laptop/keys", found[0])

    def test_read_error_of_the_disk_is_damage(self) -> None:
        digest = self.store.put(POT)

        with mock.patch("os.preadv", side_effect=OSError(errno.EIO, "Input/output error")):
            (finding,) = self.check()

        self.assertEqual(
            (DAMAGED, f"{digest[:2]}/{digest}", "it cannot be read: Input/output error"), tuple(finding)[:3]
        )

    def test_object_without_read_permission_is_unreadable_and_not_moved(self) -> None:
        digest = self.store.put(TEA)
        denied = PermissionError(errno.EACCES, "Permission denied")
        before = os.open

        def refuse(path: Any, *rest: Any, **named: Any) -> int:
            if str(path).endswith(digest):
                raise denied
            return before(path, *rest, **named)

        with mock.patch("os.open", refuse):
            (finding,) = self.check(repair=True)

        self.assertEqual((UNREADABLE, None), (finding.kind, finding.remedy))

    def test_lack_of_descriptors_is_an_error_and_no_damage(self) -> None:
        self.store.put(TEA)

        with mock.patch("os.open", side_effect=OSError(errno.EMFILE, "Too many open files")):
            self.assertRaises(OSError, self.check)

    def place(self, path: str, data: bytes) -> Path:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)
        return self.root / path


class ForeignTest(DiskCheckCase):
    def test_foreign_files_are_reported_and_never_changed(self) -> None:
        digest = self.store.put(TEA)
        oid = self.pets.put(TEA)
        other = sha256(POT)
        wrong = "00" if digest[:2] != "00" else "01"
        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / other).write_bytes(POT)
        (self.root / wrong).mkdir()
        self.path(digest).rename(self.root / wrong / digest)
        (self.root / digest[:2] / "README").write_text("mine")
        (self.root / "notes").mkdir()
        (self.root / "zz").mkdir()
        os.symlink(elsewhere, self.root / "fd")
        os.symlink("missing", self.root / "fb")
        (self.root / "fc").mkdir()
        (self.root / "fc" / ("fc" * 17 + "0")).mkdir()
        os.symlink(elsewhere / other, self.root / "fc" / ("fc" * 16))
        os.mkfifo(self.root / "fc" / ("fc" * 20))
        (self.root / "fc" / ("fc" * 17)).write_bytes(b"no digest has 34 digits")
        (self.root / "repositories" / "no repository").write_text("no repository")
        (self.root / "repositories" / "pets" / "abc").mkdir()
        (self.root / "drops").mkdir()
        (self.root / "drops" / "list").write_text("no drop")
        (self.root / "staging" / "notes").write_text("no staging")
        os.symlink("/dev/zero", self.root / "kv.sqlite")
        os.symlink("/dev/zero", self.root / "kv.sqlite.turn")
        os.symlink(elsewhere, self.root / "drops.owners")
        before = self.snapshot()

        found = self.found(repair=True)

        names = [wrong + "/" + digest, digest[:2] + "/README", "notes", "zz", "fb", "fd", "kv.sqlite"]
        names += ["kv.sqlite.turn", "drops.owners"]
        names += [f"fc/{'fc' * count}" for count in (16, 20, 17)]
        names += [
            f"fc/{'fc' * 17}0",
            "repositories/no repository",
            "repositories/pets/abc",
            "drops/list",
            "staging/notes",
        ]
        self.assertEqual(sorted(f"foreign {name}" for name in names), found)
        self.assertEqual(before, self.snapshot())
        self.assertTrue(self.path(oid, within="repositories/pets").exists())

    def test_foreign_file_that_was_removed_meanwhile_is_not_reported(self) -> None:
        (self.root / "notes").mkdir()

        with mock.patch("os.lstat", side_effect=FileNotFoundError):
            self.assertEqual([], self.check())

    def test_directory_that_cannot_be_listed_is_unreadable(self) -> None:
        self.store.put(TEA)
        scandir = os.scandir

        def refuse(path: Any) -> Any:
            if path != str(self.root):
                raise PermissionError(errno.EACCES, "Permission denied")
            return scandir(path)

        with mock.patch("os.scandir", refuse):
            self.assertEqual([UNREADABLE] * 2, [found.kind for found in self.check() if found.kind != FOREIGN])


class RepairTest(DiskCheckCase):
    def test_damaged_object_is_quarantined_and_an_upload_heals_it(self) -> None:
        digest, oid = self.store.put(POT), self.pets.put(TEA)
        self.spoil(self.path(digest))
        self.spoil(self.path(oid, within="repositories/pets"))
        spoiled = self.path(digest).read_bytes()

        remedies = {finding.path: finding.remedy for finding in self.check(repair=True)}

        moved = f"quarantine/{digest[:2]}/{digest}"
        self.assertEqual(f"moved to {moved}", remedies[f"{digest[:2]}/{digest}"])
        self.assertEqual(spoiled, (self.root / moved).read_bytes())
        self.assertRaises(NotFound, self.store.open, digest)
        self.assertEqual([], self.check(repair=True))
        self.assertEqual(digest, self.store.put(POT))
        self.assertEqual(POT, read(self.store.get(digest)))
        self.assertEqual([], self.check())

    def test_object_that_is_damaged_twice_is_quarantined_twice(self) -> None:
        for _ in range(3):
            digest = self.store.put(POT)
            self.spoil(self.path(digest))
            self.check(repair=True)

        kept = sorted(path.name for path in (self.root / "quarantine" / digest[:2]).iterdir())
        self.assertEqual([digest, f"{digest}.1", f"{digest}.2"], kept)

    def test_without_repair_nothing_changes(self) -> None:
        self.spoil(self.path(self.store.put(POT)))
        self.leave_a_staging()
        before = self.snapshot()

        self.assertEqual([DAMAGED, HALF_MADE], [finding.kind for finding in self.check()])
        self.assertEqual(before, self.snapshot())

    def test_failed_move_to_the_quarantine_is_reported(self) -> None:
        self.spoil(self.path(self.store.put(POT)))

        with mock.patch("os.rename", side_effect=OSError(errno.EROFS, "Read-only file system")):
            (finding,) = self.check(repair=True)

        self.assertIn("cannot be moved: Read-only file system", finding.reason)
        self.assertIsNone(finding.remedy)
        self.assertEqual([], self.quarantined())

    def test_stagings_of_a_dead_process_are_reported_and_swept(self) -> None:
        self.store.put(TEA)
        self.leave_a_staging()

        self.assertEqual([HALF_MADE], [finding.kind for finding in self.check()])
        self.assertEqual(["removed"], [finding.remedy for finding in self.check(repair=True)])
        self.assertEqual([], self.check())

    def test_area_that_cannot_be_removed_is_reported(self) -> None:
        self.leave_a_staging()
        (area,) = (self.root / "staging").iterdir()
        (area / "notes").mkdir()

        findings = self.check(repair=True)

        self.assertEqual([HALF_MADE] * 2, [finding.kind for finding in findings])
        self.assertEqual([None, "removed"], sorted((finding.remedy for finding in findings), key=bool))
        self.assertIn(
            "notes: the process that staged it has ended, and it cannot be removed",
            str([f"{finding.path}: {finding.reason}" for finding in findings]),
        )
        self.assertEqual([area / "notes"], list(area.iterdir()))

    def test_stagings_of_a_living_process_are_not_reported(self) -> None:
        with self.store.stage(100_000) as staging:
            staging.write(TEA)

            self.assertEqual([], self.check(repair=True))
            self.assertEqual(sha256(TEA), staging.commit().result(PATIENCE))

    def leave_a_staging(self) -> None:
        in_a_process_that_dies(lambda: DiskStore(self.root).stage(100_000).write(b"half of "))


class ObstacleTest(DiskCheckCase):
    """Directories in place of objects, and files in place of directories: nothing can be stored there."""

    def test_obstacles_are_damage_and_stay_without_repair(self) -> None:
        object_ = f"fc/{'fc' * 32}"
        oid = f"repositories/pets/fc/{'fc' * 32}"
        for path in (object_, oid):
            (self.root / path).mkdir(parents=True)
        directories = ["fe", "repositories/cats", "repositories/pets/fe", "drops", "uploads", "staging", "drops.owners"]
        for path in directories:
            (self.root / path).write_text("a file")
        os.mkfifo(self.root / "fd")
        before = self.snapshot()

        found = self.found(algorithm="sha256")

        self.assertEqual(sorted(f"damaged {path}" for path in (object_, oid, "fd", *directories)), found)
        self.assertEqual(before, self.snapshot())

    def test_repair_moves_obstacles_with_their_contents_and_objects_can_be_stored(self) -> None:
        name = sha256(TEA)
        shard = self.root / name[:2]
        (self.root / "repositories").mkdir()
        (self.root / "repositories" / "pets").write_text("a repository")
        shard.write_text("a shard")

        remedies = {finding.path: finding.remedy for finding in self.check(repair=True)}
        self.assertEqual(
            {
                name[:2]: f"moved to quarantine/{name[:2]}~",
                "repositories/pets": "moved to quarantine/repositories/pets~",
            },
            remedies,
        )
        (shard / name).mkdir(parents=True)
        (shard / name / "notes").write_text("an object")
        self.assertEqual(
            [f"moved to quarantine/{name[:2]}/{name}"], [finding.remedy for finding in self.check(repair=True)]
        )
        for store in (self.store, self.pets):
            store.put(TEA)
        self.assertEqual([], self.check(repair=True))
        quarantine = self.root / "quarantine"
        self.assertEqual("a shard", (quarantine / f"{name[:2]}~").read_text())
        self.assertEqual("a repository", (quarantine / "repositories" / "pets~").read_text())
        self.assertEqual("an object", (quarantine / name[:2] / name / "notes").read_text())

    def test_second_obstacle_in_the_same_place_is_kept_beside_the_first(self) -> None:
        for _ in range(2):
            (self.root / "fe").touch()
            (self.root / "fc" / ("fc" * 32)).mkdir(parents=True)

            self.check(repair=True)

        kept = sorted(os.listdir(self.root / "quarantine")), sorted(os.listdir(self.root / "quarantine" / "fc"))
        self.assertEqual((["fc", "fe~", "fe~.1"], ["fc" * 32, "fc" * 32 + ".1"]), kept)

    def test_object_that_replaces_a_directory_just_before_the_move_keeps_its_name(self) -> None:
        digest = sha256(TEA)
        self.path(digest).mkdir(parents=True)
        rename = os.rename

        def replace_first(*arguments: Any, **named: Any) -> None:
            self.path(digest).rmdir()
            self.path(digest).write_bytes(TEA)
            rename(*arguments, **named)

        with mock.patch("os.rename", replace_first):
            self.assertEqual([], self.check(repair=True, threads=1))

        self.assertEqual([], os.listdir(self.root / "quarantine" / digest[:2]))
        with self.store.get(digest) as stream:
            self.assertEqual(TEA, stream.read())

    def test_directory_that_replaces_a_file_before_it_is_opened_is_not_moved(self) -> None:
        checker = self.checker(repair=True)
        digest = self.store.put(TEA)

        self.assertIsNone(checker.check(Item(ItemKind.OBSTACLE, digest[:2], "it is not a directory")))
        self.assertIsNone(checker.check(Item(ItemKind.OBSTACLE, "fe", "it is not a directory")))
        self.assertTrue(self.path(digest).exists())


class RaceTest(DiskCheckCase):
    """Changes by other processes between two steps of the check."""

    def setUp(self) -> None:
        super().setUp()
        self.digest = self.store.put(POT)
        self.spoil(self.path(self.digest))

    def test_object_that_is_replaced_while_it_is_read_is_read_again(self) -> None:
        for repair in (True, False):
            with self.after_reading(lambda: self.store.put(POT)):
                self.assertEqual([], self.check(repair=repair))

            self.assertEqual(POT, read(self.store.get(self.digest)))
            self.spoil(self.path(self.digest))

    def test_link_that_replaces_an_object_before_it_is_opened_is_foreign(self) -> None:
        checker = self.checker()
        path = self.path(self.digest)
        path.rename(self.directory / "elsewhere")
        path.symlink_to(self.directory / "elsewhere")

        finding = checker.check(Item(ItemKind.OBJECT, f"{self.digest[:2]}/{self.digest}"))

        assert finding is not None
        self.assertEqual((FOREIGN, "it is a symbolic link"), (finding.kind, finding.reason))

    def test_object_removed_while_it_is_read_is_not_reported(self) -> None:
        with self.after_reading(lambda: self.store.remove(self.digest)):
            self.assertEqual([], self.check(repair=True))

    def test_object_removed_before_it_is_opened_is_not_reported(self) -> None:
        checker = self.checker()
        self.store.remove(self.digest)

        self.assertIsNone(checker.check(Item(ItemKind.OBJECT, f"{self.digest[:2]}/{self.digest}")))

    def test_whole_upload_during_the_move_waits_for_it_and_keeps_its_name(self) -> None:
        rename = os.rename
        upload = threading.Thread(target=self.store.put, args=(POT,))

        def upload_first(*arguments: Any, **named: Any) -> None:
            if "quarantine" in arguments[1]:
                upload.start()
            rename(*arguments, **named)

        with mock.patch("os.rename", upload_first):
            self.assertEqual([DAMAGED], [each.kind for each in self.check(repair=True)])
        upload.join()

        self.assertEqual(POT, read(self.store.get(self.digest)))
        self.assertEqual([self.digest], [path.name for path in self.quarantined()])

    def test_two_repairs_at_once_move_it_once(self) -> None:
        with self.after_reading(lambda: self.check(repair=True)):
            self.assertEqual([], self.check(repair=True))

        self.assertEqual([self.digest], [path.name for path in self.quarantined()])

    def test_repairs_and_uploads_at_full_speed_lose_nothing(self) -> None:
        ends = threading.Event()

        def repair() -> None:
            while not ends.is_set():
                self.check(repair=True)

        checker = threading.Thread(target=repair)
        checker.start()
        try:
            for _ in range(150):
                with contextlib.suppress(FileNotFoundError):
                    self.spoil_by_replacing(self.path(self.digest))
                self.assertEqual(self.digest, self.store.put(POT))
                self.wait_until("the upload is there", lambda: self.path(self.digest).exists())
                self.assertEqual(POT, self.path(self.digest).read_bytes())
        finally:
            ends.set()
            checker.join()
        self.assertEqual([], self.check())

    def spoil_by_replacing(self, path: Path) -> None:
        """Replace the object by a damaged file, with another inode than the whole file that was just read."""
        spoiled = self.directory / "spoiled"
        spoiled.write_bytes(POT[:-1])
        os.rename(spoiled, path)

    @contextlib.contextmanager
    def after_reading(self, do: Any) -> Iterator[None]:
        """Call `do` once, after the first object was read and before its finding."""
        digest = FileHasher.digest
        done: list[bool] = []

        def read_and_do(*arguments: Any) -> str:
            actual = digest(*arguments)
            if not done:
                done.append(True)
                do()
            return actual

        with mock.patch.object(FileHasher, "digest", read_and_do):
            yield


class DropsTest(DiskCheckCase):
    def setUp(self) -> None:
        super().setUp()
        self.database = str(self.root / "drops.sqlite")
        database.prepare(self.database, DROPS_SCHEMA)
        self.drops = self.open_registry()
        self.bytes = DiskStore(self.root / "drops", within=self.store)

    def open_registry(self) -> Drops:
        owners = OwnerFiles(str(self.root / "drops.owners"))
        drops = Drops(TransactionQueue(self.database, DROPS_SCHEMA), owners, ttl=1000.0)
        self.open = contextlib.ExitStack()
        self.addCleanup(self.open.close)
        self.open.callback(drops.close)
        return drops

    def test_drops_in_every_state_have_no_findings(self) -> None:
        self.announced()
        available, claimed, gone, removed = (self.bring() for _ in range(4))
        claims = {id_: self.drops.claim(id_).result() for id_ in (claimed, gone, removed)}
        self.drops.finish(claims[removed]).result()
        while self.drops.remove(self.bytes.remove_all):
            pass
        # Its bytes are not removed yet.
        self.drops.hand_over(claims[gone], keep=1000.0).result()

        self.assertEqual([], self.check(repair=True))
        self.assertTrue(self.path(available, within="drops").exists())

    def test_bytes_of_an_arriving_drop_are_not_orphaned(self) -> None:
        self.put(self.announced())

        self.assertEqual([], self.check())

    def test_orphaned_bytes_are_reported_and_quarantined(self) -> None:
        never, gone = "ab" * 16, self.bring()
        self.put(never)
        self.drops.finish(self.drops.claim(gone).result()).result()
        while self.drops.remove(lambda ids: {}):
            pass
        whole = self.bring()

        self.assertEqual(sorted(f"orphaned drops/{id_[:2]}/{id_}" for id_ in (never, gone)), self.found())
        remedies = [finding.remedy for finding in self.check(repair=True)]
        self.assertEqual(
            sorted(f"moved to quarantine/drops/{id_[:2]}/{id_}" for id_ in (never, gone)), sorted(remedies)
        )
        self.assertEqual([], self.check())
        self.assertTrue(self.path(whole, within="drops").exists())

    def test_bytes_that_are_removed_before_their_row_is_looked_up_are_not_orphaned(self) -> None:
        never = "ab" * 16
        self.put(never)
        without_row = SqliteRegistry.without_row

        def removed(registry: SqliteRegistry, ids: Any) -> Any:
            self.path(never, within="drops").unlink()
            return without_row(registry, ids)

        with mock.patch.object(SqliteRegistry, "without_row", removed):
            self.assertEqual([], self.check())

    def test_drops_without_bytes_are_reported_and_kept(self) -> None:
        available, claimed = self.bring(), self.bring()
        self.bring()
        self.drops.claim(claimed).result()
        for id_ in (available, claimed):
            self.bytes.remove(id_)

        for repair in (True, False):
            self.assertEqual(
                sorted(f"missing drops/{id_[:2]}/{id_}" for id_ in (available, claimed)), self.found(repair=repair)
            )

    def test_drops_in_an_unreadable_directory_are_not_reported_as_missing(self) -> None:
        self.bring()
        lstat = os.lstat

        def refuse(path: Any) -> os.stat_result:
            if "/drops/" in str(path):
                raise PermissionError(errno.EACCES, "Permission denied")
            return lstat(path)

        with mock.patch("os.lstat", refuse):
            self.assertEqual([], self.check())

    def test_more_drops_than_one_query_holds_are_checked(self) -> None:
        rows = [f"{number:032x}" for number in range(1203)]
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.executemany(
                "INSERT INTO drops (id, state, changed, created) VALUES (?, 1, 0, 0)", ((row,) for row in rows)
            )
        (self.root / "drops" / "00").mkdir(parents=True)
        for row in rows[:-1]:
            (self.root / "drops" / "00" / row).touch()
        (self.root / "drops" / "00" / ("00" + "f" * 30)).touch()

        self.assertEqual([f"missing drops/00/{rows[-1]}", f"orphaned drops/00/00{'f' * 30}"], self.found())

    def test_registry_is_read_in_use_and_at_rest(self) -> None:
        self.bring()
        self.put("ab" * 16)
        self.assertTrue(Path(self.database + "-wal").exists())

        in_use = self.found()
        self.open.close()

        self.assertFalse(Path(self.database + "-wal").exists())
        before = self.snapshot()
        self.assertEqual(in_use, self.found())
        self.assertEqual(before, self.snapshot())

    def test_drop_fetched_before_its_row_is_read_is_not_reported(self) -> None:
        id_ = self.bring()
        without_row = SqliteRegistry.without_row

        def fetch_first(registry: SqliteRegistry, ids: list[str]) -> set[str]:
            self.fetch(id_)
            return without_row(registry, ids)

        with mock.patch.object(SqliteRegistry, "without_row", fetch_first):
            self.assertEqual([], self.check(repair=True))

    def test_drop_fetched_before_its_bytes_are_looked_up_is_not_reported(self) -> None:
        id_ = self.bring()
        all_with_bytes = SqliteRegistry.all_with_bytes

        def fetch_then(registry: SqliteRegistry) -> Iterator[tuple[str, int | None]]:
            for each in all_with_bytes(registry):
                self.fetch(id_)
                yield each

        with mock.patch.object(SqliteRegistry, "all_with_bytes", fetch_then):
            self.assertEqual([], self.check(repair=True))

    def test_bytes_without_a_registry_are_not_taken_for_orphaned(self) -> None:
        self.bring()
        self.open.close()
        os.unlink(self.database)

        self.assertEqual(["unreadable drops.sqlite"], self.found())
        self.assertFalse(Path(self.database).exists())

    def test_drops_are_not_reported_if_the_registry_is_a_link_or_a_pipe(self) -> None:
        self.bring()
        self.open.close()
        replacements: tuple[Callable[[], None], ...] = (
            lambda: os.mkfifo(self.database),
            lambda: os.symlink(self.directory / "d", self.database),
        )
        for replace in replacements:
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.database, self.directory / "d")
            replace()

            self.assertEqual(["foreign drops.sqlite"], self.found(repair=True))
            os.unlink(self.database)

    def test_damaged_registry_is_reported_instead_of_its_drops(self) -> None:
        self.bring()
        self.put("ab" * 16)
        self.open.close()
        Path(self.database).write_bytes(b"no database at all, and longer than its magic")

        self.assertEqual(["damaged drops.sqlite"], self.found(repair=True))
        self.assertTrue(self.path("ab" * 16, within="drops").exists())

    def announced(self) -> str:
        return self.drops.announce().result()

    def bring(self) -> str:
        id_ = self.announced()
        self.put(id_)
        self.drops.publish(Drop(id_, "cup.txt", None)).result()
        return id_

    def fetch(self, id_: str) -> None:
        self.drops.finish(self.drops.claim(id_).result()).result()
        while self.drops.remove(self.bytes.remove_all):
            pass

    def put(self, id_: str) -> None:
        self.bytes.put(TEA, name=id_)


class DatabasesTest(DiskCheckCase):
    def test_damaged_page_is_reported(self) -> None:
        path = self.root / "kv.sqlite"
        database.prepare(str(path), KEYS_SCHEMA)
        with contextlib.closing(sqlite3.connect(str(path))) as connection, connection:
            connection.execute("CREATE TABLE filling (text TEXT)")
            connection.executemany("INSERT INTO filling VALUES (?)", [("x" * 500,)] * 500)
        self.assertEqual([], self.check())
        data = bytearray(path.read_bytes())
        data[-40000:-30000] = bytes(10000)
        path.write_bytes(data)

        (finding,) = self.check()

        self.assertEqual((DAMAGED, "kv.sqlite"), (finding.kind, finding.path))
        self.assertIn("SQLite reports", finding.reason)

    def test_file_that_is_no_database_is_damaged(self) -> None:
        for name, data in (("kv.sqlite", b"few"), ("kv.sqlite", b"x"), ("locks.sqlite", b"x" * 4096)):
            (self.root / name).write_bytes(data)

            self.assertEqual([f"damaged {name}"], self.found())
            (self.root / name).unlink()

    def test_registry_of_another_program_is_damaged(self) -> None:
        for name in ("drops.sqlite", "uploads.sqlite"):
            database.prepare(str(self.root / name), KEYS_SCHEMA)

            self.assertEqual([f"damaged {name}"], self.found())
            (self.root / name).unlink()

    def test_database_that_another_program_keeps_locked_is_unreadable_and_all_else_is_checked(self) -> None:
        for name, schema in (("kv.sqlite", KEYS_SCHEMA), ("drops.sqlite", DROPS_SCHEMA)):
            database.prepare(str(self.root / name), schema)
        digest = self.store.put(TEA)
        self.spoil(self.path(digest))
        DiskStore(self.root / "drops", within=self.store).put(TEA, name="ab" * 16)

        with self.locked("kv.sqlite"), self.locked("drops.sqlite"):
            findings = self.check(throttle=Throttle(clock=PassingClock()))

        self.assertEqual(
            ["damaged " + digest[:2] + "/" + digest, "unreadable drops.sqlite", "unreadable kv.sqlite"],
            [f"{finding.kind} {finding.path}" for finding in findings],
        )
        self.assertIn("database is locked", findings[1].reason)

    def test_registry_that_is_locked_after_it_was_examined_is_unreadable(self) -> None:
        database.prepare(str(self.root / "drops.sqlite"), DROPS_SCHEMA)
        drops = DiskStore(self.root / "drops", within=self.store)
        drops.put(TEA, name="0" * 32)
        # More than one query has.
        for number in range(1, 2 * IDS_PER_QUERY):
            self.path(f"{number:032x}", within="drops").write_bytes(TEA)

        def refuse(*_: Any) -> Any:
            raise StoreUnavailable("The database is busy.")

        locked = mock.patch("filestoraged.check.databases.query", refuse)
        with (
            locked,
            mock.patch.object(SqliteRegistry, "damage", None),
        ):
            findings = [finding for finding in self.check() if finding.kind == UNREADABLE]

        self.assertEqual(
            ["drops cannot be compared with it: The database is busy."], [each.reason for each in findings]
        )

    def test_query_keeps_the_locks_of_a_simultaneous_query(self) -> None:
        path = self.root / "kv.sqlite"
        database.prepare(str(path), KEYS_SCHEMA)
        with contextlib.closing(sqlite3.connect(str(path))) as writer:
            writer.execute("SELECT 1 FROM pairs").fetchall()

            def query_again(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
                connection.execute("SELECT 1 FROM pairs").fetchall()
                before = self.locks(path)
                query(str(path), lambda other: other.execute("SELECT 1 FROM pairs").fetchall())
                return before, self.locks(path)

            before, after = query(str(path), query_again)

        self.assertGreater(len(before), 0)
        self.assertEqual(before, after)

    def test_query_of_an_empty_database_keeps_its_log(self) -> None:
        path = self.root / "kv.sqlite"
        path.touch()
        log = self.root / "kv.sqlite-wal"
        log.write_bytes(b"x" * 5000)

        query(str(path), lambda connection: connection.execute("PRAGMA integrity_check").fetchall())

        self.assertEqual(b"x" * 5000, log.read_bytes())

    def locks(self, path: Path) -> list[str]:
        """The locks of this process on the file."""
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
        ours = [line.split() for line in lines if f":{inode} " in line and f" {os.getpid()} " in line]
        return [" ".join(fields[1:]) for fields in ours]

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Lock the database exclusively, as another program does."""
        with contextlib.closing(sqlite3.connect(str(self.root / name), isolation_level=None)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE ours (text TEXT)")
            yield

    def test_database_left_by_a_crash_is_read_with_its_log(self) -> None:
        path = self.root / "kv.sqlite"

        def make() -> None:
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE cups (tea)")
            # The connection would be closed with its last reference.
            os._exit(0)

        in_a_process_that_dies(make)
        before = self.snapshot()

        self.assertEqual([], self.check())
        self.assertEqual(before, self.snapshot())

    def test_truncated_log_is_damaged_and_left_as_it_is(self) -> None:
        log = self.kill_a_daemon_with_keys()
        self.assertEqual([], self.check())
        os.truncate(log, log.stat().st_size - 5000)
        before = log.read_bytes()

        (finding,) = self.check(repair=True)

        self.assertEqual((DAMAGED, "kv.sqlite-wal"), (finding.kind, finding.path))
        self.assertIn("frames", finding.reason)
        self.assertEqual(before, log.read_bytes())

    def test_empty_database_with_a_log_is_damaged_and_keeps_its_log(self) -> None:
        log = self.kill_a_daemon_with_keys()
        before = log.read_bytes()
        os.truncate(self.root / "kv.sqlite", 0)

        self.assertEqual(["damaged kv.sqlite"], self.found(repair=True))
        self.assertEqual(before, log.read_bytes())

    def test_empty_database_beside_objects_is_damaged(self) -> None:
        (self.root / "kv.sqlite").touch()
        self.assertEqual([], self.check())
        self.store.put(TEA)

        self.assertEqual(["damaged kv.sqlite"], self.found())

    def kill_a_daemon_with_keys(self) -> Path:
        """Returns the log that it leaves."""
        path = str(self.root / "kv.sqlite")

        def commit() -> None:
            database.prepare(path, KEYS_SCHEMA)
            keys = KeyValues(path)
            for number in range(5):
                keys.set(str(number), b"x" * 3000).result()
                keys.commit().result()
            os._exit(0)

        in_a_process_that_dies(commit)
        return Path(path + "-wal")


class EndTest(DiskCheckCase):
    def test_stopped_check_raises_check_stopped(self) -> None:
        for number in range(50):
            self.store.put(POT + bytes([number]))
        throttle = Throttle(1000)
        findings = check_disk(str(self.root), algorithm="sha256", throttle=throttle).findings(0.01)
        self.assertIsNone(next(findings))

        throttle.stop()

        self.assertRaises(CheckStopped, list, findings)

    def test_missing_store_raises_os_error(self) -> None:
        os.rename(self.root, self.directory / "away")

        self.assertRaises(FileNotFoundError, self.check)

    def test_many_findings_wait_for_a_slow_caller(self) -> None:
        for number in range(2000):
            (self.root / f"note {number}").touch()

        self.assertEqual(2000, len(self.check()))


class QuarantineTest(DiskCheckCase):
    def test_pipe_is_moved_without_waiting_for_its_other_end(self) -> None:
        path = "drops/ab/" + "ab" * 16
        (self.root / "drops" / "ab").mkdir(parents=True)
        os.mkfifo(self.root / path)
        descriptor = os.open(self.root / path, os.O_PATH | os.O_NOFOLLOW)
        self.addCleanup(os.close, descriptor)

        target = Quarantine(Volume(str(self.root), PRIVATE)).move(path, descriptor)

        assert target is not None
        self.assertTrue(stat.S_ISFIFO((self.root / target).lstat().st_mode))

    def test_new_name_is_durable_before_the_old_one_is_durably_removed(self) -> None:
        digest = self.store.put(TEA)
        descriptor = os.open(self.path(digest), os.O_PATH | os.O_NOFOLLOW)
        self.addCleanup(os.close, descriptor)
        synced = []
        sync = os.fsync

        def noted_sync(directory: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{directory}"))
            sync(directory)

        with mock.patch.object(LINUX, "fsync", noted_sync):
            Quarantine(Volume(str(self.root), PRIVATE)).move(f"{digest[:2]}/{digest}", descriptor)

        new, old = f"{self.root}/quarantine/{digest[:2]}", f"{self.root}/{digest[:2]}"
        self.assertLess(synced.index(new), synced.index(old))


class NamesTest(DiskCheckCase):
    """Objects that names lead to, beside the names."""

    def setUp(self) -> None:
        super().setUp()
        self.space = self.store.namespace("names").namespace("s")
        path = str(self.root / "names.sqlite")
        database.prepare(path, NAMES_SCHEMA)
        self.names = Names(TransactionQueue(path, NAMES_SCHEMA, clock=PATIENT_CLOCK))
        self.addCleanup(self.names.close)

    def put(self, name: str, data: bytes) -> str:
        oid = self.space.put(data)
        self.names.put("s", name, Link(oid, len(data)), number=0).result()
        return oid

    def path_of(self, oid: str) -> str:
        return f"names/s/{oid[:2]}/{oid}"

    def test_names_with_bytes_are_sound(self) -> None:
        for number in range(3):
            self.put(f"a/{number}", b"%d" % number)
        self.put("b", b"0")
        self.names.remove("s", "a/2").result()

        self.assertEqual([], self.check())
        self.assertEqual(3, self.disk_check.totals.objects)

    def test_name_without_bytes_is_missing(self) -> None:
        lost, short = self.put("a", TEA), self.put("b", POT)
        self.space.remove(lost)
        os.truncate(self.space.path(short), 5)

        found = self.found()

        expected = [f"missing {self.path_of(lost)}", f"missing {self.path_of(short)}", f"damaged {self.path_of(short)}"]
        self.assertEqual(sorted(expected), found)

    def test_bytes_without_a_name_are_orphaned_after_a_day_and_moved_aside(self) -> None:
        young, old = self.space.put(b"young"), self.space.put(b"old")
        os.utime(self.space.path(old), (ago(26 * 3600), ago(26 * 3600)))

        self.assertEqual([f"orphaned {self.path_of(old)}"], self.found())
        self.check(repair=True)

        self.assertEqual([young], self.space.list())
        self.assertTrue((self.root / "quarantine" / self.path_of(old)).exists())

    def test_damaged_object_is_reported_and_an_upload_heals_it(self) -> None:
        oid = self.put("a", POT)
        Path(self.space.path(oid)).write_bytes(bytes(len(POT)))

        self.assertEqual([f"damaged {self.path_of(oid)}"], self.found())
        self.put("a", POT)
        self.assertEqual([], self.found())

    def test_sums_of_an_area_that_are_not_those_of_its_objects_are_damaged(self) -> None:
        self.put("a", TEA)
        self.names.transactions.write(lambda each: each.execute("UPDATE areas SET bytes = bytes + 1")).result()

        self.assertEqual(["damaged names.sqlite/names/s"], self.found())

    def test_missing_database_is_reported_and_nothing_is_moved(self) -> None:
        oid = self.put("a", TEA)
        os.utime(self.space.path(oid), (0, 0))
        self.names.close()
        (self.root / "names.sqlite").unlink()

        self.assertEqual(["unreadable names.sqlite"], self.found(repair=True))
        self.assertEqual([oid], self.space.list())
