"""The disk store: the contract, the layout, syncs, removals, faults and sweeps."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from filestoraged.errors import AlreadyExists, NotFound, StoreDetached
from filestoraged.future import Future
from filestoraged.store import layout
from filestoraged.store.contract import SMALL
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.system import Linux
from tests.store import contract
from tests.store.contract import TEA, TEA_DIGEST
from tests.store.disk.systems import FULL, Disk, PlainLinux, finished
from tests.store.simulation.machine import Machine
from tests.store.simulation.process import Process
from tests.support import PATIENCE, TempCase


class DiskStoreTest(contract.StoreContract):
    store: DiskStore

    def setUp(self) -> None:
        self.system = Disk()
        super().setUp()

    def make_store(self, **settings: Any) -> DiskStore:
        store = DiskStore(self.directory / "store", system=self.system, **settings)
        self.addCleanup(store.close)
        return store

    @property
    def root(self) -> Path:
        return self.directory / "store"

    def test_object_is_a_file_named_by_its_digest_with_exactly_its_bytes(self) -> None:
        self.store.put(TEA)

        self.assertEqual([f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))
        self.assertEqual(TEA, (self.root / TEA_DIGEST[:2] / TEA_DIGEST).read_bytes())

    def test_trial_of_a_rename_is_in_the_way_of_no_repository(self) -> None:
        repositories = self.store.namespace("repositories")
        for name in filter(layout.is_repository, (".trial", layout.TRIAL)):
            repositories.namespace(name).put(TEA)

        repositories.probe_rename()

        self.assertFalse(os.path.lexists(f"{repositories.root}/{layout.TRIAL}"))

    def test_namespace_is_a_directory(self) -> None:
        self.store.namespace("repositories").namespace("pets").put(TEA)

        self.assertEqual([f"repositories/pets/{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))

    def test_removal_of_many_shares_syncs(self) -> None:
        names = [f"{shard}{number:062x}" for shard in ("ab", "cd") for number in range(20)]
        for name in names:
            self.store.put(TEA, name=name)

        before = self.system.syncs
        remove_later = self.store.remove_later
        # The first round waits until all others are submitted.
        self.system.hold()

        def remove(name: str) -> Future[None]:
            removal = remove_later(name)
            if name == "ef" * 32:
                self.system.go_on()
            return removal

        with mock.patch.object(self.store, "remove_later", remove):
            failed = self.store.remove_all([*names[1:], "ef" * 32])

        self.assertEqual({}, failed)
        self.assertEqual([f"ab/{names[0]}"], self.files_below(self.root))
        self.assertLessEqual(self.system.syncs - before, 3)

    def test_failed_removal_among_many_is_returned_and_others_succeed(self) -> None:
        names = [f"ab{number:062x}" for number in range(3)]
        for name in names:
            self.store.put(TEA, name=name)
        unlink = os.unlink

        def refuse_one(name: str, **settings: Any) -> None:
            if name.endswith(names[1]):
                raise PermissionError(errno.EPERM, "Operation not permitted")
            unlink(name, **settings)

        with mock.patch.object(self.system, "unlink", refuse_one):
            failed = self.store.remove_all(names)

        self.assertEqual([names[1]], list(failed))
        self.assertEqual([f"ab/{names[1]}"], self.files_below(self.root))

    def test_removals_that_cannot_be_synced_all_fail(self) -> None:
        names = [f"ab{number:062x}" for number in range(3)]
        for name in names:
            self.store.put(TEA, name=name)

        failing = mock.patch.object(self.system, "fdatasync", side_effect=OSError(errno.EIO, "Input/output error"))
        with failing, self.assertLogs("filestoraged", "ERROR"):
            failed = self.store.remove_all(names)

        self.assertEqual(set(names), set(failed))
        self.assertEqual({}, self.store.remove_all(names))

    def test_pipe_or_directory_under_a_name_is_not_found_without_waiting(self) -> None:
        place = self.root / TEA_DIGEST[:2] / TEA_DIGEST
        place.parent.mkdir(parents=True)
        os.mkfifo(place)

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_discarded_staging_leaves_no_file(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)

        self.assertEqual([], self.files_below(self.root))

    def test_refused_commit_leaves_no_staging(self) -> None:
        self.store.put(TEA)

        with self.assertRaises(AlreadyExists), self.store.stage() as staging:
            staging.write(TEA)
            staging.commit(replace=False).result(PATIENCE)

        self.assertEqual([f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))

    def test_commit_without_replace_leaves_one_name(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)
            staging.commit(replace=False).result(PATIENCE)

        self.assertEqual([f"{TEA_DIGEST[:2]}/{TEA_DIGEST}"], self.files_below(self.root))

    def test_uploading_again_heals_a_damaged_object(self) -> None:
        self.store.put(TEA)
        (self.root / TEA_DIGEST[:2] / TEA_DIGEST).write_bytes(b"tee")

        self.store.put(TEA)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_directory_under_an_objects_name_is_not_found(self) -> None:
        (self.root / TEA_DIGEST[:2] / TEA_DIGEST).mkdir(parents=True)

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_symbolic_link_under_an_objects_name_is_not_found_and_an_upload_replaces_it(self) -> None:
        outside = self.directory / "outside"
        outside.write_bytes(b"foreign")
        path = Path(self.store.path(TEA_DIGEST))
        for target in (outside, self.directory / "missing"):
            self.store.put(TEA)
            path.unlink()
            path.symlink_to(target)
            with self.subTest(target=target.name):
                self.assertRaises(NotFound, self.store.open, TEA_DIGEST)
                self.assertRaises(NotFound, self.store.stat, TEA_DIGEST)

                self.store.put(TEA)

                self.assertFalse(path.is_symlink())
                self.assertEqual(TEA, self.stored(TEA_DIGEST))
        self.assertEqual(["outside", "store"], sorted(os.listdir(self.directory)))
        self.assertEqual(b"foreign", outside.read_bytes())

    def test_cached_object_that_a_symbolic_link_to_it_replaces_is_not_found(self) -> None:
        path = Path(self.store.path(self.store.put(TEA)))
        self.store.open(TEA_DIGEST).close()
        path.rename(self.directory / "outside")
        path.symlink_to(self.directory / "outside")

        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_store_and_repositories_and_shards_may_be_symbolic_links(self) -> None:
        (self.directory / "disk").mkdir()
        (self.directory / "pets").mkdir()
        (self.directory / "shard").mkdir()
        (self.directory / "store").symlink_to("disk")
        (self.directory / "disk" / "repositories").symlink_to(self.directory / "pets")
        (self.directory / "disk" / TEA_DIGEST[:2]).symlink_to(self.directory / "shard")
        store = self.make_store()

        store.prepare()
        store.put(TEA)
        store.namespace("repositories").namespace("pets").put(TEA)

        self.assertEqual(
            ["disk/journal", f"pets/pets/{TEA_DIGEST[:2]}/{TEA_DIGEST}", f"shard/{TEA_DIGEST}"],
            self.files_below(self.directory),
        )

    def test_staging_area_that_becomes_a_symbolic_link_takes_no_uploads(self) -> None:
        outside = self.directory / "outside"
        outside.mkdir()
        self.store.put(TEA)
        shutil.rmtree(self.root / "staging")
        for target in (outside, self.directory / "missing"):
            (self.root / "staging").symlink_to(target)

            with self.subTest(target=target.name):
                with self.assertRaisesRegex(OSError, f"'{self.root}/staging' is a symbolic link"):
                    self.store.put(b"another")
                self.assertRaises(OSError, self.store.sweep)
            (self.root / "staging").unlink()
        self.assertEqual(([], ["outside", "store"]), (os.listdir(outside), sorted(os.listdir(self.directory))))

    def test_symbolic_link_to_itself_under_an_objects_name_is_not_found(self) -> None:
        path = Path(self.store.path(self.store.put(b"tea")))
        path.unlink()
        path.symlink_to(path)

        for look_up in (self.store.open, self.store.stat):
            with self.subTest(look_up.__name__), self.assertRaises(NotFound):
                look_up(path.name)

    def test_name_that_is_not_a_digest_raises_value_error(self) -> None:
        for name in ("", "..", "../../etc/passwd", TEA_DIGEST.upper(), TEA_DIGEST + "/x"):
            with self.subTest(name=name):
                self.assertRaises(ValueError, self.store.open, name)

    def test_removed_directory_is_made_again(self) -> None:
        self.store.put(TEA)
        shutil.rmtree(self.root / TEA_DIGEST[:2])

        self.store.put(TEA)

        self.assertEqual(TEA, self.stored(TEA_DIGEST))

    def test_store_below_a_file_cannot_be_prepared(self) -> None:
        (self.directory / "file").touch()

        self.assertRaises(OSError, DiskStore(self.directory / "file").prepare)
        self.assertRaises(OSError, DiskStore(self.directory / "file" / "store").prepare)


class RootDirectoryTest(unittest.TestCase):
    def test_namespaces_of_a_store_in_the_root_directory_have_their_own_names(self) -> None:
        store = DiskStore("/").namespace(layout.REPOSITORIES).namespace("pets")

        path = f"repositories/pets/{TEA_DIGEST[:2]}/{TEA_DIGEST}"
        self.assertEqual(
            (path, f"/{path}"), (store.relative_path(TEA_DIGEST), os.path.realpath(store.path(TEA_DIGEST)))
        )


class FailedSyncTest(TempCase):
    """An upload whose directory cannot be synced fails and leaves no object, unless another upload stored it."""

    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.system = PlainLinux()
        self.store = DiskStore(self.root, system=self.system)
        self.other = DiskStore(self.root, system=PlainLinux())
        self.path = self.root / TEA_DIGEST[:2] / TEA_DIGEST

    @contextlib.contextmanager
    def failing(self, *, number: int = errno.ENOSPC, first: Callable[[], Any] | None = None) -> Iterator[None]:
        """Let the next sync of a directory fail, after a call of `first`."""
        real = os.fsync
        failures = iter([True])

        def sync(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}") and next(failures, False):
                if first is not None:
                    first()
                raise OSError(number, os.strerror(number))
            real(descriptor)

        with mock.patch.object(self.system, "fsync", sync):
            yield

    def refuse(self, **settings: Any) -> int:
        """Upload, and return the error."""
        with self.failing(**settings), self.assertRaises(OSError) as raised:
            self.store.put(TEA)
        assert raised.exception.errno is not None
        return raised.exception.errno

    def test_upload_whose_directory_cannot_be_synced_fails_and_leaves_nothing(self) -> None:
        self.store.prepare()

        for number in (errno.ENOSPC, errno.EIO):
            self.assertEqual(number, self.refuse(number=number))
            self.assertEqual([], self.files_below(self.root))
            self.assertFalse(self.path.parent.exists())

        self.assertEqual(TEA_DIGEST, self.store.put(TEA))

    def test_refused_upload_leaves_the_object_of_an_earlier_one(self) -> None:
        self.store.put(TEA)

        self.refuse()

        self.assertEqual(TEA, self.path.read_bytes())

    def test_refused_upload_leaves_the_object_of_another_one_which_waits_for_it(self) -> None:
        self.store.prepare()
        others: list[Future[Any]] = []

        def put() -> None:
            with self.other.stage(len(TEA)) as staging:
                staging.write(TEA)
                others.append(staging.commit())

        self.refuse(first=put)
        others[0].result(PATIENCE)

        self.assertEqual(TEA, self.path.read_bytes())
        self.assertEqual(1, len(self.files_below(self.root)))

    def test_upload_that_fails_after_its_staging_area_was_removed_leaves_nothing(self) -> None:
        self.store.prepare()

        self.refuse(first=lambda: shutil.rmtree(self.root / "staging"))

        self.assertEqual([], self.files_below(self.root))

    def test_full_disk_without_room_for_the_file_of_locks_refuses_uploads_and_removes_objects(self) -> None:
        self.store.put(TEA)
        (self.root / layout.JOURNAL).unlink()
        real = self.system.open

        def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if flags & os.O_CREAT and path == f"{self.root}/{layout.JOURNAL}":
                raise FULL
            return real(path, flags, mode, dir_fd=dir_fd)

        with mock.patch.object(self.system, "open", open_):
            for data in (b"small", bytes(SMALL + 1)):
                self.assertRaises(OSError, self.store.put, data)
            self.store.remove(TEA_DIGEST)

        self.assertEqual([], self.files_below(self.root))

    def test_bytes_whose_sync_failed_once_are_never_stored_by_a_second_commit(self) -> None:
        with self.store.stage() as staging:
            staging.write(TEA)
            with mock.patch.object(
                self.system, "fsync", side_effect=[OSError(errno.EIO, "Input/output error"), None, None]
            ):
                self.assertRaises(OSError, lambda: staging.commit().result(PATIENCE))

            self.assertRaises(OSError, lambda: staging.commit().result(PATIENCE))

        self.assertEqual([], self.files_below(self.root))

    def test_file_system_without_hard_links_stores_objects(self) -> None:
        with mock.patch.object(
            self.system, "link", side_effect=PermissionError(errno.EPERM, "Operation not permitted")
        ):
            self.store.put(TEA)

        self.assertEqual(TEA, self.path.read_bytes())
        self.assertEqual(1, len(self.files_below(self.root)))


class RemovalTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.system = PlainLinux()
        self.store = DiskStore(self.root, system=self.system)
        self.store.put(TEA)
        self.shard = self.root / TEA_DIGEST[:2]

    def synced(self, work: Callable[[], Any], *, failures: int = 0) -> list[str]:
        """The directories that are synced by `work`, of which the first ones fail. Its exception is dropped."""
        paths: list[str] = []
        real = os.fsync

        def sync(descriptor: int) -> None:
            paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            if len(paths) <= failures:
                raise OSError(errno.EIO, "Input/output error")
            real(descriptor)

        with mock.patch.object(self.system, "fsync", sync), contextlib.suppress(OSError, NotFound):
            work()
        return paths

    def test_removal_without_a_descriptor_for_the_directory_removes_nothing(self) -> None:
        full = OSError(errno.EMFILE, "Too many open files")

        with mock.patch.object(self.system, "open", side_effect=full):
            self.assertRaises(OSError, self.store.remove, TEA_DIGEST)

        self.assertEqual(TEA, (self.shard / TEA_DIGEST).read_bytes())

    def test_retry_of_a_removal_whose_sync_failed_syncs_before_it_finds_nothing(self) -> None:
        self.synced(lambda: self.store.remove(TEA_DIGEST), failures=1)
        self.assertFalse((self.shard / TEA_DIGEST).exists())

        # Another worker, or this one after a restart.
        again = DiskStore(self.root, system=self.system)
        self.assertEqual([str(self.shard)], self.synced(lambda: again.remove(TEA_DIGEST)))
        self.assertRaises(NotFound, again.remove, TEA_DIGEST)

    def test_removal_that_is_a_change_syncs_the_directory_before_its_future_is_done(self) -> None:
        removal = self.synced(lambda: self.store.remove_later(TEA_DIGEST).result())
        again = self.synced(lambda: self.store.remove_later(TEA_DIGEST).result())

        self.assertEqual([str(self.shard)], removal)
        self.assertEqual([str(self.root)], again)

    def test_retry_fails_for_as_long_as_the_sync_does(self) -> None:
        for _ in range(2):
            with mock.patch.object(self.system, "fsync", side_effect=OSError(errno.EIO, "Input/output error")):
                self.assertRaises(OSError, self.store.remove, TEA_DIGEST)

    def test_removal_where_the_shard_directory_is_missing_syncs_the_one_above(self) -> None:
        self.store.remove(TEA_DIGEST)

        self.assertEqual([str(self.root)], self.synced(lambda: self.store.remove(TEA_DIGEST)))

    def test_removal_within_a_directory_that_another_one_took_away_syncs_the_one_above(self) -> None:
        unlink = os.unlink

        def unlink_and_take_away(*arguments: Any, **named: Any) -> None:
            unlink(*arguments, **named)
            self.shard.rmdir()

        with mock.patch.object(self.system, "unlink", unlink_and_take_away):
            synced = self.synced(lambda: self.store.remove(TEA_DIGEST))

        self.assertEqual(str(self.root), synced[-1])

    def test_removal_of_the_last_object_removes_the_shard_directory(self) -> None:
        pets = self.store.namespace("repositories").namespace("pets")
        pets.put(TEA)

        self.store.remove(TEA_DIGEST)
        pets.remove(TEA_DIGEST)

        self.assertFalse(self.shard.exists())
        self.assertEqual([], os.listdir(self.root / "repositories" / "pets"))

    def test_shard_directory_with_another_object_stays(self) -> None:
        other = TEA_DIGEST[:2] + "0" * 62
        self.store.put(TEA, name=other)

        self.store.remove(TEA_DIGEST)

        self.assertEqual([other], os.listdir(self.shard))

    def test_removal_of_an_object_waits_until_its_upload_is_synced(self) -> None:
        coffee = TEA_DIGEST[:2] + "0" * 62
        self.store.remove(TEA_DIGEST)
        rename, removals = os.rename, list[Future[None]]()

        def rename_and_remove(*arguments: Any, **named: Any) -> None:
            rename(*arguments, **named)
            removals.append(DiskStore(self.root, system=PlainLinux()).remove_later(coffee))

        with mock.patch.object(self.system, "rename", rename_and_remove):
            synced = self.synced(lambda: self.store.put(b"coffee", name=coffee))
        removals[0].result(PATIENCE)

        self.assertEqual([str(self.shard), str(self.root)], synced[-2:])
        self.assertFalse(self.shard.exists())
        self.assertEqual([], self.files_below(self.root))


class TwoDaemonsTest(unittest.TestCase):
    """Stagings of a living process, and of one that was killed."""

    def setUp(self) -> None:
        machine = Machine(1)
        self.process = Process(machine)
        self.staging = DiskStore("/store", system=self.process).stage(100_000)
        self.staging.write(TEA)
        self.other = DiskStore("/store", system=Process(machine))

    def test_live_daemons_staging_is_not_swept(self) -> None:
        self.assertEqual(0, self.other.sweep())

        self.assertEqual(TEA_DIGEST, finished(self.process, self.staging.commit()))

    def test_staging_area_that_is_swept_while_it_is_made_gets_another_name(self) -> None:
        system = self.other.volume.system
        real, swept = system.stat, list[str]()

        def stat(path: str, **options: Any) -> os.stat_result:
            if path.startswith("/store/staging/") and not swept:
                swept.append(path)
                system.rmdir(path)
            return real(path, **options)

        with mock.patch.object(system, "stat", stat):
            area = self.other.volume.staging_area.own()

        self.assertEqual(1, len(swept))
        self.assertNotIn(area.path, swept)

    def test_killed_daemons_staging_is_swept(self) -> None:
        self.process.kill()

        self.assertEqual([1, 0], [self.other.sweep() for _ in range(2)])


class LostRootTest(TempCase):
    """The directory of the store is moved away, as `umount --lazy` does, or another one is in its place."""

    # How changes are synced.
    system_type: type[Linux] = PlainLinux
    sync = "fsync"

    def setUp(self) -> None:
        super().setUp()
        self.root = self.directory / "store"
        self.away = self.directory / "away"
        self.system = self.system_type()
        self.store = DiskStore(self.root, system=self.system)
        self.store.prepare()
        self.addCleanup(self.store.close)
        self.store.put(TEA)

    def assert_all_refused(self) -> None:
        missing = "ab" * 32
        repository = self.store.namespace("repositories").namespace("pets")
        actions: dict[str, Callable[[], object]] = {
            "small upload": lambda: self.store.put(b"coffee"),
            "large upload": lambda: self.store.stage(100_000),
            "upload to a repository": lambda: repository.put(b"coffee"),
            "open": lambda: self.store.open(missing),
            "get": lambda: self.store.get(missing),
            "stat": lambda: self.store.stat(missing),
            "remove": lambda: self.store.remove(missing),
            "remove later": lambda: self.store.remove_later(TEA_DIGEST).result(PATIENCE),
            "list": self.store.list,
            "list namespaces": self.store.list_namespaces,
            "list of a repository": repository.list,
            "usage": self.store.usage,
            "probe": self.store.probe,
            "prepare": self.store.prepare,
            "sweep": self.store.sweep,
        }
        for name, action in actions.items():
            with self.subTest(name), self.assertRaises(StoreDetached):
                action()
        with self.subTest("remove all"):
            failures = self.store.remove_all([TEA_DIGEST])
            self.assertIsInstance(failures[TEA_DIGEST], StoreDetached)

    def test_moved_root_refuses_everything_and_is_not_made_again(self) -> None:
        staging = self.store.stage(100_000)
        staging.write(TEA)
        os.rename(self.root, self.away)

        self.assert_all_refused()
        with staging, self.assertRaises(StoreDetached):
            staging.commit().result(PATIENCE)

        self.assertFalse(self.root.exists())

    def test_another_directory_at_its_path_is_not_changed(self) -> None:
        os.rename(self.root, self.away)
        shutil.copytree(self.away, self.root)
        before = sorted(self.root.rglob("*"))

        self.assert_all_refused()

        self.assertEqual(before, sorted(self.root.rglob("*")))

    def test_empty_directory_below_a_mount_point_stays_empty(self) -> None:
        os.rename(self.root, self.away)
        self.root.mkdir()

        self.assert_all_refused()

        self.assertEqual([], os.listdir(self.root))

    def test_same_root_that_is_back_serves_again(self) -> None:
        os.rename(self.root, self.away)
        with self.assertRaises(StoreDetached):
            self.store.put(b"coffee")

        os.rename(self.away, self.root)

        digest = self.store.put(b"coffee")
        self.assertEqual(sorted([TEA_DIGEST, digest]), self.store.list())
        self.store.remove(TEA_DIGEST)
        self.assertRaises(NotFound, self.store.open, TEA_DIGEST)

    def test_upload_during_which_the_root_is_lost_is_refused(self) -> None:
        """The bytes are synced; whatever the name leads to, a restart would not find it."""
        real = getattr(os, self.sync)

        def lose(descriptor: int) -> None:
            real(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.root, self.away)

        with mock.patch.object(self.system, self.sync, lose), self.assertRaises(StoreDetached):
            self.store.put(b"coffee")

        self.assertFalse(self.root.exists())


class JournaledLostRootTest(LostRootTest):
    system_type = Disk
    sync = "fdatasync"
