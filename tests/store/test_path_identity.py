"""Whether a path still leads to what was opened there: lost, replaced, back; logged once by all processes."""

from __future__ import annotations

import errno
import os
from unittest import mock

from filestoraged.daemon.processes import wait_for_ended_threads
from filestoraged.errors import StoreDetached
from filestoraged.store.path_identity import PathIdentities, PathIdentity
from filestoraged.store.system import Linux
from tests.support import TempCase


class PathIdentityTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "store"
        self.path.mkdir()
        self.away = self.directory / "away"
        self.system = Linux()
        self.identity = PathIdentity(str(self.path), "The store's directory", system=self.system)

    def fix(self) -> None:
        self.identity.fix()
        self.identity.check()

    def cause(self) -> str:
        with self.assertRaises(StoreDetached) as raised:
            self.identity.check()
        self.assertNotIn(str(self.directory), str(raised.exception))
        return str(raised.exception.__cause__)

    def test_path_that_was_not_opened_yet_passes(self) -> None:
        self.path.rmdir()

        self.identity.check()

        self.assertFalse(self.identity.is_fixed)

    def test_path_that_was_moved_fails_until_it_is_back(self) -> None:
        self.fix()

        os.rename(self.path, self.away)
        cause, lost = self.cause(), self.identity.is_lost
        os.rename(self.away, self.path)
        self.identity.check()

        self.assertEqual((f"'{self.path}' is missing", True, False), (cause, lost, self.identity.is_lost))

    def test_another_directory_at_the_path_fails_however_often_it_is_fixed(self) -> None:
        self.fix()
        os.rename(self.path, self.away)
        self.path.mkdir()

        self.identity.fix()

        self.assertEqual(f"'{self.path}' is not what was opened there", self.cause())

    def test_directory_made_where_one_was_removed_is_another_one(self) -> None:
        """File systems give the number of an inode that was removed to the next one."""
        self.fix()
        self.path.rmdir()

        self.path.mkdir()

        self.assertEqual(f"'{self.path}' is not what was opened there", self.cause())

    def test_path_on_a_dead_disk_fails_and_names_the_error(self) -> None:
        self.fix()

        with mock.patch.object(self.system, "stat", side_effect=OSError(errno.EIO, "Input/output error")):
            cause = self.cause()

        self.assertEqual(f"'{self.path}' cannot be reached: Input/output error", cause)
        self.identity.check()

    def test_loss_is_logged_once_in_all_processes_and_so_is_the_return(self) -> None:
        self.fix()
        os.rename(self.path, self.away)

        with self.assertLogs("filestoraged.store.path_identity") as logged:
            wait_for_ended_threads()
            child = os.fork()
            if not child:
                try:
                    self.identity.check()
                except StoreDetached:
                    os._exit(0)
                os._exit(1)
            status = os.waitpid(child, 0)[1]
            is_known = self.identity.is_lost
            self.cause()
            os.rename(self.away, self.path)
            self.identity.check()
            self.identity.check()

        # The child has logged the loss.
        self.assertEqual((0, True), (status, is_known))
        self.assertEqual([f"'{self.path}' is back"], [record.getMessage() for record in logged.records])

    def test_block_that_found_nothing_fails_where_the_path_is_lost(self) -> None:
        self.fix()
        with self.assertRaises(FileNotFoundError), self.identity.required():
            raise FileNotFoundError

        os.rename(self.path, self.away)

        with self.assertRaises(StoreDetached), self.identity.required():
            raise FileNotFoundError


class PathIdentitiesTest(TempCase):
    def test_reload_keeps_what_was_opened_and_another_path_is_opened_anew(self) -> None:
        former = PathIdentities()
        opened = former.of_root("/store")

        later = PathIdentities(former)

        self.assertIs(opened, later.of_root("/store"))
        self.assertIs(later.of_database("/store/kv.sqlite"), later.of_database("/store/kv.sqlite"))
        self.assertIsNot(opened, PathIdentities(later).of_root("/other"))
        # Once a configuration did not use it, it is opened anew.
        between = PathIdentities(later)
        between.of_root("/other")
        self.assertIsNot(opened, PathIdentities(between).of_root("/store"))
