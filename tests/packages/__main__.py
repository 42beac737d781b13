"""Run the checks, a line for each, and end with one that counts them: `python -m tests.packages [NAME ...]`."""

from __future__ import annotations

import sys
import unittest
from importlib import import_module
from pathlib import Path

from tests.runner.report import CheckReport

# Classes whose methods are run in the order in which they are written: those of CASES in the modules beside this one.
_MODULES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
_CASES: tuple[type[unittest.TestCase], ...] = tuple(
    case for name in _MODULES for case in getattr(import_module(f"tests.packages.{name}"), "CASES", ())
)


class Report(CheckReport):
    """Names the class, too: packages share the names of checks."""

    def title_of(self, test: unittest.TestCase) -> str:
        return f"{type(test).__name__}: {super().title_of(test)}"


def main(names: list[str]) -> int:
    known = {each.__name__: each for each in _CASES}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"unknown name {unknown[0]!r}: expected some of {', '.join(known)}", file=sys.stderr)
        return 2
    result = Report()
    for name in names or known:
        suite = unittest.TestSuite(known[name](method) for method in _methods(known[name]))
        suite.run(result)
    # A class that cannot be set up has failed, too, and ran no test.
    failed = result.failed()
    broken = len([test for test, _ in result.errors if not isinstance(test, tuple(_CASES))])
    print(f"{result.testsRun - (failed - broken)} passed, {failed} failed")
    return 1 if failed or not result.testsRun else 0


def _methods(case: type[unittest.TestCase]) -> list[str]:
    """In the order in which they are written, those of base classes first."""
    bases = reversed(case.__mro__)
    return list(dict.fromkeys(name for base in bases for name in vars(base) if name.startswith("test_")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
