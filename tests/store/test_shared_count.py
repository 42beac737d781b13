"""One process counts for all, in the background; whoever is asked answers at once with what is known."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from filestoraged.errors import StoreUnavailable
from filestoraged.store.shared_count import Counted, Pause, SharedCount
from tests.support import PATIENCE


class SharedCountTest(unittest.TestCase):
    def setUp(self) -> None:
        self.shared = SharedCount()
        self.addCleanup(self.shared.close)

    def latest_until(self, condition: Callable[[Counted | None], bool], count: Callable[[Pause], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            counted = self.shared.latest(count)
            if condition(counted):
                return counted
            self.assertLess(time.monotonic(), deadline)

    def test_short_count_is_as_of_now(self) -> None:
        numbers = iter(range(1000))
        first = self.latest_until(lambda counted: counted is not None, lambda _: next(numbers))

        again = self.latest_until(lambda counted: counted.value > first.value, lambda _: next(numbers))

        self.assertLess(again.age, PATIENCE)

    def test_long_count_is_not_waited_for_and_nothing_is_told_before_its_end(self) -> None:
        ends = threading.Event()
        self.addCleanup(ends.set)

        def count(_: Pause) -> int:
            ends.wait(PATIENCE)
            return 5

        self.assertEqual([None] * 10, [self.shared.latest(count) for _ in range(10)])
        ends.set()
        counted = self.latest_until(lambda counted: counted is not None, count)

        self.assertEqual(5, counted.value)
        # It tells of the time when it began.
        self.assertGreaterEqual(counted.age, 0.0)

    def test_age_grows_while_the_next_count_takes_long(self) -> None:
        first, ends = threading.Event(), threading.Event()
        self.addCleanup(ends.set)

        def count(_: Pause) -> int:
            if first.is_set():
                ends.wait(PATIENCE)
            first.set()
            return 1

        self.latest_until(lambda counted: counted is not None, count)
        told = [self.shared.latest(count) for _ in range(3)]

        ages = [counted.age for counted in told if counted is not None]
        self.assertEqual(3, len(ages))
        self.assertLess(ages[0], ages[2])

    def test_count_that_fails_is_told_and_the_next_one_heals(self) -> None:
        healed = threading.Event()

        def count(_: Pause) -> int:
            if not healed.is_set():
                raise OSError("Input/output error")
            return 7

        with self.assertRaisesRegex(StoreUnavailable, "Input/output error"):
            self.latest_until(lambda counted: False, count)
        healed.set()

        self.assertEqual(7, self.until_it_succeeds(count).value)

    def until_it_succeeds(self, count: Callable[[Pause], Any]) -> Any:
        while True:
            with contextlib.suppress(StoreUnavailable):
                return self.shared.latest(count)

    def test_count_takes_its_share_of_the_time_and_ends_when_it_is_stopped(self) -> None:
        begun = threading.Event()
        worked: list[float] = []

        def count(pause: Pause) -> None:
            while True:
                started = time.thread_time()
                while time.thread_time() - started < 0.002:
                    pass
                worked.append(time.thread_time() - started)
                pause()
                begun.set()

        started = time.monotonic()
        self.shared.latest(count)
        begun.wait(PATIENCE)
        threading.Event().wait(0.2)
        took = time.monotonic() - started
        self.shared.stop()

        self.assertLess(sum(worked), 0.4 * took)
        self.assertIsNone(self.shared._thread)

    def test_one_process_counts_for_all_and_another_takes_over_when_it_is_killed(self) -> None:
        with self.workers(3) as workers:
            counters = {worker.ask() for worker in workers for _ in range(5)} - {None}
            self.assertEqual(1, len(counters))

            (counter,) = counters
            others = [worker for worker in workers if worker.pid != counter]
            for worker in set(workers).difference(others):
                worker.kill()
            deadline = time.monotonic() + PATIENCE
            while {worker.ask() for worker in others} == {counter}:
                self.assertLess(time.monotonic(), deadline)
            now = {worker.ask() for worker in others for _ in range(5)}

            self.assertEqual(1, len(now))
            self.assertIn(now.pop(), [worker.pid for worker in others])

    @contextlib.contextmanager
    def workers(self, number: int) -> Iterator[list[Worker]]:
        workers: list[Worker] = []
        try:
            for _ in range(number):
                workers.append(Worker(self.shared))
            yield workers
        finally:
            for worker in workers:
                worker.kill()


class Worker:
    """A process that answers, when it is asked, with the id of the process that counted last."""

    def __init__(self, shared: SharedCount) -> None:
        question, self._asked = os.pipe()
        self._answered, answer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(question)
            os.close(answer)
            return
        try:
            while os.read(question, 1):
                counted = shared.latest(lambda _: os.getpid())
                os.write(answer, json.dumps(counted and counted.value).encode() + b"\n")
        finally:
            os._exit(0)

    def ask(self) -> int | None:
        os.write(self._asked, b"?")
        answer: int | None = json.loads(os.read(self._answered, 100))
        return answer

    def kill(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            for descriptor in (self._asked, self._answered):
                os.close(descriptor)
            self.pid = 0
