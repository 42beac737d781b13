"""Prints each check as it passes or fails, and counts them: for test programs beside `bin/test`."""

from __future__ import annotations

import time
import unittest
from collections.abc import Sequence
from types import TracebackType

_Fault = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class CheckReport(unittest.TestResult):
    """A line for each check. Of one that fails, also the lines that a subclass has of its time."""

    began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began = time.monotonic()

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self._tell("ok  ", test)

    def addFailure(self, test: unittest.TestCase, err: _Fault) -> None:
        super().addFailure(test, err)
        self._explain(test, self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: _Fault) -> None:
        super().addError(test, err)
        self._explain(test, self.errors[-1][1])

    def failed(self) -> int:
        """A skipped check has failed."""
        return len({test.id() for test, _ in [*self.failures, *self.errors, *self.skipped]})

    def title_of(self, test: unittest.TestCase) -> str:
        """The sentence that the name of a check is."""
        return test.id().split(".")[-1].replace("test_", "", 1).replace("_", " ")

    def evidence(self) -> Sequence[str]:
        """Lines of logs."""
        return ()

    def _tell(self, verdict: str, test: unittest.TestCase) -> None:
        note = getattr(test, "note", "")
        # A class that cannot be set up begins no check.
        seconds = f"{time.monotonic() - self.began:.1f} s" if self.began else "not begun"
        print(f"{verdict} {self.title_of(test)}{': ' + note if note else ''} ({seconds})", flush=True)  # noqa: T201

    def _explain(self, test: unittest.TestCase, trace: str) -> None:
        self._tell("FAIL", test)
        lines = [*trace.rstrip().splitlines(), *self.evidence()]
        print("\n".join(f"     | {line}" for line in lines), flush=True)  # noqa: T201
