"""Run every test, and end with a line that counts them: `python -m tests [-v] [NAME …]`."""

from __future__ import annotations

import sys
import unittest
from typing import List


class Result(unittest.TextTestResult):
    """Counts a test with a subtest that fails once, and a skipped one as failed: no check passes by not being made."""

    def failed(self) -> int:
        tests = {getattr(test, "test_case", test).id() for test, _ in [*self.failures, *self.errors]}
        return len(tests) + len(self.skipped) + len(self.unexpectedSuccesses)


def main(arguments: List[str]) -> int:
    verbosity = 2 if "-v" in arguments else 1
    names = [each for each in arguments if each != "-v"]
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(names) if names else loader.discover("tests", top_level_dir=".")
    result = unittest.TextTestRunner(verbosity=verbosity, resultclass=Result).run(suite)
    assert isinstance(result, Result)
    print(f"{max(0, result.testsRun - result.failed())} passed, {result.failed()} failed")  # noqa: T201
    return 0 if result.testsRun and not result.failed() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
