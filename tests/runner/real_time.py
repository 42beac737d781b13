"""Keeps real time out of tests: refuses sleeps in them, and judges how long each takes.

A test that sleeps is either too slow or fails by chance. The interpreters that we support tell an audit hook of a sleep
only from 3.13 on, so `time.sleep` is replaced, for callers in tests: the daemon's code that runs in this process sleeps
where it has to, and so do libraries. A test that cannot do without real time is of the long tier.

A test may take 2 s of an idle machine's time unless `tests/slow.txt` lists it. What it took is the time that passed,
less the time in which some process of the machine waited for a core or a disk (Linux's pressure stall information), and
less what the hypervisor took, divided by how much slower than an idle machine this one runs Python. Without pressure
information it is the CPU time of the test's processes. So a busy or slow machine makes no test slow, and a full one
hides some. A machine that stops processes might, so a run only names slow tests, and fails by them where it is told to.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import unittest
from pathlib import Path
from typing import SupportsIndex

from tests.runner.marks import is_long

# Seconds.
LIMIT = 2.0

LIST = Path(__file__).resolve().parent.parent / "slow.txt"

_STALLS = ("/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory")
_TICKS = os.sysconf("SC_CLK_TCK")

# Seconds of CPU time that an idle core of the machine on which the limit was chosen takes for `_pace`'s loop.
_REFERENCE = 0.002
_LOOPS = 200_000


class RefusedSleepError(AssertionError):
    """A test sleeps."""


class SleepRefusal:
    """Stands for `time.sleep` in a process that runs tests."""

    def __init__(self) -> None:
        self._sleep = time.sleep
        self._allowed = False

    def install(self) -> None:
        time.sleep = self.refuse

    def begin(self, test: unittest.TestCase) -> None:
        self._allowed = is_long(test)

    def refuse(self, seconds: SupportsIndex | float, /) -> None:
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not self._allowed and caller.startswith(("tests.", "test_")):
            raise RefusedSleepError(f"{caller} sleeps for {seconds} s: wait for an event, or hand a clock in")
        self._sleep(seconds)


# Installed before the tests are loaded, which may import the function.
sleeps = SleepRefusal()


class Stopwatch:
    """Measures seconds of an idle machine: at most so many, where others compete for this one."""

    def __init__(self) -> None:
        self._started, self._stalled, self._worked = time.monotonic(), _stalled_seconds(), _cpu_seconds()

    def passed(self) -> float:
        return time.monotonic() - self._started

    def own(self) -> float:
        own = self.passed() - (_stalled_seconds() - self._stalled)
        if not Path(_STALLS[0]).exists():
            own = _cpu_seconds() - self._worked
        # The pace takes time to measure, so only of tests that are too slow without it.
        return own / _pace() if own > LIMIT else own


def is_listed(test: str) -> bool:
    """Whether a test, its class, its module or a package of it is in the list of slow ones."""
    parts = test.split(".")
    return not _listed().isdisjoint(".".join(parts[: end + 1]) for end in range(len(parts)))


def _listed() -> set[str]:
    lines = LIST.read_text().splitlines()
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def _cpu_seconds() -> float:
    """The CPU time of this process, and of its children that have ended."""
    return sum(os.times()[:4])


def _pace() -> float:
    """How many times as long as on the idle machine of the reference a loop takes a core now; 1 at least."""

    def measure() -> float:
        began = time.thread_time()
        for _ in range(_LOOPS):
            pass
        return time.thread_time() - began

    return max(1.0, min(measure() for _ in range(5)) / _REFERENCE)


def _stalled_seconds() -> float:
    """How long, since the machine started, some process waited for a core, a disk or memory, or the machine itself."""
    total = 0.0
    # A kernel may lack each.
    for path in _STALLS:
        with contextlib.suppress(OSError):
            some = Path(path).read_text().splitlines()[0]
            total += int(some.rpartition("total=")[2]) / 1e6
    with contextlib.suppress(OSError):
        fields = Path("/proc/stat").read_text().splitlines()[0].split()
        total += int(fields[8]) / _TICKS
    return total
