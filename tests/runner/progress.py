"""What a run prints on standard error: how far it is, each problem as it occurs, and all problems again at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from typing import NamedTuple, TextIO

from tests.runner.real_time import LIMIT

# Seconds between two lines of progress where the output is not a terminal.
_INTERVAL = 10.0


class Problem(NamedTuple):
    """Why a test counts as failed. `name` is the test's, with its subtest's parameters."""

    test: str
    name: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{'=' * 70}\n{self.kind}: {self.name}\n{'-' * 70}\n{self.text.rstrip()}\n"


class Progress:
    """Counts a run's tests, and prints to `stream`: one line that is rewritten on a terminal, else one now and then."""

    def __init__(
        self, total: int, stream: TextIO = sys.stderr, *, verbose: bool = False, refuse_slow: bool = False
    ) -> None:
        self._refuse_slow = refuse_slow
        self.total = total
        self.durations: dict[str, float] = {}
        self.problems: list[Problem] = []
        self._stream = stream
        self.verbose = verbose
        self._terminal = stream.isatty()
        self._started = time.monotonic()
        self._printed = self._started

    @property
    def failed(self) -> int:
        """The number of failed tests and fixtures; one with several problems counts once."""
        return len(self._failed_names())

    @property
    def passed(self) -> int:
        return len(self.durations.keys() - self._failed_names())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def end_test(self, test: str, seconds: float) -> None:
        self.durations[test] = seconds
        if self.verbose:
            self.print(f"{'FAILED' if test in self._failed_names() else 'ok'} {test} ({seconds:.2f} s)")

    def add_problem(self, problem: Problem) -> None:
        self.problems.append(problem)
        self.print(str(problem))

    def add_slow(self, test: str, seconds: float) -> None:
        """A test took longer than it may."""
        text = f"took {seconds:.1f} s; a test that takes more than {LIMIT:g} s is listed in tests/slow.txt"
        if self._refuse_slow:
            self.add_problem(Problem(test, test, "SLOW", text))
        else:
            self.print(f"{test} {text}")

    def print(self, text: str) -> None:
        """Print a text in lines of its own."""
        self._stream.write(f"\r\033[K{text}\n" if self._terminal else f"{text}\n")
        self._stream.flush()

    def update(self, running: Collection[str]) -> None:
        """Say how far the run is, and which classes are running."""
        line = f"{len(self.durations)} of {self.total} tests, {self.failed} failed, {self.seconds:.0f} s"
        if self._terminal:
            line = f"{line}: {', '.join(sorted(name.removeprefix('tests.') for name in running))}"
            self._stream.write(f"\r\033[K{line[: os.get_terminal_size(self._stream.fileno()).columns - 1]}")
            self._stream.flush()
        elif time.monotonic() - self._printed >= _INTERVAL:
            self._printed = time.monotonic()
            self.print(line)

    def finish(self, slowest: int, *, shuffle: str | None = None) -> None:
        """Print the slowest tests, then all problems again, the time of the run, and what decided its order."""
        self.print("")
        for test, seconds in sorted(self.durations.items(), key=lambda pair: -pair[1])[:slowest]:
            self.print(f"{seconds:7.2f} s {test}")
        for problem in self.problems:
            self.print(str(problem))
        order = "" if shuffle is None else f", in the order of --shuffle {shuffle}"
        self.print(f"{len(self.durations)} tests in {self.seconds:.1f} s{order}")
        for name in sorted(self._failed_names()):
            self.print(f"failed: {name}")

    def _failed_names(self) -> set[str]:
        return {problem.test for problem in self.problems}
