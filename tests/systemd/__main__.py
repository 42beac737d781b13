"""Run the checks, a line for each, and end with one that counts them: `python -m tests.systemd [NAME ...]`.

It is for a machine that may be broken, which bin/test-systemd makes.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Sequence
from types import ModuleType

from tests.runner.report import CheckReport
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


class Report(CheckReport):
    """Shows of a check that fails what the journal has of its time."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.journal = Journal()

    def evidence(self) -> Sequence[str]:
        return ["the journal:", *self.journal.texts()[-_LINES:]]


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
