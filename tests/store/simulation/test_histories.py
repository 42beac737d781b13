"""Histories of the disk store by seed; and faults that are planted in it, each of which some history finds."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import sys
import unittest
from typing import Any
from unittest import mock

from filestoraged.digest import Bytes
from filestoraged.store.disk import records, staging_area
from filestoraged.store.disk.changes import ObjectUpload, Removal
from filestoraged.store.disk.directories import Directories
from filestoraged.store.disk.epoch import Checkpoint, EpochFile
from filestoraged.store.disk.journal import JournalSegment
from filestoraged.store.disk.shared_journal import SharedJournal
from filestoraged.store.disk.staging_area import StagedFile, StagingArea
from filestoraged.store.disk.volume import Volume
from filestoraged.store.system import write_at
from tests.runner.marks import thorough
from tests.store.simulation.history import History, Plan

# FILESTORAGED_SEEDS=10000 tries as many, FILESTORAGED_SEEDS=71-71 one.
_SEEDS = "300"

# Seeds that are tried under --fast, too.
_FIRST = 100

# Nothing fails but the power; or a call as well. Without journals, and with them; with much that is written again.
_CALM = Plan(failures=0.0, aborts=0.0)
_ALONE = Plan(failures=0.0, aborts=0.0, file_system="btrfs")
_JOURNALS = Plan(failures=0.0, aborts=0.0, changes=8, file_system="ext4")
_FAILING = Plan(failures=0.01, aborts=0.0, changes=8, file_system="ext4")
_FAILING_OFTEN = Plan(failures=0.03, aborts=0.0, changes=16, file_system="ext4")
_FAILING_SYNCS = Plan(failures=0.3, failing=("syncfs",), aborts=0.0, changes=8, file_system="ext4")
# That is the sync of the file of epochs, of new segments, and of directories.
_FAILING_FSYNCS = Plan(failures=0.3, failing=("fsync",), aborts=0.0, lives=4, grouped=0.0, file_system="ext4")
_CONTENDED = Plan(failures=0.0, aborts=0.0, changes=24, grouped=0.0, file_system="ext4")
_CROWDED_ALONE = Plan(failures=0.0, aborts=0.0, grouped=1.0, group=16, file_system="btrfs")
_FAILING_ALONE = Plan(failures=0.01, aborts=0.0, file_system="btrfs")
_ABORTING = Plan(failures=0.0, aborts=0.02, file_system="btrfs")

# Histories in which a planted fault must be found, if the one of the known seed does not find it any more.
_TRIES = 2000


class SimulationCase(unittest.TestCase):
    def setUp(self) -> None:
        # Failures are many, and each is logged.
        logging.disable(logging.CRITICAL)
        self.addCleanup(logging.disable, logging.NOTSET)


def seeds() -> range:
    first, _, last = os.environ.get("FILESTORAGED_SEEDS", _SEEDS).rpartition("-")
    return range(int(first or 1), int(last) + 1)


class HistoriesTest(SimulationCase):
    def test_histories_lose_nothing_answered_and_show_nothing_failed_and_no_other_bytes(self) -> None:
        for seed in seeds()[:_FIRST]:
            History(seed).run()

    @thorough("hundreds of histories")
    def test_more_histories_lose_nothing_answered_and_show_nothing_failed_and_no_other_bytes(self) -> None:
        for seed in seeds()[_FIRST:]:
            History(seed).run()

    @thorough("hundreds of histories")
    def test_histories_in_which_one_kind_of_sync_fails_often(self) -> None:
        for plan in (_FAILING_SYNCS, _FAILING_FSYNCS):
            for seed in range(1, 101):
                History(seed, plan).run()

    def test_history_of_a_seed_is_the_same_each_time(self) -> None:
        histories = [History(11) for _ in range(2)]
        for history in histories:
            history.run()

        first, second = (history.machine.calls for history in histories)
        self.assertGreater(len(first), 100)
        self.assertEqual(first, second)


@thorough("hundreds of histories, which show that the simulation finds faults of the store")
class PlantedFaultsTest(SimulationCase):
    def assert_found(
        self, seed: int, plan: Plan, fault: contextlib.AbstractContextManager[object], *, symptom: str
    ) -> None:
        """A history finds the fault, and passes without it."""
        History(self.find(seed, plan, fault, symptom=symptom), plan).run()

    def find(self, seed: int, plan: Plan, fault: contextlib.AbstractContextManager[object], *, symptom: str) -> int:
        """The seed, or the first one whose history finds the fault: a change of the store changes all histories."""
        with fault:
            found: list[int] = [*itertools.islice((each for each in _seeds(seed) if _fails(each, plan, symptom)), 1)]
        self.assertTrue(found, "no history finds the fault")
        return found[0]

    # Changes that are recorded.

    def test_name_that_is_given_before_the_record_is_synced(self) -> None:
        def prepare(self: ObjectUpload) -> Bytes:
            data = bytes(real(self))
            apply(self)
            return data

        real, apply = ObjectUpload.prepare, ObjectUpload.apply
        with mock.patch.object(ObjectUpload, "apply", lambda _: None):
            fault = mock.patch.object(ObjectUpload, "prepare", prepare)
            found = self.find(91, _JOURNALS, fault, symptom="not its own|is missing")
        History(found, _JOURNALS).run()

    def test_group_that_is_not_synced(self) -> None:
        def write(self: JournalSegment, data: bytes) -> None:
            self._system.pwrite(self.descriptor, data, self._position)
            self._position += len(data)

        fault = mock.patch.object(JournalSegment, "write", write)
        self.assert_found(13, _JOURNALS, fault, symptom="is missing|is there")

    def test_failed_sync_of_a_group_that_is_repeated_until_it_succeeds(self) -> None:
        def write(self: JournalSegment, data: bytes) -> None:
            write_at(self._system, self.descriptor, data, self._position)
            with contextlib.suppress(OSError):
                self._system.fdatasync(self.descriptor)
            self._system.fdatasync(self.descriptor)
            self._position += len(data)

        fault = mock.patch.object(JournalSegment, "write", write)
        self.assert_found(28, _FAILING, fault, symptom="is missing|is there|JournalDamaged|not its own")

    def test_record_of_an_earlier_life_of_its_segment(self) -> None:
        fault = mock.patch.object(Checkpoint, "covers", lambda *_: 0)
        self.assert_found(4, _JOURNALS, fault, symptom="is there|is missing|JournalDamaged")

    def test_removal_that_another_journal_undoes(self) -> None:
        """Each process covers its own records alone: one forgets a removal before another one forgets the upload."""

        def living(self: StagingArea) -> set[str]:
            return {self.own().token}

        def covers(self: Checkpoint, token: str) -> int:
            return self.marks.get(token, 0)

        with mock.patch.object(StagingArea, "living", living):
            fault = mock.patch.object(Checkpoint, "covers", covers)
            found = self.find(18, _CONTENDED, fault, symptom="is there")
        History(found, _CONTENDED).run()

    def test_checkpoint_that_is_saved_before_its_sync_has_ended(self) -> None:
        fault = mock.patch.object(SharedJournal, "_sync", lambda *_: None)
        self.assert_found(3, _JOURNALS, fault, symptom="is missing|is there|not its own")

    def test_checkpoint_that_covers_what_is_not_applied_yet(self) -> None:
        def marks(self: EpochFile) -> dict[str, int]:
            return dict.fromkeys(real(self), 1 << 62)

        real = EpochFile.marks
        fault = mock.patch.object(EpochFile, "marks", marks)
        self.assert_found(31, _JOURNALS, fault, symptom="is missing|is there|not its own")

    def test_void_record_that_is_lost(self) -> None:
        nothing: set[tuple[int, int]] = set()
        fault = mock.patch.object(records, "_voids", lambda _: nothing)
        self.assert_found(19, _FAILING, fault, symptom="is there|JournalDamaged")

    def test_object_whose_change_without_a_record_is_not_noted(self) -> None:
        fault = mock.patch.object(Volume, "_note", lambda *_: None)
        self.assert_found(54, _JOURNALS, fault, symptom="is missing")

    def test_failed_sync_of_files_that_are_not_made_anew(self) -> None:
        fault = mock.patch("filestoraged.store.disk.replay.Replay.remake", lambda *_: None)
        self.assert_found(1, _FAILING_SYNCS, fault, symptom="not its own|is missing")

    def test_failed_sync_that_is_forgotten_behind_its_checkpoint(self) -> None:
        def sync(self: SharedJournal) -> None:
            assert self._file_system is not None
            self._file_system.sync()

        fault = mock.patch.object(SharedJournal, "_sync_once", sync)
        self.assert_found(18, _FAILING_SYNCS, fault, symptom="not its own|is missing")

    def test_failed_sync_that_dies_with_its_process(self) -> None:
        fault = mock.patch.object(EpochFile, "is_in_doubt", lambda *_: False)
        self.assert_found(11, _FAILING_SYNCS, fault, symptom="not its own|is missing")

    def test_epoch_that_is_believed_before_it_is_durable(self) -> None:
        fault = mock.patch.object(EpochFile, "_state", lambda *_: b"\1")
        self.assert_found(3, _FAILING_FSYNCS, fault, symptom="JournalDamaged|is missing|not its own|is there")

    # Changes that are synced alone.

    def test_name_that_is_given_before_the_bytes_are_synced(self) -> None:
        fault = mock.patch.object(StagedFile, "sync", lambda _: None)
        self.assert_found(3, _ALONE, fault, symptom="bytes that are not its own")

    def test_directory_that_is_not_synced(self) -> None:
        fault = mock.patch.object(Directories, "sync", lambda *_: None)
        self.assert_found(1, _ALONE, fault, symptom="is missing")

    def test_new_directory_whose_own_name_is_not_synced(self) -> None:
        fault = mock.patch.object(Directories, "_sync_name", lambda *_: None)
        self.assert_found(1, _ALONE, fault, symptom="is missing")

    def test_directory_that_is_taken_for_durable_although_it_has_just_changed(self) -> None:
        fault = mock.patch("filestoraged.store.disk.directories.is_past", lambda *_, **__: True)
        self.assert_found(45, _ALONE, fault, symptom="is missing")

    def test_removal_that_is_not_synced(self) -> None:
        def unlink(self: Removal) -> None:
            self._is_removed = self._unlink(self._full, None)

        fault = mock.patch.object(Removal, "commit_alone", unlink)
        self.assert_found(6, _ALONE, fault, symptom="is there")

    def test_failed_sync_that_is_repeated_until_it_succeeds(self) -> None:
        def repeat(self: StagedFile) -> None:
            with contextlib.suppress(OSError):
                self._system.fsync(self._descriptor)
            self._system.fsync(self._descriptor)

        fault = mock.patch.object(StagedFile, "sync", repeat)
        self.assert_found(106, _FAILING_ALONE, fault, symptom="bytes that are not its own")

    def test_success_of_a_sync_that_is_believed_on_a_file_system_that_failed(self) -> None:
        fault = mock.patch.object(Volume, "check_changes", lambda _: None)
        self.assert_found(17, _ABORTING, fault, symptom="is missing|is there")

    def test_name_of_a_failed_upload_that_stays(self) -> None:
        fault = mock.patch.object(ObjectUpload, "take_back", lambda _: None)
        self.assert_found(31, _FAILING_ALONE, fault, symptom="is there")

    def test_name_of_an_earlier_upload_that_a_failed_one_takes_back(self) -> None:
        def take_any(self: ObjectUpload) -> None:
            self._system.unlink(self._full)

        fault = mock.patch.object(ObjectUpload, "take_back", take_any)
        self.assert_found(12, _FAILING_ALONE, fault, symptom="is missing")

    def test_refusal_of_an_upload_before_the_object_that_exists_is_durable(self) -> None:
        def sync(self: Directories, path: str, descriptor: int) -> None:
            if not getattr(sys._getframe(1).f_locals["self"], "_is_refused", False):
                real(self, path, descriptor)

        real = Directories.sync
        fault = mock.patch.object(Directories, "sync", sync)
        self.assert_found(496, _CROWDED_ALONE, fault, symptom="is missing")

    def test_change_without_a_record_whose_path_is_not_locked(self) -> None:
        fault = mock.patch.object(SharedJournal, "locked", lambda *_, **__: contextlib.nullcontext())
        self.assert_found(2, _FAILING_ALONE, fault, symptom="is missing")

    def test_staging_of_a_living_process_that_is_swept(self) -> None:
        def never_alive(*_: Any, **__: Any) -> bool:
            return True

        fault = mock.patch.object(staging_area, "try_lock", never_alive)
        self.assert_found(21, _CALM, fault, symptom="FileNotFoundError|is missing")


def _seeds(first: int) -> tuple[int, ...]:
    return (first, *range(1, _TRIES))


def _fails(seed: int, plan: Plan, symptom: str) -> bool:
    try:
        History(seed, plan).run()
    except AssertionError as error:
        return re.search(symptom, str(error).splitlines()[-1]) is not None
    return False
