"""The disk store: the contract, what lies where, and what is left after faults."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.errors import AlreadyExists, NotFound
from filestoraged.store.disk import DiskStore
from tests.store import contract
from tests.store.contract import TEA, TEA_DIGEST
from tests.support import TempCase

# A process that stages something, says so, and waits to be killed.
_HOLD = """
import sys
from filestoraged.store.disk import DiskStore
staging = DiskStore(sys.argv[1]).stage()
staging.write(b"half")
print("staged", flush=True)
sys.stdin.read()
"""


class DiskStoreTest(contract.StoreContract):
    store: DiskStore

    def make_store(self, **settings: Any) -> DiskStore:
        return DiskStore(self.directory / "store", **settings)

    @property
    def root(self) -> Path:
        return self.directory / "store"

    def test_an_object_is_a_file_named_by_its_digest_with_exactly_its_bytes(self) -> None:
        self.store.put(TEA)

        self.assertEqual([f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))
        self.assertEqual(TEA, (self.root / TEA_DIGEST[:2] / TEA_DIGEST).read_bytes())

    def test_a_namespace_is_a_directory(self) -> None:
        self.store.namespace("repositories").namespace("pets").put(TEA)

        self.assertEqual([f"repositories/pets/{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))

    def test_what_is_no_file_is_not_found_and_not_waited_for(self) -> None:
        place = self.root / TEA_DIGEST[:2] / TEA_DIGEST
        place.parent.mkdir(parents=True)
        os.mkfifo(place)

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_a_discarded_staging_leaves_no_file(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)

        self.assertEqual([], self.files_below(self.root))

    def test_a_refused_commit_leaves_no_staging(self) -> None:
        self.store.put(TEA)

        with self.assertRaises(AlreadyExists), self.store.stage() as staging:
            staging.write(TEA)
            staging.commit_new()

        self.assertEqual([f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))

    def test_commit_new_leaves_one_name(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)
            staging.commit_new()

        self.assertEqual([f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))

    def test_uploading_again_heals_a_damaged_object(self) -> None:
        self.store.put(TEA)
        (self.root / TEA_DIGEST[:2] / TEA_DIGEST).write_bytes(b"tee")

        self.store.put(TEA)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_a_directory_by_an_objects_name_is_no_object(self) -> None:
        (self.root / TEA_DIGEST[:2] / TEA_DIGEST).mkdir(parents=True)

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_what_is_no_digest_is_a_mistake_of_the_callers(self) -> None:
        for name in ("", "..", "../../etc/passwd", TEA_DIGEST.upper(), TEA_DIGEST + "/x"):
            with self.subTest(name=name):
                self.assertRaises(ValueError, self.store.open, name)

    def test_a_folder_that_was_tidied_away_is_made_again(self) -> None:
        self.store.put(TEA)
        self.store.remove(TEA_DIGEST)
        (self.root / TEA_DIGEST[:2]).rmdir()

        self.store.put(TEA)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_the_bytes_are_synced_before_the_name_and_the_name_before_the_answer(self) -> None:
        calls = []
        sync, rename = os.fsync, os.rename

        def noted_sync(descriptor: int) -> None:
            calls.append("sync " + ("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"))
            sync(descriptor)

        def noted_rename(source: str, target: str) -> None:
            calls.append("rename")
            rename(source, target)

        self.store.put(b"so that the folders are there" + TEA)
        with self.store.stage() as staging:
            staging.write(b"so that the folders are there" + TEA)
            with mock.patch("os.fsync", noted_sync), mock.patch("os.rename", noted_rename):
                staging.commit()

        self.assertEqual(["sync file", "rename", "sync folder"], calls)

    def test_a_new_folder_is_synced_into_the_one_above(self) -> None:
        synced = []
        sync = os.fsync

        def noted_sync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)

        with mock.patch("os.fsync", noted_sync):
            self.store.namespace("cats").put(TEA)

        self.assertLess(synced.index(str(self.root)), synced.index(str(self.root / "cats" / TEA_DIGEST[:2])))
        self.assertIn(str(self.root / "cats"), synced)

    def test_a_removal_is_synced(self) -> None:
        self.store.put(TEA)

        with mock.patch("os.fsync") as sync:
            self.store.remove(TEA_DIGEST)

        self.assertEqual(1, sync.call_count)

    def test_a_sync_that_fails_leaves_nothing_visible(self) -> None:
        broken = OSError(errno.EIO, "Input/output error")

        with self.assertRaises(OSError), self.store.stage() as staging:
            staging.write(TEA)
            with mock.patch("os.fsync", side_effect=broken):
                staging.commit()

        self.assertEqual([], self.files_below(self.root))

    def test_a_store_below_a_file_cannot_be_prepared(self) -> None:
        (self.directory / "file").touch()

        self.assertRaises(OSError, DiskStore(self.directory / "file").prepare)
        self.assertRaises(OSError, DiskStore(self.directory / "file" / "store").prepare)


class TwoDaemonsTest(TempCase):
    """Stagings of a process that lives, and of one that died."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"

    def hold(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", _HOLD, str(self.root)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(holder.communicate)
        assert holder.stdout is not None
        self.assertEqual(b"staged\n", holder.stdout.readline())
        return holder

    def test_a_live_daemons_staging_is_not_swept(self) -> None:
        self.hold()

        swept = DiskStore(self.root).sweep()

        self.assertEqual(0, swept)
        self.assertEqual(1, len(self.files_below(self.root)))

    def test_a_killed_daemons_staging_is_swept(self) -> None:
        holder = self.hold()
        holder.kill()
        holder.wait()

        swept = DiskStore(self.root).sweep()

        self.assertEqual(1, swept)
        self.assertEqual([], self.files_below(self.root))

    def test_a_staging_swept_before_it_was_opened_is_made_anew(self) -> None:
        store = DiskStore(self.root)
        make = os.makedirs
        sweeps = iter([True, False])

        def make_and_sweep(*arguments: Any, **settings: Any) -> None:
            make(*arguments, **settings)
            # Sweeping makes the folder of all stagings, too.
            if not settings and next(sweeps):
                DiskStore(self.root).sweep()
                self.assertEqual([], list((self.root / "staging").iterdir()))

        with mock.patch("filestoraged.store.stagings.os.makedirs", make_and_sweep), store.stage() as staging:
            staging.write(TEA)
            digest = staging.commit()

        self.assertEqual(TEA_DIGEST, digest)

    def test_a_staging_swept_before_it_was_locked_is_made_anew(self) -> None:
        store = DiskStore(self.root)
        lock = fcntl.flock
        sweeps = iter([True, False])

        def sweep_and_lock(descriptor: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX and next(sweeps):
                DiskStore(self.root).sweep()
                self.assertEqual([], list((self.root / "staging").iterdir()))
            lock(descriptor, operation)

        with mock.patch("fcntl.flock", sweep_and_lock), store.stage() as staging:
            staging.write(TEA)
            digest = staging.commit()

        with store.get(digest) as stream:
            self.assertEqual(TEA, stream.read())
