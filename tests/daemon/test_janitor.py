"""What is tidied up in the background: by one process at a time, in small steps, and what fails is told once."""

from __future__ import annotations

import logging
import os
from unittest import mock

from filestoraged.clock import SYSTEM_CLOCK, Clock
from filestoraged.store.cleanup_lock import FileLock
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.drop_tables import DROPS_SCHEMA
from filestoraged.store.drops import Drop, Drops
from filestoraged.store.janitors import DropsJanitor
from filestoraged.store.owner_locks import OwnerFiles
from filestoraged.store.sqlite import database
from filestoraged.store.sqlite.group_commit import TransactionQueue
from filestoraged.store.system import LINUX
from tests.clock import PassingClock, VirtualClock
from tests.support import PATIENCE, TempCase


class FileLockTest(TempCase):
    def test_symbolic_link_is_neither_followed_nor_touched_behind(self) -> None:
        outside, link = self.directory / "outside", self.directory / "janitor"
        link.symlink_to(outside)
        lock = FileLock(str(link))
        with self.assertRaisesRegex(OSError, str(link)), lock.hold():
            self.fail("the lock is held")
        self.assertFalse(outside.exists())

        outside.touch()
        os.utime(outside, (0, 0))
        lock.renew()

        self.assertEqual(0, outside.stat().st_mtime)


class JanitorCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "drops.sqlite")
        database.prepare(self.path, DROPS_SCHEMA)
        owners = OwnerFiles(str(self.directory / "owners"))
        self.drops = Drops(TransactionQueue(self.path, DROPS_SCHEMA), owners, ttl=100)
        self.addCleanup(self.drops.close)
        self.store = DiskStore(self.directory)
        self.store.prepare()
        self.bytes = DiskStore(self.directory / "drops", within=self.store)

    def make(self) -> str:
        id_ = self.drops.announce().result()
        with self.bytes.stage() as staging:
            staging.write(b"tea")
            staging.commit(name=id_).result(PATIENCE)
        self.drops.publish(Drop(id_, "name", None)).result()
        return id_

    def fetch(self) -> str:
        id_ = self.make()
        self.drops.finish(self.drops.claim(id_).result()).result()
        return id_

    def janitor(self, clock: Clock = SYSTEM_CLOCK, lock: FileLock | None = None) -> DropsJanitor:
        return DropsJanitor(self.drops, self.bytes, lock or FileLock(self.path + ".janitor"), clock)


class JanitorTest(JanitorCase):
    def test_one_janitor_works_at_a_time(self) -> None:
        first, second = self.janitor(), self.janitor()
        first.clean_up = second._run_once  # type: ignore[method-assign]
        second.clean_up = mock.Mock()  # type: ignore[method-assign]

        first._run_once()
        alone = second.clean_up.called
        second._run_once()

        self.assertEqual((False, True), (alone, second.clean_up.called))

    def test_janitor_works_every_three_seconds_until_it_is_stopped(self) -> None:
        clock = PassingClock()
        janitor = self.janitor(clock)
        rounds: list[float] = []

        def work() -> None:
            rounds.append(clock.now())
            if len(rounds) == 3:
                janitor._stopping.set()

        janitor.clean_up = work  # type: ignore[method-assign]
        janitor._run()

        self.assertEqual([1000.0, 1003.0, 1006.0], rounds)

    def test_lock_of_a_stopped_janitor_holds_for_a_minute(self) -> None:
        id_ = self.fetch()
        path = self.path + ".janitor"
        kept, clock = [], VirtualClock()
        with FileLock(path).hold():
            for silent in (50, 70, -50, -70):
                clock.set_date(os.stat(path).st_mtime + silent)
                self.janitor(lock=FileLock(path, clock=clock))._run_once()
                kept.append((self.directory / "drops" / id_[:2] / id_).exists())
                id_ = id_ if kept[-1] else self.fetch()

        self.assertEqual([True, False, True, False], kept)

    def test_pause_is_five_times_the_last_step_and_at_most_the_interval(self) -> None:
        for _ in range(3):
            self.fetch()
        clock = PassingClock()
        janitor = self.janitor(clock)
        forget = self.drops.delete_old

        takes = [0.5, 10.0, 0.0]

        def forget_slowly() -> int:
            clock.advance(takes.pop(0))
            return forget() or len(takes)

        with mock.patch.object(self.drops, "delete_old", forget_slowly), mock.patch.object(FileLock, "renew") as renew:
            janitor.clean_up()

        # Two steps with something to do, and one that finds nothing.
        self.assertEqual([2.5, 3.0], clock.waits)
        self.assertEqual(3, renew.call_count)
        self.assertEqual([], self.files_below(self.directory / "drops"))

    def test_stop_takes_effect_between_two_steps(self) -> None:
        self.fetch()
        janitor = self.janitor()

        def stop_and_forget() -> int:
            janitor._stopping.set()
            return 7

        with mock.patch.object(self.drops, "delete_old", side_effect=stop_and_forget) as forget:
            janitor.clean_up()

        self.assertEqual(1, forget.call_count)

    def test_failure_is_logged_once_without_a_drop_id_until_it_is_over(self) -> None:
        id_, other = self.fetch(), self.fetch()
        janitor = self.janitor()
        unlink = os.unlink

        def refuse_one(name: str, **settings: int) -> None:
            if name.endswith(id_):
                raise PermissionError(13, "Permission denied", f"drops/{id_[:2]}/{id_}")
            unlink(name, **settings)

        with self.assertLogs("filestoraged.store.janitors") as logged:
            with mock.patch.object(LINUX, "unlink", refuse_one):
                for _ in range(3):
                    janitor._run_once()
            janitor._run_once()
            logging.getLogger("filestoraged.store.janitors").warning("over")

        self.assertEqual(2, len(logged.records), logged.output)
        self.assertIn("Permission denied", logged.output[0])
        self.assertNotIn(id_, "".join(logged.output))
        self.assertFalse((self.directory / "drops" / other[:2] / other).exists())
