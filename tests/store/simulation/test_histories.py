"""Histories of the disk store by seed; and faults that are planted in it, each of which some history finds."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import unittest
from collections.abc import Sequence
from typing import Any
from unittest import mock

from filestoraged.store.disk import committer, staging_area
from filestoraged.store.disk.changes import Removal, Upload
from filestoraged.store.disk.committer import Change, Committer
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.staged_file import StagedFile
from filestoraged.store.disk.volume import Volume
from tests.store.simulation.history import History, Plan

# FILESTORAGED_SEEDS=10000 tries as many, FILESTORAGED_SEEDS=71-71 one.
_SEEDS = "300"

# Nothing fails but the power; or a call as well.
_CALM = Plan(failures=0.0, aborts=0.0)
_GROUPED = Plan(failures=0.0, aborts=0.0, grouped=1.0, file_system="ext4")
_FAILING = Plan(failures=0.01, aborts=0.0, grouped=1.0, file_system="ext4")
_ABORTING = Plan(failures=0.0, aborts=0.02)

# Histories in which a planted fault must be found, if the one of the known seed does not find it any more.
_TRIES = 2000


class SimulationCase(unittest.TestCase):
    def setUp(self) -> None:
        # Failures are many, and each is logged.
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)


class HistoriesTest(SimulationCase):
    def test_histories_lose_nothing_answered_and_show_nothing_failed_and_no_other_bytes(self) -> None:
        first, _, last = os.environ.get("FILESTORAGED_SEEDS", _SEEDS).rpartition("-")
        for seed in range(int(first or 1), int(last) + 1):
            History(seed).run()

    def test_history_of_a_seed_is_the_same_each_time(self) -> None:
        histories = [History(11) for _ in range(2)]
        for history in histories:
            history.run()

        first, second = (history.machine.calls for history in histories)
        self.assertGreater(len(first), 100)
        self.assertEqual(first, second)


class PlantedFaultsTest(SimulationCase):
    def assert_found(
        self, seed: int, plan: Plan, fault: contextlib.AbstractContextManager[object], *, symptom: str
    ) -> None:
        """The history of that seed finds the fault, or the next one that does; without the fault it passes.

        A change of the store changes all histories: another seed is searched then.
        """
        with fault:
            found = next(each for each in (seed, *range(1, _TRIES)) if _fails(each, plan, symptom))
        History(found, plan).run()

    def test_name_that_is_given_before_the_bytes_are_synced(self) -> None:
        fault = mock.patch.object(StagedFile, "sync", lambda _: None)
        self.assert_found(1, _CALM, fault, symptom="bytes that are not its own")

    def test_name_that_is_given_in_the_round_that_syncs_the_bytes(self) -> None:
        def advance(upload: Upload) -> None:
            upload._write()
            upload._volume.directories.place(upload._shard, upload._name)
            upload.is_complete = True

        fault = mock.patch.object(Upload, "advance", advance)
        self.assert_found(3, _CALM, fault, symptom="bytes that are not its own")

    def test_directory_that_is_not_synced(self) -> None:
        fault = mock.patch.object(Directories, "sync", lambda *_: None)
        self.assert_found(8, _CALM, fault, symptom="is missing")

    def test_new_directory_whose_own_name_is_not_synced(self) -> None:
        fault = mock.patch.object(Directories, "_sync_name", lambda *_: None)
        self.assert_found(4, _CALM, fault, symptom="is missing")

    def test_directory_that_is_taken_for_durable_although_it_has_just_changed(self) -> None:
        fault = mock.patch("filestoraged.store.disk.directories.is_past", lambda *_, **__: True)
        self.assert_found(19, _CALM, fault, symptom="is missing")

    def test_removal_that_is_not_synced(self) -> None:
        fault = mock.patch.object(Removal, "sync", lambda _: None)
        self.assert_found(35, _CALM, fault, symptom="is there")

    def test_answer_before_the_sync_has_ended(self) -> None:
        together = Committer._sync_together

        def answer_early(self: Committer, changes: Sequence[Change]) -> Sequence[Change]:
            committer._finish([change for change in changes if change.is_complete])
            return together(self, changes)

        fault = mock.patch.object(Committer, "_sync_together", answer_early)
        self.assert_found(62, _GROUPED, fault, symptom="is missing|is there")

    def test_failed_sync_of_a_group_that_is_taken_for_a_success(self) -> None:
        def ignore(self: Committer, changes: Sequence[Change]) -> Sequence[Change]:
            with contextlib.suppress(OSError):
                self._file_system.sync()
            return changes

        fault = mock.patch.object(Committer, "_sync_together", ignore)
        self.assert_found(23, _FAILING, fault, symptom="bytes that are not its own")

    def test_failed_sync_that_is_repeated_until_it_succeeds(self) -> None:
        def repeat(self: StagedFile) -> None:
            with contextlib.suppress(OSError):
                self._system.fsync(self._descriptor)
            self._system.fsync(self._descriptor)

        fault = mock.patch.object(StagedFile, "sync", repeat)
        self.assert_found(41, _FAILING, fault, symptom="bytes that are not its own")

    def test_success_of_a_sync_that_is_believed_on_a_file_system_that_failed(self) -> None:
        fault = mock.patch.object(Volume, "check_changes", lambda _: None)
        self.assert_found(6, _ABORTING, fault, symptom="is missing|is there")

    def test_name_of_a_failed_upload_that_stays(self) -> None:
        fault = mock.patch.object(StagedFile, "take_back", lambda *_: None)
        self.assert_found(61, _FAILING, fault, symptom="is there")

    def test_name_of_another_upload_that_a_failed_one_takes_back(self) -> None:
        def take_any(self: StagedFile, shard: str, path: str) -> None:
            self._system.rename(path, self._path)

        fault = mock.patch.object(StagedFile, "take_back", take_any)
        self.assert_found(35, _FAILING, fault, symptom="is missing")

    def test_refusal_of_an_upload_before_the_object_that_exists_is_durable(self) -> None:
        def advance(upload: Upload) -> None:
            real(upload)
            if upload._refusal is not None:
                raise upload._refusal

        real = Upload.advance
        fault = mock.patch.object(Upload, "advance", advance)
        self.assert_found(1411, _CALM, fault, symptom="is missing")

    def test_staging_of_a_living_process_that_is_swept(self) -> None:
        def never_alive(*_: Any, **__: Any) -> bool:
            return True

        fault = mock.patch.object(staging_area, "lock_if_dead", never_alive)
        self.assert_found(11, _CALM, fault, symptom="FileNotFoundError")


def _fails(seed: int, plan: Plan, symptom: str) -> bool:
    try:
        History(seed, plan).run()
    except AssertionError as error:
        return re.search(symptom, str(error).splitlines()[-1]) is not None
    return False
