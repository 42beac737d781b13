"""Runs units in processes, several at a time, those that run alone last.

One thread forks the processes, reads what they report, and ends one whose test dies or exceeds its time limit: that
test has failed, and a new process runs the rest of its unit.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.runner.marks import is_on_disk
from tests.runner.process import run_unit
from tests.runner.progress import Problem, Progress
from tests.runner.shared import end_shared, share_servers
from tests.runner.units import Unit

# Seconds from SIGABRT, which prints the stacks, to SIGKILL.
_GRACE = 5.0
# Seconds between two lines of progress on a terminal.
_REFRESH = 0.25
# Characters of a process's output that are printed at most.
_MAX_OUTPUT = 20_000
# A file system in memory, and the bytes that must be free there.
_MEMORY = "/dev/shm"
_NEEDED_MEMORY = 1 << 30


class _Running:
    """A process that runs a unit."""

    def __init__(self, unit: Unit, directory: Path, *, refuse_programs: bool) -> None:
        self.unit = unit
        self.directory = directory
        self.finished: set[str] = set()
        self.test = ""
        self.failed = False
        self.done = False
        self.last_event = time.monotonic()
        self.aborted = 0.0
        self._received = b""
        self.channel, channel = os.pipe()
        os.set_blocking(self.channel, False)
        self.pid = os.fork()
        if not self.pid:
            os.close(self.channel)
            run_unit(unit, channel, directory, refuse_programs=refuse_programs)
        os.close(channel)
        # A process that a test has lost may keep the pipe open: the end of the process counts.
        self.ended = os.pidfd_open(self.pid)

    def read_events(self) -> list[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.channel, 65536):
                self._received += data
        *lines, self._received = self._received.split(b"\n")
        if lines:
            self.last_event = time.monotonic()
        return [json.loads(line) for line in lines]

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def reap(self) -> int:
        """End all processes of the unit, and return its exit status: negative for a signal."""
        # Before the wait: until then the process id is not used again.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.signal(signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.channel)
        os.close(self.ended)
        return os.waitstatus_to_exitcode(status)

    def output(self) -> str:
        try:
            return (self.directory / "output").read_text(errors="replace")[-_MAX_OUTPUT:]
        except FileNotFoundError:
            return ""


class Scheduler:
    """Runs units in at most `jobs` processes, each test for at most `limit` seconds."""

    def __init__(self, progress: Progress, *, jobs: int, limit: float, refuse_programs: bool = False) -> None:
        self._progress = progress
        self._jobs = jobs
        self._limit = limit
        self._refuse_programs = refuse_programs
        self._running: dict[int, _Running] = {}
        self._waiting: deque[Unit] = deque()
        self._selector = selectors.DefaultSelector()
        self._directory = Path(tempfile.mkdtemp(prefix="tests-"))
        self._directory.chmod(0o711)
        # Where the tests of this process alone write: nothing waits for a disk there, and a sync costs nothing.
        self._memory = _directory_in_memory() if refuse_programs else None
        self._started = 0

    def run(self, units: Sequence[Unit]) -> None:
        """Run all units; whatever ends the run also ends their processes."""
        # The collector would write to, and so copy, the pages that the processes share.
        gc.collect()
        gc.freeze()
        share_servers(self._directory / "shared")
        try:
            self._run_at_most(self._jobs, [unit for unit in units if not unit.runs_alone])
            self._run_at_most(1, [unit for unit in units if unit.runs_alone])
        finally:
            for running in self._running.values():
                running.reap()
            end_shared(self._directory / "shared")
            for directory in filter(None, (self._directory, self._memory)):
                shutil.rmtree(directory, ignore_errors=True)

    def _run_at_most(self, jobs: int, units: Sequence[Unit]) -> None:
        self._waiting.extend(units)
        while self._waiting or self._running:
            while self._waiting and len(self._running) < jobs:
                self._start(self._waiting.popleft())
            for key, _ in self._selector.select(_REFRESH):
                self._handle(key.data, ended=key.fd == key.data.ended)
            for running in list(self._running.values()):
                self._enforce_limit(running)
            self._progress.update([running.unit.name for running in self._running.values()])

    def _start(self, unit: Unit) -> None:
        self._started += 1
        needs_disk = any(is_on_disk(test) for test in unit.tests)
        parent = self._directory if needs_disk or self._memory is None else self._memory
        directory = parent / str(self._started)
        directory.mkdir()
        # Daemons that run as another user pass through to what is theirs, as in /tmp.
        directory.chmod(0o711)
        running = _Running(unit, directory, refuse_programs=self._refuse_programs)
        self._running[running.pid] = running
        self._selector.register(running.channel, selectors.EVENT_READ, running)
        self._selector.register(running.ended, selectors.EVENT_READ, running)

    def _handle(self, running: _Running, *, ended: bool) -> None:
        if running.pid not in self._running:
            return
        for event in running.read_events():
            self._record(running, event)
        if ended:
            self._end(running)

    def _record(self, running: _Running, event: dict[str, Any]) -> None:
        match event.pop("event"):
            case "start":
                running.test = event["test"]
            case "end":
                running.test = ""
                running.finished.add(event["test"])
                self._progress.end_test(event["test"], event["seconds"])
            case "slow":
                self._progress.add_slow(**event)
            case "problem":
                running.failed = True
                self._progress.add_problem(Problem(**event))
            case "done":
                running.done = True

    def _end(self, running: _Running) -> None:
        self._selector.unregister(running.channel)
        self._selector.unregister(running.ended)
        del self._running[running.pid]
        status = running.reap()
        if not running.done:
            self._fail_current(running, status)
        elif (running.failed or self._progress.verbose) and (output := running.output()):
            self._progress.print(f"output of {running.unit.name}:\n{output.rstrip()}")
        shutil.rmtree(running.directory, ignore_errors=True)

    def _fail_current(self, running: _Running, status: int) -> None:
        """Fail the test, or the fixture, in which the process ended; put the rest of the unit back."""
        test = running.test or f"fixtures of {running.unit.name}"
        if running.aborted:
            reason = f"exceeded its time limit ({self._limit:g} s)"
        else:
            reason = f"its process ended: {_describe(status)}"
        text = f"{reason}\n{running.output()}"
        self._progress.add_problem(Problem(test, test, "DIED", text))
        if running.test:
            self._progress.end_test(test, time.monotonic() - running.last_event)
            rest = running.unit.after({*running.finished, test})
            if rest.tests:
                self._waiting.append(rest)

    def _enforce_limit(self, running: _Running) -> None:
        now = time.monotonic()
        if running.aborted:
            if now - running.aborted > _GRACE:
                running.signal(signal.SIGKILL)
        elif now - running.last_event > self._limit:
            running.aborted = now
            running.signal(signal.SIGABRT)


def _directory_in_memory() -> Path | None:
    with contextlib.suppress(OSError):
        room = os.statvfs(_MEMORY)
        if room.f_bavail * room.f_frsize >= _NEEDED_MEMORY:
            return Path(tempfile.mkdtemp(prefix="tests-", dir=_MEMORY))
    return None


def _describe(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"{signal.Signals(-status).name}"
