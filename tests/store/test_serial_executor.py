"""The serial executor: calls in order, on a thread that comes and goes, whatever a call raises."""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque

from filestoraged.store.serial_executor import Call, SerialExecutor, start_thread
from tests.support import PATIENCE, TempCase


class Executor(SerialExecutor):
    def __init__(self, *, idle_timeout: float = PATIENCE) -> None:
        self.queue: deque[Call] = deque()
        super().__init__(self.queue, idle_timeout=idle_timeout)
        self.started: list[threading.Thread | None] = []
        self.errors: list[BaseException] = []
        self.failed = threading.Event()

    def submit(self, *calls: Call) -> bool:
        with self.changed:
            if not self.ensure_thread():
                return False
            self.queue.extend(calls)
            self.changed.notify_all()
        return True

    def _start(self, run: Call) -> threading.Thread | None:
        self.started.append(start_thread(run, name="serial"))
        return self.started[-1]

    def _on_error(self, error: BaseException) -> None:
        self.errors.append(error)
        self.failed.set()


def fail() -> None:
    raise IndexError("list index out of range")


class SerialExecutorTest(TempCase):
    def new_executor(self, *, idle_timeout: float = PATIENCE) -> Executor:
        executor = Executor(idle_timeout=idle_timeout)
        self.addCleanup(executor.close)
        return executor

    def test_calls_are_made_in_their_order_on_one_thread(self) -> None:
        executor = self.new_executor()
        made: list[tuple[int, int]] = []

        executor.submit(*(lambda number=number: made.append((number, threading.get_ident())) for number in range(20)))
        executor.close()

        self.assertEqual(list(range(20)), [number for number, _ in made])
        self.assertEqual(1, len({thread for _, thread in made}))

    def test_thread_that_waits_does_not_keep_its_last_call(self) -> None:
        kept: list[bool] = []

        class Observed(Executor):
            def _next(self) -> Call | None:
                kept.append(made() is not None)
                return super()._next()

        executor, goes_on = Observed(), threading.Event()
        call = functools.partial(lambda: None)
        made = weakref.ref(call)
        executor.submit(lambda: self.assertTrue(goes_on.wait(PATIENCE)), call)
        del call
        goes_on.set()
        executor.close()

        # Before each of the two calls, and when the thread waits again.
        self.assertEqual([True, True, False], kept)

    def test_call_that_raises_is_reported_and_the_next_is_made(self) -> None:
        executor = self.new_executor()
        made = threading.Event()

        def leave() -> None:
            raise SystemExit

        executor.submit(fail, leave, made.set)

        self.assertTrue(made.wait(PATIENCE))
        self.assertEqual([IndexError, SystemExit], [type(error) for error in executor.errors])

    def test_call_after_one_that_raised_on_an_idle_thread_is_made(self) -> None:
        executor = self.new_executor()
        made = threading.Event()

        executor.submit(fail)
        self.assertTrue(executor.failed.wait(PATIENCE))
        executor.submit(made.set)

        self.assertTrue(made.wait(PATIENCE))

    def test_thread_ends_when_it_is_idle_and_the_next_call_starts_another(self) -> None:
        executor = self.new_executor(idle_timeout=0.0)
        made = threading.Event()
        executor.submit()
        thread = executor.started[0]
        assert thread is not None
        thread.join(PATIENCE)

        executor.submit(made.set)

        self.assertTrue(made.wait(PATIENCE))
        self.assertFalse(thread.is_alive())
        self.assertEqual(2, len(executor.started))

    def test_close_makes_the_calls_that_are_queued(self) -> None:
        executor = self.new_executor()
        goes_on, made = threading.Event(), threading.Event()
        executor.submit(lambda: self.assertTrue(goes_on.wait(PATIENCE)), made.set)

        goes_on.set()
        executor.close()

        self.assertTrue(made.is_set())
        self.assertEqual([], executor.errors)

    def test_executor_without_a_thread_refuses_and_starts_one_later(self) -> None:
        executor = self.new_executor()
        start, made = executor._start, threading.Event()
        executor._start = lambda run: None  # type: ignore[method-assign]

        self.assertFalse(executor.submit(made.set))
        executor._start = start  # type: ignore[method-assign]

        self.assertTrue(executor.submit(made.set))
        self.assertTrue(made.wait(PATIENCE))
