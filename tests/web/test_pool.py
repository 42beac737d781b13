"""Threads are started as they are needed, and jobs do not wait for ever where none can be."""

from __future__ import annotations

import threading
import unittest
from unittest.mock import patch

from filestoraged.web.pool import Pool
from tests.support import PATIENCE


class Job:
    def __init__(self) -> None:
        self.done = threading.Event()

    def run_on_thread(self) -> None:
        self.done.set()


start = threading.Thread.start


def refuse_to_start(thread: threading.Thread) -> None:
    """In place of a thread's `start`: the pools' are refused, and those of others are not."""
    if thread.name == "request":
        raise RuntimeError("can't start new thread")
    start(thread)


class PoolTest(unittest.TestCase):
    def setUp(self) -> None:
        self.pool: Pool[Job] = Pool(2, idle=0.01, patience=5.0)

    def submit_without_threads(self, count: int) -> list[Job]:
        jobs = [Job() for _ in range(count)]
        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            for job in jobs:
                self.pool.submit(job)
        return jobs

    def test_a_job_is_done(self) -> None:
        job = Job()

        self.pool.submit(job)

        self.assertTrue(job.done.wait(PATIENCE))

    def test_jobs_that_found_no_thread_are_done_by_one_that_a_retry_starts(self) -> None:
        jobs = self.submit_without_threads(3)

        left = self.pool.retry(0.0)

        self.assertEqual([], left)
        for job in jobs:
            self.assertTrue(job.done.wait(PATIENCE))

    def test_jobs_are_given_back_when_no_thread_could_be_started_for_the_patience(self) -> None:
        jobs = self.submit_without_threads(3)

        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            given_back = [self.pool.retry(now) for now in (10.0, 14.9, 15.1)]

        self.assertEqual([[], [], jobs], given_back)
        self.assertFalse(self.pool.busy)

    def test_the_patience_begins_anew_after_a_thread_was_started(self) -> None:
        self.submit_without_threads(1)
        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            self.pool.retry(10.0)
        self.pool.retry(11.0)
        while self.pool.busy or self.pool._threads:
            threading.Event().wait(0.01)
        self.submit_without_threads(1)

        with patch.object(threading.Thread, "start", refuse_to_start), self.assertLogs("filestoraged.web.pool"):
            self.assertEqual([], self.pool.retry(20.0))
