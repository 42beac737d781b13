"""Judges each test by what it left in the log: what went wrong without the test's announcement fails it.

A record of level ERROR or with a traceback, a thread that ends by an exception, an unraisable exception, and a file or
socket that is left open are problems. So are the ERROR lines and tracebacks in the log of a process.

A test announces what it provokes, by a regular expression that is found in the message. `assertLogs` announces by
itself: it replaces the handler.

`install` surrounds `unittest.TestCase.run`, so every test is judged, by whatever runner: unittest has no other hook
around a test than its class, which each module would have to remember, and its result, which is not the tests'. One
test runs at a time, so the judge is the process's; after a fork, only the process that runs the tests has one.
"""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import threading
import traceback
import unittest
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

_PACKAGE = "filestoraged"

# The beginning of a log line: with a time, or with a priority for the journal.
_BEGIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?P<level>[A-Z]+) |<(?P<priority>[0-7])>")

# Python 3.13 and later warn of databases that are collected open. Tests look into databases by
# `with sqlite3.connect(…)`, which ends a transaction and not the connection; earlier versions do not warn.
_UNJUDGED = "unclosed database"

_CRASHES = ("Traceback (most recent call last)", "Fatal Python error", "Exception ignored in", "ResourceWarning:")


class Judge(logging.Handler):
    """Collects problems from all threads, and fails the test that is running by those that were not announced.

    Handler's lock guards the lists.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._announced: list[re.Pattern[str]] = []
        self._problems: list[str] = []
        # Whether a test runs now, and whether one ran before: a proof or a benchmark is no test.
        self._runs = self._began = False

    def announce(self, pattern: str) -> None:
        """Announce problems in which this is found: of this test, and of processes that started and have not ended."""
        self._announced.append(re.compile(pattern, re.MULTILINE))

    def mark(self) -> int:
        """The point of now, for `not_announced`."""
        return len(self._announced)

    def not_announced(self, problems: Iterable[str], mark: int) -> list[str]:
        """The problems that no announcement since a mark is about."""
        return [
            problem for problem in problems if not any(pattern.search(problem) for pattern in self._announced[mark:])
        ]

    def begin(self, test: unittest.TestCase) -> None:
        self._pid = os.getpid()
        self._runs = self._began = True
        self._problems.clear()
        # The first cleanup is the last to be done.
        test.addCleanup(self._end, test, self.mark(), frozenset(vars(test)))

    def _end(self, test: unittest.TestCase, mark: int, fields: frozenset[str]) -> None:
        # All tests of a run stay in memory. With what each has made, the collector would take a third of their time.
        for name in vars(test).keys() - fields:
            delattr(test, name)
        # What is left open in a cycle is this test's, not that of the test in which the collector finds it.
        gc.collect()
        self._runs = False
        with self.lock:  # type: ignore[union-attr]
            problems, self._problems = self._problems, []
        if rest := self.not_announced(problems, mark):
            test.fail("the test did not announce:\n" + "\n".join(rest))

    def add(self, problem: str) -> None:
        """Add a problem of the test that is running."""
        if os.getpid() == self._pid:
            with self.lock:  # type: ignore[union-attr]
                self._problems.append(problem)

    def judge_log(self, name: str, text: str, mark: int) -> None:
        """Judge the log of a process that started at a mark. A fixture of a class fails at once."""
        problems = [f"{name} logged: {entry}" for entry in self.not_announced(bad_entries(text), mark)]
        if problems and self._began and not self._runs:
            raise AssertionError("\n".join(problems))
        for problem in problems:
            self.add(problem)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.add(_FORMATTER.format(record))

    def end_thread(self, arguments: Any) -> None:
        """Stands for `threading.excepthook`."""
        threading.__excepthook__(arguments)
        if arguments.exc_type is not SystemExit:
            name = arguments.thread.name if arguments.thread else "a thread"
            trace = traceback.format_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
            self.add(f"{name} ended by an exception: {''.join(trace)}")

    def pass_over(self, unraisable: Any) -> None:
        """Stands for `sys.unraisablehook`."""
        sys.__unraisablehook__(unraisable)
        trace = traceback.format_exception(unraisable.exc_type, unraisable.exc_value, unraisable.exc_traceback)
        self.add(f"{unraisable.err_msg or 'Exception ignored in'} {unraisable.object!r}: {''.join(trace)}")


_FORMATTER = logging.Formatter("%(levelname)s %(name)s: %(message)s")

judge = Judge()


# What tests call.
announce = judge.announce


def install() -> None:
    logging.getLogger(_PACKAGE).addHandler(judge)
    threading.excepthook = judge.end_thread
    sys.unraisablehook = judge.pass_over
    run = unittest.TestCase.run

    def run_judged(test: unittest.TestCase, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        judge.begin(test)
        with warnings.catch_warnings():
            _judge_resource_warnings()
            return run(test, result)

    unittest.TestCase.run = run_judged  # type: ignore[assignment, method-assign]


def _judge_resource_warnings() -> None:
    show = warnings.showwarning

    def judge_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, ResourceWarning) and not str(message).startswith(_UNJUDGED):
            judge.add(f"ResourceWarning: {message}")
        show(message, category, *place, **more)

    warnings.simplefilter("always", ResourceWarning)
    warnings.showwarning = judge_warning


def bad_entries(log: str) -> Iterator[str]:
    """Yield the entries of a log that are errors or tracebacks. Lines that begin no entry continue one."""
    entry: list[str] = []
    former = None
    for line in log.splitlines():
        begun = _BEGIN.match(line)
        # A traceback in the journal has a priority on each line.
        if begun and not (begun["priority"] and begun["priority"] == former):
            yield from _if_bad(entry)
            entry = []
        former = begun["priority"] if begun else None
        entry.append(line)
    yield from _if_bad(entry)


def _if_bad(entry: list[str]) -> Iterator[str]:
    begun = _BEGIN.match(entry[0]) if entry else None
    is_error = begun and (begun["level"] in {"ERROR", "CRITICAL"} or (begun["priority"] or "7") <= "3")
    if is_error or any(crash in line for crash in _CRASHES for line in entry):
        yield "\n".join(entry)
