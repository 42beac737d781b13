"""Run the checks, a line for each, and end with one that counts them: `python -m tests.systemd [NAME ...]`.

It is for a machine that may be broken, which bin/test-systemd makes.
"""

from __future__ import annotations

import sys
import time
import unittest
from types import ModuleType, TracebackType

from tests.systemd import checking, failing, installing, leaving, serving, sockets
from tests.systemd.machine import Journal

# The first installs the service, the last takes it away; those between find it as it was installed.
_ALL = {
    "installing": installing,
    "serving": serving,
    "failing": failing,
    "sockets": sockets,
    "checking": checking,
    "leaving": leaving,
}
_LINES = 40

_Fault = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Report(unittest.TestResult):
    """Prints each check as it passes or fails, and of one that fails what the journal has of its time."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began = time.monotonic()
        self.journal = Journal()

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.tell("ok  ", test)

    def addFailure(self, test: unittest.TestCase, err: _Fault) -> None:
        super().addFailure(test, err)
        self.explain(test, self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: _Fault) -> None:
        super().addError(test, err)
        self.explain(test, self.errors[-1][1])

    def tell(self, verdict: str, test: unittest.TestCase) -> None:
        sentence = test.id().split(".")[-1].replace("test_", "", 1).replace("_", " ")
        note = getattr(test, "note", "")
        print(f"{verdict} {sentence}{': ' + note if note else ''} ({time.monotonic() - self.began:.1f} s)")

    def explain(self, test: unittest.TestCase, trace: str) -> None:
        self.tell("FAIL", test)
        lines = [*trace.rstrip().splitlines(), "the journal:", *self.journal.texts()[-_LINES:]]
        print("\n".join(f"     | {line}" for line in lines))

    def failed(self) -> int:
        return len({test.id() for test, _ in [*self.failures, *self.errors, *self.skipped]})


def main(names: list[str]) -> int:
    result = Report()
    # Nothing can be checked of what is not installed.
    for name in dict.fromkeys(["installing", *(names or _ALL)]):
        _load(_ALL[name]).run(result)
    print(f"{result.testsRun - result.failed()} passed, {result.failed()} failed")
    return 1 if result.failed() else 0


def _load(module: ModuleType) -> unittest.TestSuite:
    """The checks of a module in the order in which they are written, which may be that of steps."""
    cases = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return unittest.TestSuite(case(name) for case in cases for name in vars(case) if name.startswith("test_"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
