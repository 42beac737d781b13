"""The process of one unit: runs its tests, and reports each event as a line of JSON on a pipe.

It is forked from a process that has loaded all tests and has one thread. It has a session, a temporary directory and
an output file of its own.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import sys
import tempfile
import traceback
import unittest
import warnings
from pathlib import Path
from typing import Any, NoReturn

from tests.runner.marks import is_long
from tests.runner.programs import may_start_programs
from tests.runner.real_time import LIMIT, Stopwatch, is_listed, sleeps
from tests.runner.units import Unit
from tests.runner.zygote import FORK_EVENT, Zygote

# Audit events of a program's start.
_STARTS = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system", FORK_EVENT)

# New objects at which the collector runs. At Python's own 700, it takes 4 % of the CPU time of `bin/test --fast`.
_COLLECTED = 20_000


class Reporter(unittest.TestResult):
    """Reports on a pipe: a test's start and end, and each problem as it occurs.

    A skipped test is a problem: nothing passes by not being tried.
    """

    def __init__(self, channel: int) -> None:
        super().__init__()
        self._channel = channel
        self._stopwatch = Stopwatch()

    def send(self, event: str, **values: Any) -> None:
        line = json.dumps({"event": event, **values}).encode() + b"\n"
        while line:
            line = line[os.write(self._channel, line) :]

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        sleeps.begin(test)
        self._stopwatch = Stopwatch()
        self.send("start", test=test.id())

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        own = self._stopwatch.own()
        if own > LIMIT and not is_long(test) and not is_listed(test.id()):
            self.send("slow", test=test.id(), seconds=own)
        self.send("end", test=test.id(), seconds=self._stopwatch.passed())

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._send_problem(test, "FAIL", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._send_problem(test, "ERROR", self.errors[-1][1])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            text = (self.failures if failed else self.errors)[-1][1]
            self._send_problem(subtest, "FAIL" if failed else "ERROR", text)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._send_problem(test, "SKIPPED", reason)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self._send_problem(test, "UNEXPECTED SUCCESS", "")

    def _send_problem(self, test: Any, kind: str, text: str) -> None:
        # A test with several subtests that fail counts once.
        self.send("problem", test=getattr(test, "test_case", test).id(), name=test.id(), kind=kind, text=text)


def run_unit(unit: Unit, channel: int, directory: Path, *, refuse_programs: bool) -> NoReturn:
    """Run the tests of a unit, in a process that was forked for it, and end that."""
    status = 1
    try:
        _separate(directory)
        if refuse_programs:
            sys.addaudithook(_refuse_programs)
        elif any(may_start_programs(test) for test in unit.tests):
            Zygote.start()
        # The judge of each test collects what that has left, so the collector seldom needs to run by itself.
        gc.set_threshold(_COLLECTED)
        result = Reporter(channel)
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("default")
            unittest.TestSuite(unit.tests).run(result)
        result.send("done")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # Neither the threads that a test has left nor what the parent registered with atexit hold up the end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _separate(directory: Path) -> None:
    """Take a session, so that the parent can end all processes of the unit, and files of its own."""
    os.setsid()
    empty = os.open(os.devnull, os.O_RDONLY)
    output = os.open(directory / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(empty)
    os.close(output)
    os.environ["TMPDIR"] = str(directory)
    tempfile.tempdir = None
    # The parent's handler is not the tests'.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # SIGABRT prints the stacks of all threads.
    faulthandler.enable()


def _refuse_programs(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _STARTS:
        raise AssertionError(f"{event} {arguments[0]!r} under --fast: tests.runner.programs overlooked this test")
