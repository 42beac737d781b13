"""Many callers, one writer: jobs go together, and none waits for ever."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Sequence
from unittest import mock

from filestoraged.errors import StoreUnavailable
from filestoraged.store.sqlite.group_commit import URGENT, BatchWriter
from tests.support import PATIENCE, TempCase


class Batches:
    """Work that notes what it is told, and goes on when it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.refused: list[int] = []
        self.errors: list[Exception] = []
        self.begun = threading.Event()
        self.goes_on = threading.Event()
        self.was_refused = threading.Event()
        self.steps: list[float] = []

    def write_batch(self, jobs: Sequence[int]) -> None:
        self.batches.append(list(jobs))
        self.begun.set()
        self.goes_on.wait(PATIENCE)

    def maintain(self) -> float:
        return self.steps.pop(0) if self.steps else math.inf

    def refuse(self, jobs: Sequence[int], error: Exception) -> None:
        self.refused += jobs
        self.errors.append(error)
        self.was_refused.set()


class BatchWriterTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.work = Batches()

    def test_jobs_that_arrive_while_it_writes_are_written_together(self) -> None:
        writer = BatchWriter(threading.Lock(), self.work)
        writer.submit(0)
        self.work.begun.wait(PATIENCE)
        for number in range(1, 1201):
            writer.submit(number)
        self.work.goes_on.set()
        writer.close()

        self.assertEqual([1, 500, 500, 200], [len(each) for each in self.work.batches])
        self.assertEqual(list(range(1201)), [job for each in self.work.batches for job in each])

    def test_a_job_is_refused_when_the_lock_is_not_to_be_had_and_the_next_is_written(self) -> None:
        self.work.goes_on.set()
        lock = threading.Lock()
        writer = BatchWriter(lock, self.work, timeout=0.05)
        with lock:
            writer.submit(1)
            self.assertTrue(self.work.was_refused.wait(PATIENCE))
        writer.submit(2)
        writer.close()

        self.assertEqual([1], self.work.refused)
        self.assertEqual({StoreUnavailable}, {type(error) for error in self.work.errors})
        self.assertEqual([[2]], self.work.batches)

    def test_a_job_is_refused_when_those_before_it_take_too_long(self) -> None:
        writer = BatchWriter(threading.Lock(), self.work, timeout=0.05)
        writer.submit(1)
        self.work.begun.wait(PATIENCE)
        writer.submit(2)
        self.assertTrue(self.work.was_refused.wait(PATIENCE))
        self.work.goes_on.set()
        writer.close()

        self.assertEqual(([[1]], [2]), (self.work.batches, self.work.refused))

    def test_what_tidying_up_is_to_answer_is_refused_when_the_lock_is_not_to_be_had(self) -> None:
        self.work.steps = [URGENT] * 1000
        self.work.goes_on.set()
        lock = threading.Lock()
        writer = BatchWriter(lock, self.work, timeout=0.05)
        writer.submit(1)
        self.work.begun.wait(PATIENCE)
        with lock:
            self.assertTrue(self.work.was_refused.wait(PATIENCE))
            self.work.steps = []
        writer.close()

        self.assertEqual([], self.work.refused)

    def test_a_lock_that_fails_refuses_all_that_wait_for_it(self) -> None:
        lock = mock.MagicMock()
        lock.__enter__.side_effect = PermissionError(13, "Permission denied")
        writer = BatchWriter(lock, self.work)
        writer.submit(1)
        self.assertTrue(self.work.was_refused.wait(PATIENCE))
        writer.close()

        self.assertEqual([1], self.work.refused)

    def test_a_defect_in_a_round_refuses_its_jobs_and_the_next_are_written(self) -> None:
        self.work.goes_on.set()
        writer = BatchWriter(threading.Lock(), self.work)
        with mock.patch.object(self.work, "maintain", side_effect=ZeroDivisionError), self.assertLogs("filestoraged"):
            writer.submit(1)
            self.assertTrue(self.work.was_refused.wait(PATIENCE))
        writer.submit(2)
        writer.close()

        self.assertEqual([[1], [2]], self.work.batches)
        self.assertEqual({ZeroDivisionError}, {type(error) for error in self.work.errors})

    def test_without_a_thread_the_caller_is_told_and_nothing_is_left_over(self) -> None:
        self.work.goes_on.set()
        writer = BatchWriter(threading.Lock(), self.work)
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            self.assertRaises(StoreUnavailable, writer.submit, 1)
        writer.submit(2)
        writer.close()

        self.assertEqual([[2]], self.work.batches)

    def test_closing_finishes_what_a_caller_waits_for_and_leaves_the_rest(self) -> None:
        self.work.steps = [URGENT, URGENT, 1.0, math.inf]
        self.work.goes_on.set()
        writer = BatchWriter(contextlib.nullcontext(), self.work)
        writer.submit(1)
        self.work.begun.wait(PATIENCE)

        self.assertTrue(writer.close(PATIENCE))
        self.assertEqual([math.inf], self.work.steps)

    def test_closing_waits_no_longer_than_told(self) -> None:
        lock = threading.Lock()
        writer = BatchWriter(lock, self.work)
        with lock:
            writer.submit(1)
            ended = writer.close(0.05)
            self.work.goes_on.set()

        self.assertFalse(ended)
