"""The batch writer: jobs of many callers are written together, and none waits for ever."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Sequence
from unittest import mock

from filestoraged.errors import StoreUnavailable
from filestoraged.store.batch_writer import URGENT, BatchWriter
from tests.clock import VirtualClock
from tests.support import PATIENCE, TempCase


class Batches:
    """A target that records its calls, and blocks each batch until `goes_on` is set."""

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


class TestedLock:
    """Tells when the writer waits for it."""

    def __init__(self) -> None:
        self.awaited = threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.awaited.set()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class BatchWriterTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.work = Batches()
        self.clock = VirtualClock()

    def test_jobs_that_arrive_during_a_batch_form_the_next(self) -> None:
        writer = BatchWriter(threading.Lock(), self.work, timeout=PATIENCE)
        writer.submit(0)
        self.work.begun.wait(PATIENCE)
        for number in range(1, 1201):
            writer.submit(number)
        self.work.goes_on.set()
        writer.close()

        self.assertEqual([1, 500, 500, 200], [len(each) for each in self.work.batches])
        self.assertEqual(list(range(1201)), [job for each in self.work.batches for job in each])

    def test_job_is_refused_while_the_lock_is_held_and_the_next_is_written(self) -> None:
        self.work.goes_on.set()
        lock = TestedLock()
        writer = BatchWriter(lock, self.work, clock=self.clock)
        with lock.lock:
            writer.submit(1)
            self.assertTrue(lock.awaited.wait(PATIENCE))
            self.refuse_overdue()
        writer.submit(2)
        writer.close()

        self.assertEqual([1], self.work.refused)
        self.assertEqual({StoreUnavailable}, {type(error) for error in self.work.errors})
        self.assertEqual([[2]], self.work.batches)

    def test_job_is_refused_while_the_batch_before_it_is_blocked(self) -> None:
        writer = BatchWriter(threading.Lock(), self.work, clock=self.clock)
        writer.submit(1)
        self.assertTrue(self.work.begun.wait(PATIENCE))
        writer.submit(2)
        self.refuse_overdue()
        self.work.goes_on.set()
        writer.close()

        self.assertEqual(([[1]], [2]), (self.work.batches, self.work.refused))

    def test_pending_results_of_maintenance_are_refused_while_the_lock_is_held(self) -> None:
        self.work.steps = [URGENT] * 1000
        self.work.goes_on.set()
        lock = TestedLock()
        writer = BatchWriter(lock, self.work, clock=self.clock)
        writer.submit(1)
        # Both threads: the writer for the next step.
        self.clock.wait_for_waiting(2)
        lock.awaited.clear()
        with lock.lock:
            self.clock.advance(URGENT)
            self.assertTrue(lock.awaited.wait(PATIENCE))
            self.refuse_overdue()
            self.work.steps = []
        writer.close()

        self.assertEqual([], self.work.refused)

    def refuse_overdue(self) -> None:
        """Let the time of a job pass. The thread that refuses it waits on the clock."""
        self.clock.wait_for_waiting()
        self.clock.advance(4.9)
        self.clock.wait_for_waiting()
        self.assertFalse(self.work.was_refused.is_set())
        self.clock.advance(0.25)
        self.assertTrue(self.work.was_refused.wait(PATIENCE))

    def test_failing_lock_refuses_all_queued_jobs(self) -> None:
        lock = mock.MagicMock()
        lock.__enter__.side_effect = PermissionError(13, "Permission denied")
        writer = BatchWriter(lock, self.work)
        writer.submit(1)
        self.assertTrue(self.work.was_refused.wait(PATIENCE))
        writer.close()

        self.assertEqual([1], self.work.refused)

    def test_defect_in_maintenance_refuses_pending_results_and_the_next_job_is_written(self) -> None:
        self.work.goes_on.set()
        writer = BatchWriter(threading.Lock(), self.work)
        with mock.patch.object(self.work, "maintain", side_effect=ZeroDivisionError), self.assertLogs("filestoraged"):
            writer.submit(1)
            self.assertTrue(self.work.was_refused.wait(PATIENCE))
        writer.submit(2)
        writer.close()

        self.assertEqual([[1], [2]], self.work.batches)
        self.assertEqual({ZeroDivisionError}, {type(error) for error in self.work.errors})

    def test_submit_without_a_thread_raises_and_queues_nothing(self) -> None:
        self.work.goes_on.set()
        writer = BatchWriter(threading.Lock(), self.work)
        with mock.patch("threading.Thread.start", side_effect=RuntimeError("can't start new thread")):
            self.assertRaises(StoreUnavailable, writer.submit, 1)
        writer.submit(2)
        writer.close()

        self.assertEqual([[2]], self.work.batches)

    def test_close_finishes_urgent_maintenance_and_leaves_the_rest(self) -> None:
        self.work.steps = [URGENT, URGENT, 1.0, math.inf]
        self.work.goes_on.set()
        writer = BatchWriter(contextlib.nullcontext(), self.work)
        writer.submit(1)
        self.work.begun.wait(PATIENCE)

        self.assertTrue(writer.close(PATIENCE))
        self.assertEqual([math.inf], self.work.steps)

    def test_close_returns_false_after_its_timeout(self) -> None:
        lock = threading.Lock()
        writer = BatchWriter(lock, self.work)
        with lock:
            writer.submit(1)
            ended = writer.close(0.05)
            self.work.goes_on.set()

        self.assertFalse(ended)
