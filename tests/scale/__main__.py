"""Run the checks, a line for each, and end with one that counts them: `python -m tests.scale [NAME ...]`.

bin/test-scale runs this as root, in namespaces of its own for processes and the network.
"""

from __future__ import annotations

import sys
import tempfile
import time
import unittest
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tests.runner.report import CheckReport
from tests.scale import failing, leaving, serving
from tests.scale.service import SERVICE

_ALL = {"serving": serving, "failing": failing, "leaving": leaving}
_LINES = 30


class Report(CheckReport):
    """Shows of a check that fails the end of the daemons' logs."""

    def evidence(self) -> Sequence[str]:
        lines: list[str] = []
        for daemon in SERVICE.daemons:
            lines += [
                f"daemon {daemon.name}:",
                *[line for line in daemon.lines() if " INFO " not in line or " 50" in line][-_LINES:],
            ]
        return lines


def main(names: list[str]) -> int:
    result = Report()
    began = time.monotonic()
    try:
        SERVICE.start(Path(tempfile.mkdtemp()))
        print(f"started the service in {time.monotonic() - began:.1f} s", flush=True)
        for name in names or _ALL:
            _load(name).run(result)
    finally:
        SERVICE.stop()
    print(f"{result.testsRun - result.failed()} passed, {result.failed()} failed")
    return 1 if result.failed() or not result.testsRun else 0


def _load(name: str) -> unittest.TestSuite:
    """The checks of a module, such as `failing`, or of a class in it, such as `failing.DaemonTest`."""
    module, _, rest = name.partition(".")
    loader = unittest.TestLoader()
    return loader.loadTestsFromName(rest, _ALL[module]) if rest else _in_order(_ALL[module])


def _in_order(module: ModuleType) -> unittest.TestSuite:
    cases = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases if issubclass(case, unittest.TestCase)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
