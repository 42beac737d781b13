"""The file of the epoch on a simulated disk, whose syncs fail once, and whose power is cut."""

from __future__ import annotations

import contextlib
import unittest
from collections.abc import Iterator
from unittest import mock

from filestoraged.store.disk.directories import sync
from filestoraged.store.disk.epoch import Checkpoint, Epoch, EpochFile
from tests.store.simulation.machine import Machine
from tests.store.simulation.process import Process

_FIRST, _SECOND = "00" * 8, "11" * 8
# What a failed sync and a power cut leave differs by seed.
_SEEDS = range(200)


class PowerCut(Exception):
    """Comes in the place of a sync."""


@contextlib.contextmanager
def cut(process: Process, call: str) -> Iterator[None]:
    """A block in which the power is cut before the first sync by that call."""
    with mock.patch.object(process, call, side_effect=PowerCut), contextlib.suppress(PowerCut):
        yield
    process.machine.cut_power()


@contextlib.contextmanager
def failing(process: Process, call: str) -> Iterator[None]:
    """A block in which that call fails once, and the kernel says so once."""
    faults = process.machine.faults
    faults.allow(call, chance=1.0)
    with contextlib.suppress(OSError):
        yield
    faults.stop()


class FailedSyncTest(unittest.TestCase):
    """What was durable stays until something else is."""

    def start(self, seed: int) -> None:
        self.machine = Machine(seed)
        process = Process(self.machine)
        process.mkdir("/store")
        sync("/", system=process)
        self.file, self.epoch = self.join(process)
        self.file.begin_marks(_FIRST, 1)
        self.file.save(Checkpoint(10, {}), self.epoch)
        self.process = process

    def join(self, process: Process) -> tuple[EpochFile, Epoch]:
        file = EpochFile("/store", system=process)
        return file, file.join(lambda _: None)

    def last_checkpoint(self) -> int:
        """The time of the last one after the power cut."""
        file = EpochFile("/store", system=Process(self.machine))
        return max((each.time for each in file.checkpoints(self.epoch)), default=0)

    def test_checkpoint_that_fails_is_followed_by_one_in_its_place(self) -> None:
        for seed in _SEEDS:
            self.start(seed)
            self.file.save(Checkpoint(20, {}), self.epoch)
            with failing(self.process, "fdatasync"):
                self.file.save(Checkpoint(30, {}), self.epoch)

            with cut(self.process, "fdatasync"):
                self.file.save(Checkpoint(40, {}), self.epoch)

            self.assertLessEqual(20, self.last_checkpoint(), seed)

    def test_process_that_takes_a_slot_syncs_the_checkpoint_that_is_there(self) -> None:
        for seed in _SEEDS:
            self.start(seed)
            self.file.save(Checkpoint(20, {}), self.epoch)
            with failing(self.process, "fdatasync"):
                self.file.save(Checkpoint(30, {}), self.epoch)
            other = Process(self.machine)
            # Opened behind the failure, it is not told of that.
            file, _ = self.join(other)
            self.process.kill()

            file.begin_marks(_SECOND, 35)
            with cut(other, "fdatasync"):
                file.save(Checkpoint(40, {}), self.epoch)

            self.assertLessEqual(20, self.last_checkpoint(), seed)

    def test_start_that_fails_is_followed_by_one_that_leaves_the_last_epoch(self) -> None:
        for seed in _SEEDS:
            self.start(seed)
            self.process.kill()
            process = Process(self.machine)
            with failing(process, "fsync"):
                self.join(process)
            process.kill()

            process = Process(self.machine)
            with cut(process, "fsync"):
                self.join(process)

            known: list[Epoch | None] = []
            EpochFile("/store", system=Process(self.machine)).join(known.append)
            self.assertIsNotNone(known[0], seed)
