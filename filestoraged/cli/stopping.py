"""The end of a command before its work is done: by a signal, or because its output is closed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from filestoraged.check.throttle import Throttle
from filestoraged.command_errors import CheckError, StartError

# The exit status of a command that was stopped.
STOPPED = 2


@contextlib.contextmanager
def stopped_by_signals(throttle: Throttle) -> Iterator[None]:
    """The first signal stops the work, whose results are then reported; a second one ends the process."""

    def stop(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        throttle.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_with_output(run: Callable[[], int], what: str = "the findings") -> int:
    """Return the exit status that `run` returns, STOPPED where the reader of its output has closed it.

    Raises CheckError where it cannot start, and where `what` it prints cannot be written: no other OSError leaves it.
    """
    if sys.stdout is None:
        # As `>&-` of a shell does.
        raise CheckError("standard output is closed")
    try:
        return run()
    except StartError as error:
        raise CheckError(str(error)) from error
    except BrokenPipeError:
        _discard_output()
        return STOPPED
    except OSError as error:
        _discard_output()
        raise CheckError(f"cannot write {what}: {error.strerror or error}") from error


def _discard_output() -> None:
    """Keep the interpreter from writing the rest of the output when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
