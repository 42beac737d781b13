"""Pruning: which objects of a repository move to the quarantine, and that uploads meanwhile are safe."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from unittest import mock

from filestoraged.check.disk import CheckedDisk
from filestoraged.check.prune import Prune, Pruned, read_keep_list
from filestoraged.check.throttle import CheckStopped, Throttle
from filestoraged.command_errors import CheckError
from filestoraged.errors import NotFound
from filestoraged.store.disk.quarantine import Quarantine
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.system import LINUX
from tests.support import TempCase, ago

DAY = 24 * 3600


class PruneCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.store = DiskStore(self.root)
        self.store.prepare()
        self.repository = self.store.namespace("repositories").namespace("pets")

    def stored(self, data: bytes, *, days: float) -> str:
        """Store an object as if that many days ago."""
        oid = self.repository.put(data)
        self.age(oid, days)
        return oid

    def age(self, oid: str, days: float) -> None:
        os.utime(self.repository.path(oid), (ago(days * DAY),) * 2)

    def prune(self, *keep: str, days: float = 14) -> Prune:
        oids = frozenset(bytes.fromhex(oid) for oid in keep)
        return Prune(CheckedDisk(str(self.root), Throttle()), "pets", oids, before=ago(days * DAY), throttle=Throttle())

    def quarantined(self, oid: str) -> Path:
        return self.root / "quarantine" / "repositories" / "pets" / oid[:2] / oid


class PruneTest(PruneCase):
    def test_old_objects_that_are_not_named_are_moved(self) -> None:
        kept, recent, old = (
            self.stored(b"kept", days=20),
            self.stored(b"recent", days=13.9),
            self.stored(b"old", days=14.1),
        )

        run = self.prune(kept)
        moved = list(run.run())

        path = f"quarantine/repositories/pets/{old[:2]}/{old}"
        self.assertEqual([(old, 3, path)], [(each.oid, each.size, each.path) for each in moved])
        self.assertEqual(b"old", self.quarantined(old).read_bytes())
        self.assertEqual([kept, recent], sorted(self.repository.list(), key=[kept, recent].index))
        totals = run.totals
        self.assertEqual((1, 1, 1, 3), (totals.named, totals.recent, totals.pruned, totals.size))

    def test_object_of_the_very_age_stays(self) -> None:
        oid = self.stored(b"recent", days=20)
        age = os.stat(self.repository.path(oid)).st_mtime

        run = Prune(CheckedDisk(str(self.root), Throttle()), "pets", frozenset(), before=age, throttle=Throttle())

        self.assertEqual([], list(run.run()))
        self.assertEqual([oid], self.repository.list())

    def test_object_comes_back_by_a_rename(self) -> None:
        old = self.stored(b"old", days=20)
        list(self.prune().run())
        self.assertRaises(NotFound, self.repository.open, old)

        os.rename(self.quarantined(old), self.repository.path(old))

        with self.repository.get(old) as stream:
            self.assertEqual(b"old", stream.read())

    def test_find_moves_nothing(self) -> None:
        old = self.stored(b"old", days=20)

        run = self.prune()

        self.assertEqual([Pruned(old, 3, mock.ANY, None)], list(run.find()))
        self.assertEqual((1, 3), (run.totals.pruned, run.totals.size))
        self.assertEqual([old], list(self.repository.list()))

    def test_other_repositories_and_files_are_left(self) -> None:
        other = self.store.namespace("repositories").namespace("pets2")
        oid, digest = other.put(b"old"), self.store.put(b"old")
        for path in (other.path(oid), self.store.path(digest)):
            os.utime(path, (0, 0))

        self.assertEqual([], list(self.prune().run()))

    def test_foreign_files_links_and_directories_are_left(self) -> None:
        oid = self.stored(b"old", days=20)
        shard = Path(self.repository.path(oid)).parent
        foreign = [shard / "notes", shard / (oid[:2] + "0" * 30), shard.parent / "notes"]
        for path in foreign:
            path.touch()
            os.utime(path, (0, 0))
        (shard / (oid[:2] + "0" * 62)).mkdir()
        (shard / (oid[:2] + "1" * 62)).symlink_to("notes")

        self.assertEqual([oid], [each.oid for each in self.prune().run()])
        self.assertTrue(all(path.exists() for path in foreign))

    def test_object_that_is_uploaded_again_is_recent(self) -> None:
        oid = self.stored(b"old", days=20)
        self.repository.put(b"old")

        self.assertEqual([], list(self.prune().run()))
        self.assertEqual([oid], list(self.repository.list()))

    def test_upload_during_the_move_keeps_its_name(self) -> None:
        oid = self.stored(b"old", days=20)
        move = Quarantine.move

        def upload_before(quarantine: Quarantine, path: str, descriptor: int, suffix: str) -> str | None:
            self.repository.put(b"old")
            return move(quarantine, path, descriptor, suffix)

        with mock.patch.object(Quarantine, "move", upload_before):
            moved = list(self.prune().run())

        self.assertEqual(([], [oid]), (moved, list(self.repository.list())))
        self.assertFalse(self.quarantined(oid).exists())

    def test_removal_during_the_run_is_no_error(self) -> None:
        oids = [self.stored(bytes([number]), days=20) for number in range(5)]
        run = self.prune().run()
        next(run)
        for oid in oids:
            with self.subTest(oid=oid), mock.patch.object(LINUX, "fsync"):
                try:
                    self.repository.remove(oid)
                except NotFound:
                    continue

        self.assertEqual([], list(run))

    def test_many_objects_are_pruned_page_by_page(self) -> None:
        oids = {self.stored(str(number).encode(), days=20) for number in range(100)}
        kept = sorted(oids)[::7]

        store = CheckedDisk(str(self.root), Throttle(), page=9)
        keep = frozenset(map(bytes.fromhex, kept))
        prune = Prune(store, "pets", keep, before=ago(14 * DAY), throttle=Throttle())
        moved = [each.oid for each in prune.run()]

        self.assertEqual(sorted(oids - set(kept)), moved)

    def test_stop_leaves_the_rest(self) -> None:
        for number in range(5):
            self.stored(bytes([number]), days=20)
        throttle = Throttle()
        prune = Prune(CheckedDisk(str(self.root), Throttle()), "pets", frozenset(), before=ago(0), throttle=throttle)
        run = prune.run()
        next(run)
        throttle.stop()

        self.assertRaises(CheckStopped, next, run)
        self.assertEqual((1, 4), (prune.totals.pruned, len(self.repository.list())))


class KeepListTest(TempCase):
    def test_first_word_of_each_line_is_an_oid(self) -> None:
        first, second = (hashlib.sha256(each).hexdigest() for each in (b"1", b"2"))
        lines = f"{first} * a b.psd\n\n  \n{second.upper()} - \xe9\r\n{first}\n".encode("latin-1")

        keep = read_keep_list(lines.split(b"\n"))

        self.assertEqual(frozenset(map(bytes.fromhex, (first, second))), keep)

    def test_line_without_an_oid_is_refused(self) -> None:
        oid = "a" * 64
        for line in ("x", oid[1:], oid + "a", f"- {oid}", f"{oid},", f"oid sha256:{oid}", f"g{oid[1:]}", "\0", "é" * 64,
                     f"\ufeff{oid}", "x" * 100_000):  # fmt: skip
            with self.subTest(line=line[:20]), self.assertRaises(CheckError) as caught:
                read_keep_list([oid.encode(), b"", line.encode()])

            self.assertTrue(str(caught.exception).startswith("line 3 of the keep list begins with "))
            self.assertLess(len(str(caught.exception)), 500)

    def test_empty_list_has_no_oid(self) -> None:
        self.assertEqual(frozenset(), read_keep_list([b"", b"\n", b" \t\r\n"]))
