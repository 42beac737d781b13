"""Run every test, and end with a line that counts them: `python -m tests [-v] [NAME …]`."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import unittest


class Result(unittest.TextTestResult):
    """Counts a test with a subtest that fails once, and a skipped one as failed: no check passes by not being made."""

    def failed(self) -> int:
        tests = {getattr(test, "test_case", test).id() for test, _ in [*self.failures, *self.errors]}
        return len(tests) + len(self.skipped) + len(self.unexpectedSuccesses)


def main(arguments: list[str]) -> int:
    given = _parser().parse_args(arguments)
    suite = unittest.TestSuite(load(name) for name in given.names or ["tests"])
    runner = unittest.TextTestRunner(verbosity=2 if given.verbose else 1, resultclass=Result)
    result = runner.run(suite)
    assert isinstance(result, Result)
    print(f"{max(0, result.testsRun - result.failed())} passed, {result.failed()} failed")  # noqa: T201
    return 0 if result.testsRun and not result.failed() else 1


def load(name: str) -> unittest.TestSuite:
    """The tests of a package with all its modules, of a module, of a class, or the one of that name."""
    loader = unittest.TestLoader()
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        # A class or a test: what stands before the last dot is no package.
        found = None
    if found is None or not found.submodule_search_locations:
        return loader.loadTestsFromName(name)
    return loader.discover(found.submodule_search_locations[0], top_level_dir=".")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/test",
        description="Run the tests. The last line counts them; a skipped test counts as failed.",
        epilog="PYTHON=/path/to/python chooses the interpreter.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print the name of each test")
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="a package (tests.wire), a module (tests.wire.test_head), a class or a test in it; all tests without one",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
