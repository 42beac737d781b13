"""The pool starts threads when needed, and returns jobs if no thread can be started."""

from __future__ import annotations

import threading
import unittest
from unittest.mock import patch

from filestoraged.web.pool import Pool
from tests.support import PATIENCE


class Job:
    thread: threading.Thread

    def __init__(self) -> None:
        self.done = threading.Event()

    def run_on_thread(self) -> None:
        self.thread = threading.current_thread()
        self.done.set()


start = threading.Thread.start


def refuse_to_start(thread: threading.Thread) -> None:
    """Replace `Thread.start`: threads of pools fail to start, others do not."""
    if thread.name == "request":
        raise RuntimeError("can't start new thread")
    start(thread)


class PoolTest(unittest.TestCase):
    def setUp(self) -> None:
        self.pool: Pool[Job] = Pool(2, idle=10.0, patience=5.0)
        self.addCleanup(self.pool.close)

    def submit_without_threads(self, count: int) -> list[Job]:
        jobs = [Job() for _ in range(count)]
        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            for job in jobs:
                self.pool.submit(job)
        return jobs

    def test_submitted_job_is_run(self) -> None:
        job = Job()

        self.pool.submit(job)

        self.assertTrue(job.done.wait(PATIENCE))

    def test_jobs_without_a_thread_are_run_by_one_that_a_check_starts(self) -> None:
        jobs = self.submit_without_threads(3)

        left = self.pool.check(0.0)

        self.assertEqual([], left)
        for job in jobs:
            self.assertTrue(job.done.wait(PATIENCE))

    def test_jobs_are_returned_when_no_thread_could_be_started_for_the_patience(self) -> None:
        jobs = self.submit_without_threads(3)

        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            given_back = [self.pool.check(now) for now in (10.0, 14.9, 15.1)]

        self.assertEqual([[], [], jobs], given_back)
        self.assertFalse(self.pool.busy)

    def test_patience_begins_again_after_a_thread_was_started(self) -> None:
        (job,) = self.submit_without_threads(1)
        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            self.pool.check(10.0)
        self.pool.check(11.0)
        self.assertTrue(job.done.wait(PATIENCE))
        self.pool.close()
        job.thread.join()
        self.submit_without_threads(1)

        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            self.assertEqual([], self.pool.check(20.0))

    def test_threads_that_no_job_has_needed_for_a_while_end_and_others_are_kept(self) -> None:
        # This thread does what they would.
        with patch.object(threading.Thread, "start"):
            self.pool.submit(Job())
            self.pool.submit(Job())
        counts = []
        for now, jobs in ((0.0, 2), (9.9, 1), (10.0, 0)):
            for _ in range(jobs):
                if now:
                    self.pool.submit(Job())
                self.assertTrue(self.pool._work())
            self.pool.check(now)
            counts.append(self.pool._threads)

        self.assertEqual([2, 2, 1], counts)
        self.assertFalse(self.pool._work())
