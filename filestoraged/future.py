"""A future: the outcome of one job, given by one thread, and awaited or waited for by another.

It has the methods of `concurrent.futures.Future` that the program needs, and takes a fifth of its CPU time: that class
makes a condition, and acquires its lock in each method. Here the methods rely on operations of lists that are atomic.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

_Result = TypeVar("_Result")
_First = TypeVar("_First")

_Callback = Callable[[Any], object]
_Wake = Callable[[], object]


class Future(Generic[_Result]):
    """One thread sets the result or the error, once. Any thread asks for it. Jobs are not cancelled."""

    __slots__ = ("_callbacks", "_error", "_is_done", "_result")

    def __init__(self) -> None:
        self._is_done = False
        self._result: Any = None
        self._error: BaseException | None = None
        # The thread that removes a callback calls it.
        self._callbacks: list[tuple[_Callback, _Wake]] = []

    def set_result(self, result: _Result) -> None:
        set_results([(self, result)])

    def set_exception(self, error: BaseException) -> None:
        set_results([(self, error)])

    def __await__(self) -> Generator[Future[_Result], Any, _Result]:
        if not self._is_done:
            yield self
        return self.result()

    def done(self) -> bool:
        return self._is_done

    def result(self, timeout: float | None = None) -> _Result:
        """Wait for the result, and return it or raise the error. Raises TimeoutError after `timeout` seconds."""
        if not self._is_done:
            self._wait(timeout)
        if self._error is not None:
            raise self._error
        result: _Result = self._result
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the result. Returns the error, None for none. Raises TimeoutError after `timeout` seconds."""
        if not self._is_done:
            self._wait(timeout)
        return self._error

    def add_done_callback(self, callback: _Callback, wake: _Wake | None = None) -> None:
        """Call `callback` with this future when it is done, or now if it is; then call `wake`. Neither raises.

        If several futures become done at once, see `set_results`, the same `wake` is called once, behind all callbacks.
        """
        self._callbacks.append((callback, wake or _nothing))
        if self._is_done:
            # The other thread may have looked for callbacks before.
            wakes: dict[_Wake, None] = {}
            self._call(wakes)
            for each in wakes:
                each()

    def _call(self, wakes: dict[_Wake, None]) -> None:
        """Call the callbacks that the other thread does not, and add what wakes their threads."""
        while self._callbacks:
            try:
                callback, wake = self._callbacks.pop()
            except IndexError:
                return
            callback(self)
            wakes[wake] = None

    def _wait(self, timeout: float | None) -> None:
        pending = threading.Lock()
        pending.acquire()
        self.add_done_callback(_nothing, pending.release)
        if not pending.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError(f"no result after {timeout:g} s")


def set_results(results: Iterable[tuple[Future[Any], Any]]) -> None:
    """Set the results of several futures, and wake each thread that waits for some of them once.

    An exception is no result, but an error.
    """
    wakes: dict[_Wake, None] = {}
    for future, result in results:
        if isinstance(result, BaseException):
            future._error = result
        else:
            future._result = result
        future._is_done = True
        if future._callbacks:
            future._call(wakes)
    for wake in wakes:
        wake()


def then(first: Future[_First], step: Callable[[_First], Future[_Result]]) -> Future[_Result]:
    """The outcome of two steps, one after the other. Whatever sets the first result calls `step`, which must not wait.

    An error of the first step is that of both.
    """
    both: Future[_Result] = Future()

    def end(second: Future[_Result]) -> None:
        set_results([(both, second.exception() or second.result())])

    def go_on(done: Future[_First]) -> None:
        try:
            second = step(done.result())
        except Exception as error:
            both.set_exception(error)
        else:
            second.add_done_callback(end)

    first.add_done_callback(go_on)
    return both


def recovered(first: Future[_First], recover: Callable[[BaseException], _Result]) -> Future[_First | _Result]:
    """The outcome of `first`; in place of an error, what `recover` returns, or the error that it raises."""
    outcome: Future[_First | _Result] = Future()

    def end(done: Future[_First]) -> None:
        error = done.exception()
        try:
            result: _First | _Result = done.result() if error is None else recover(error)
        except Exception as another:
            outcome.set_exception(another)
        else:
            outcome.set_result(result)

    first.add_done_callback(end)
    return outcome


def _nothing(*_: object) -> None:
    pass
