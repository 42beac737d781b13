"""One process counts for all in the background, and each process returns the last result at once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import unittest
from collections.abc import Callable, Iterator
from typing import Any

from filestoraged.errors import StoreUnavailable
from filestoraged.store.shared_count import Counted, Pause, SharedCount, _pause_after, _Pauses
from tests.clock import StoppedClock, VirtualClock
from tests.support import PATIENCE, wait_until


class SharedCountTest(unittest.TestCase):
    def setUp(self) -> None:
        self.shared = SharedCount()
        self.addCleanup(self.shared.close)

    def latest_until(self, condition: Callable[[Counted | None], bool], count: Callable[[Pause], Any]) -> Any:
        counted: list[Any] = []

        def is_reached() -> bool:
            counted.append(self.shared.latest(count))
            return condition(counted[-1])

        wait_until("it is counted", is_reached)
        return counted[-1]

    def test_short_count_returns_current_numbers(self) -> None:
        numbers = iter(range(1000))
        first = self.latest_until(lambda counted: counted is not None, lambda _: next(numbers))

        def is_later(counted: Counted | None) -> bool:
            return counted is not None and counted.value > first.value

        again = self.latest_until(is_later, lambda _: next(numbers))

        self.assertGreaterEqual(again.age, 0.0)

    def test_long_count_is_not_waited_for_and_returns_none_before_its_end(self) -> None:
        ends = threading.Event()
        self.addCleanup(ends.set)

        def count(_: Pause) -> int:
            ends.wait(PATIENCE)
            return 5

        self.assertEqual([None] * 10, [self.shared.latest(count) for _ in range(10)])
        ends.set()
        counted = self.latest_until(lambda counted: counted is not None, count)

        self.assertEqual(5, counted.value)
        # The age is relative to the start of the count.
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

    def test_failed_count_raises_store_unavailable_until_the_next_succeeds(self) -> None:
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

    def test_count_waits_four_times_as_long_as_it_has_worked(self) -> None:
        clock = StoppedClock()
        pause = _Pauses(threading.Event(), clock)
        # The first slice is too short to wait for.
        for worked in (0.0005, 0.0015, 0.003):
            clock.worked += worked
            pause()

        self.assertEqual([0.008, 0.012], [round(seconds, 6) for seconds in clock.waits])

    def test_next_count_waits_49_times_the_cpu_time_of_a_long_one_and_not_for_a_short_one(self) -> None:
        self.assertEqual([0.0, 196.0], [_pause_after(0.001, 0.001), round(_pause_after(20.0, 4.0))])

    def test_stop_ends_the_pause_after_a_long_count(self) -> None:
        clock = VirtualClock()
        shared = SharedCount(clock)
        self.addCleanup(shared.close)

        def count(_: Pause) -> None:
            # The request waits for the result; else nothing would wake it.
            clock.wait_for_waiting()
            clock.worked += 1.0
            clock.advance(1.0)

        shared.latest(count)
        clock.wait_for_waiting()
        shared.stop()

        self.assertIsNone(shared._thread)

    def test_stop_ends_a_count_at_its_next_pause(self) -> None:
        begun = threading.Event()

        def count(pause: Pause) -> None:
            while True:
                pause()
                begun.set()

        self.shared.latest(count)
        self.assertTrue(begun.wait(PATIENCE))
        self.shared.stop()

        self.assertIsNone(self.shared._thread)

    def test_one_process_counts_for_all_and_another_takes_over_when_it_is_killed(self) -> None:
        with self.workers(3) as workers:
            wait_until("one has counted", lambda: workers[0].ask() is not None)
            counters = {worker.ask() for worker in workers for _ in range(5)}
            self.assertEqual(1, len(counters))

            (counter,) = counters
            others = [worker for worker in workers if worker.pid != counter]
            for worker in set(workers).difference(others):
                worker.kill()
            wait_until("another has counted", lambda: {worker.ask() for worker in others} != {counter})
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
    """A process that answers each request with the id of the process that counted last."""

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
