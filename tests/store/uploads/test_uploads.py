"""The engine of resumable uploads: what a failed sync, a crash or a second process costs. It knows no HTTP."""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from unittest import mock

from filestoraged.digest import Expected
from filestoraged.errors import BadRequest, Gone, NotFound, QuotaExceeded, TooLarge, UploadLocked
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.system import LINUX
from filestoraged.store.uploads.local_storage import LocalStorage
from filestoraged.store.uploads.registry import UPLOADS_SCHEMA, Draft, Registry, Upload
from filestoraged.store.uploads.storage import Held, Tail
from filestoraged.store.uploads.uploads import Uploads
from tests.clock import VirtualClock
from tests.support import TempCase, ago

TEA = b"tea and milk"
TEA_HASH = hashlib.sha256(TEA).hexdigest()


class Target:
    def __init__(self, store: Store) -> None:
        self.store = store

    def announce(self) -> None:
        return None

    def publish(self, upload: Upload, name: str | None) -> None:
        pass

    def retract(self, name: str | None) -> None:
        pass


class UploadsTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / layout.UPLOADS_DATABASE)
        database.prepare(self.path, UPLOADS_SCHEMA)
        self.clock = VirtualClock()
        self.uploads = self.open()
        self.upload = self.uploads.create(Draft("files", len(TEA))).id

    def open(self, max_size: int | None = None, **settings: Any) -> Uploads:
        """An engine with nothing in memory, as another process has it."""
        disk = DiskStore(self.directory, max_size=max_size)
        transactions = TransactionQueue(self.path, UPLOADS_SCHEMA, clock=self.clock)
        registry = Registry(transactions, ttl=3600, clock=self.clock)
        self.addCleanup(registry.close)

        def find_target(name: str) -> Target:
            if name != "files":
                raise BadRequest("unknown")
            return Target(disk)

        return Uploads(registry, LocalStorage(disk, registry), find_target, clock=self.clock, **settings)

    def append(self, data: bytes, uploads: Uploads | None = None) -> Upload:
        uploads = uploads or self.uploads
        with uploads.receive(self.upload) as reception:
            reception.begin(reception.received, length=None, size=None, checksum=None)
            reception.write(data)
            reception.finish()
            return uploads.complete_if_whole(reception)

    def received(self, uploads: Uploads | None = None) -> int:
        return (uploads or self.uploads).settle(self.upload).received

    @property
    def file(self) -> str:
        return f"{self.directory}/{layout.upload_path(self.upload)}"

    @contextmanager
    def failing_sync(self) -> Iterator[None]:
        """The next sync of a file fails; those after it succeed, as the kernel's do."""
        real, left = os.fdatasync, [1]

        def fail_once(descriptor: int) -> None:
            if left and left.pop():
                raise OSError(errno.EIO, "Input/output error")
            real(descriptor)

        with mock.patch("os.fdatasync", fail_once):
            yield

    def test_bytes_of_a_failed_sync_do_not_count_when_the_next_sync_succeeds(self) -> None:
        self.append(TEA[:4])

        with self.failing_sync():
            with self.assertRaises(OSError):
                self.append(TEA[4:8])
            offset = self.received()
            complete = self.append(TEA[4:])

        self.assertEqual((4, TEA_HASH), (offset, complete.digest))
        self.assertEqual(TEA, (self.directory / layout.object_path(TEA_HASH)).read_bytes())

    def test_upload_of_unknown_length_ends_where_the_room_does(self) -> None:
        def require_room(_: Store, size: int, names: Sequence[str]) -> None:
            self.assertEqual([TEA_HASH], names)
            if size > 10:
                raise QuotaExceeded("files", 10, stored=0, added=size)

        uploads = self.open(record_size=4)
        with mock.patch.object(DiskStore, "require_room", require_room):
            self.upload = uploads.create(Draft("files", None, expected=[Expected("sha256", TEA_HASH)])).id
            self.append(TEA[:4], uploads)
            with uploads.receive(self.upload) as reception:
                reception.begin(4, length=None, size=None, checksum=None)
                reception.write(TEA[4:6])
                reception.write(TEA[6:8])
                self.assertRaises(QuotaExceeded, reception.write, b"milk and more")

        self.assertEqual(4, self.received())

    def test_bytes_of_a_failed_sync_do_not_count_for_one_who_takes_the_upload_over(self) -> None:
        with self.uploads.receive(self.upload) as silent:
            silent.begin(0, length=None, size=None, checksum=None)
            silent.write(TEA[:8])
            with self.failing_sync():
                self.assertRaises(OSError, silent.record)
            self.fall_silent()

            self.assertEqual(0, self.received(self.open()))

    def test_name_of_the_file_is_synced_with_its_first_bytes(self) -> None:
        synced = []
        sync = os.fsync

        def noted_sync(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)

        with mock.patch.object(LINUX, "fsync", noted_sync):
            self.append(TEA[:4])

        self.assertIn(os.path.dirname(self.file), synced)

    def test_bytes_beyond_the_length_are_refused_also_below_the_maximum_size(self) -> None:
        with self.open(max_size=100).receive(self.upload) as reception:
            reception.begin(0, length=None, size=None, checksum=None)

            self.assertRaises(TooLarge, reception.write, TEA + b"!")

    def test_bytes_beyond_the_record_of_a_dead_process_are_cut_off(self) -> None:
        self.append(TEA[:4])
        with open(self.file, "ab") as stream:
            stream.write(b"lies")

        self.assertEqual(4, self.received(self.open()))
        self.append(TEA[4:], self.open())

        self.assertEqual(TEA, (self.directory / layout.object_path(TEA_HASH)).read_bytes())

    def test_another_process_reads_the_bytes_that_it_has_not_hashed(self) -> None:
        self.append(TEA[:4])
        self.append(TEA[4:8], self.open())

        complete = self.append(TEA[8:])

        self.assertEqual(TEA_HASH, complete.digest)

    def test_hashes_of_many_uploads_are_bounded(self) -> None:
        self.uploads = self.open(max_hashers=3)
        ids = [self.uploads.create(Draft("files", len(TEA))).id for _ in range(10)]
        for self.upload in ids:
            self.append(TEA[:4])

        self.assertEqual(3, len(self.uploads._hashers._kept))
        for self.upload in ids:
            self.assertEqual(TEA_HASH, self.append(TEA[4:]).digest)

    def test_crash_between_the_object_and_its_row_leaves_an_upload_that_completes_again(self) -> None:
        crash = mock.patch.object(self.uploads._registry, "completion", side_effect=OSError(errno.EIO, "crash"))
        with crash, self.assertRaises(OSError):
            self.append(TEA)
        self.assertEqual(TEA, (self.directory / layout.object_path(TEA_HASH)).read_bytes())

        settled = self.open().settle(self.upload)

        self.assertEqual((True, TEA_HASH), (settled.is_complete, settled.digest))
        self.assertEqual(TEA, (self.directory / layout.object_path(TEA_HASH)).read_bytes())
        self.assertFalse(os.path.exists(self.file))
        staged = [path.name for path in self.directory.glob(f"{layout.STAGING}/*/*")]
        self.assertEqual([], [name for name in staged if not layout.is_segment(name)])

    def test_recorded_bytes_that_are_missing_are_an_upload_that_is_gone(self) -> None:
        self.append(TEA[:4])
        os.truncate(self.file, 2)

        with self.assertRaises(NotFound):
            self.received()

    def test_upload_is_terminated_even_if_its_row_cannot_be_deleted(self) -> None:
        self.append(TEA[:4])
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TRIGGER kept BEFORE DELETE ON uploads BEGIN SELECT RAISE(ABORT, 'full'); END")

        self.uploads.terminate(self.upload)

        self.assertFalse(os.path.exists(self.file))
        with self.assertRaises(Gone):
            self.uploads.get(self.upload)
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("DROP TRIGGER kept")
        self.assertEqual(1, self.uploads.expire())

    def test_upload_that_cannot_be_removed_does_not_keep_others_from_expiring(self) -> None:
        ids = sorted(self.uploads.create(Draft("files", len(TEA))).id for _ in range(3))
        for self.upload in ids:
            self.append(TEA[:4])
        self.expire_all()
        broken = f"{self.directory}/{layout.upload_lock_path(ids[1])}"
        os.unlink(broken)
        os.mkdir(broken)

        removed = self.uploads.expire()
        self.uploads.expire()
        with self.assertRaises(IsADirectoryError):
            self.uploads.expire()
        os.rmdir(broken)

        self.assertEqual((3, 0), (removed, self.uploads.expire()))
        self.assertEqual(1, self.uploads.expire())

    def test_step_that_takes_too_long_ends_and_the_next_one_goes_on_behind_it(self) -> None:
        ids = [self.upload, *(self.uploads.create(Draft("files", len(TEA))).id for _ in range(2))]
        for self.upload in ids:
            self.append(TEA[:4])
        self.expire_all()
        acquire = LocalStorage.acquire

        def wait_and_acquire(storage: LocalStorage, id_: str) -> Held:
            self.clock.advance(2.6)
            return acquire(storage, id_)

        with mock.patch.object(LocalStorage, "acquire", wait_and_acquire):
            removed = [self.uploads.expire() for _ in range(3)]

        self.assertEqual([2, 1, 0], removed)

    def expire_all(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE uploads SET expires = 1")

    @contextmanager
    def clock_ahead(self, seconds: float) -> Iterator[None]:
        self.clock.set_date(self.clock.date() + seconds)
        yield
        self.clock.set_date(self.clock.date() - seconds)

    def test_jump_of_the_clock_ends_no_upload_until_the_grace_period_has_passed(self) -> None:
        self.append(TEA[:4])
        self.uploads.expire()
        other = self.open()

        with self.clock_ahead(2 * 3600), self.assertLogs("filestoraged.store.wall_clock"):
            found = [self.received(), self.received(other)]
            self.uploads.expire()
            found += [self.received(), self.received(self.open())]
            self.clock.advance(3601)
            self.uploads.expire()
            with self.assertRaises(NotFound):
                other.get(self.upload)

        self.assertEqual([4] * 4, found)
        self.assertFalse(os.path.exists(self.file))

    def test_upload_that_is_continued_or_created_in_the_grace_period_has_its_whole_time(self) -> None:
        self.uploads.expire()
        with self.clock_ahead(2 * 3600), self.assertLogs("filestoraged.store.wall_clock"):
            self.uploads.expire()
            self.clock.advance(10)
            created = self.uploads.create(Draft("files", 3))
            self.append(TEA[:4])
            continued = self.uploads.get(self.upload)
            expected = self.clock.date() + 3600
            self.clock.advance(3595)
            self.uploads.expire()

            self.assertEqual([0, 4], [self.uploads.settle(each.id).received for each in (created, continued)])
            self.assertEqual([expected] * 2, [created.expires, continued.expires])

    def test_upload_is_found_again_for_its_owner_after_a_jump_of_the_clock(self) -> None:
        draft = Draft("files", 3, reuse="me")
        (first,) = self.uploads.find_or_create([draft])
        self.uploads.expire()

        with self.clock_ahead(2 * 3600):
            self.assertEqual([first], self.uploads.find_or_create([draft]))
        with self.clock_ahead(4 * 3600):
            # Its time has begun anew.
            self.assertEqual([first], self.open().find_or_create([draft]))

    def test_holder_that_makes_the_object_is_not_taken_over_however_silent(self) -> None:
        with self.uploads.receive(self.upload) as reception:
            reception.held.hold.set_tail(Tail.NONE)
            self.fall_silent()

            with self.assertRaises(UploadLocked):
                self.open().receive(self.upload)

    def test_bytes_that_a_dead_process_had_not_recorded_do_not_count(self) -> None:
        child = os.fork()
        if not child:
            reception = self.open().receive(self.upload)
            reception.begin(0, length=None, size=None, checksum=None)
            reception.write(TEA[:8])
            os._exit(0)
        os.waitpid(child, 0)

        self.assertEqual(8, os.path.getsize(self.file))
        with self.open().receive(self.upload) as reception:
            self.assertEqual(0, reception.received)

    def fall_silent(self) -> None:
        """Let the holder of the upload have been silent for a minute."""
        past = ago(60)
        os.utime(f"{self.directory}/{layout.upload_lock_path(self.upload)}", (past, past))

    def test_hold_of_a_dead_process_is_free_at_once(self) -> None:
        child = os.fork()
        if not child:
            self.open().receive(self.upload)
            os._exit(0)
        os.waitpid(child, 0)

        self.assertEqual(TEA_HASH, self.append(TEA).digest)

    def test_upload_that_goes_on_after_it_was_listed_as_expired_is_kept(self) -> None:
        self.append(TEA[:4])
        self.expire_all()
        acquire = LocalStorage.acquire

        def go_on(storage: LocalStorage, id_: str) -> Held:
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("UPDATE uploads SET expires = ?", (self.clock.date() + 3600,))
            return acquire(storage, id_)

        with mock.patch.object(LocalStorage, "acquire", go_on):
            removed = self.uploads.expire()

        self.assertEqual((0, 4), (removed, self.received()))

    def test_expired_uploads_are_removed_with_their_bytes_unless_they_are_held(self) -> None:
        self.append(TEA[:4])
        held = self.uploads.create(Draft("files", 3)).id
        with self.uploads.receive(held):
            for id_ in (self.upload, held):
                expired = (self.clock.date() - 1, id_)
                self.uploads._registry._transactions.write_rows(
                    "UPDATE uploads SET expires = ? WHERE id = ?", [expired]
                ).result()
            self.uploads.expire()
            left = self.uploads._registry._transactions.read("SELECT id FROM uploads")

        self.assertEqual([(held,)], [tuple(row) for row in left])
        self.assertFalse(os.path.exists(self.file))
