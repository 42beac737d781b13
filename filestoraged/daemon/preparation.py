"""Prepares a configuration on a thread of its own, which ends before any fork, while signals are acted upon.

It may wait for a resolver, a memcached server or a locked database. None of these waits can be interrupted from within
their thread, since they go on in C after a signal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def run_attended(work: Callable[[], _Result], attend: Callable[[Callable[[float], bool]], object]) -> _Result:
    """Return what `work` returns, or raise what it raises.

    `attend` is called with a function that waits for so many seconds and returns whether the work is done. It returns
    once that is so. When it raises instead, the work is left to itself, on a thread that ends with the process.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="preparation", daemon=True)
    thread.start()

    def is_done(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    attend(is_done)
    return future.result()
