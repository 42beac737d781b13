"""Servers that all tests of a run share: the first test that wants one starts it.

A unit's process ends with its session, so a server belongs to a keeper, a process that the first unit forks. The keeper
stops the server when the runner tells it to, or has died. Outside of a run there is a server for each process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from filestoraged.daemon.processes import wait_for_ended_threads

# Names the directory of the run, and the process of the runner.
_DIRECTORY, _RUNNER = "TESTS_SHARED_DIRECTORY", "TESTS_SHARED_RUNNER"

# Seconds until a keeper has ended.
_PATIENCE = 60.0

# Starts a server. Returns what its users have to know, as JSON can say it, and how to stop it.
Start = Callable[[], tuple[Any, Callable[[], None]]]


def share_servers(directory: Path) -> None:
    """Let the units that are forked from now on share servers."""
    directory.mkdir()
    os.environ[_DIRECTORY], os.environ[_RUNNER] = str(directory), str(os.getpid())


def end_shared(directory: Path) -> None:
    """End the servers of a run."""
    for name in (_DIRECTORY, _RUNNER):
        os.environ.pop(name, None)
    for path in directory.glob("*.keeper"):
        with contextlib.suppress(ProcessLookupError):
            keeper = os.pidfd_open(int(path.read_text()))
            signal.pidfd_send_signal(keeper, signal.SIGTERM)
            _wait([keeper], _PATIENCE)
            os.close(keeper)


def is_shared() -> bool:
    """Whether this process is of a run whose tests share servers."""
    return _DIRECTORY in os.environ


def shared(name: str, start: Start) -> Any:
    """Return what the users of a server have to know; start it if this is the first of the run to ask."""
    directory = Path(os.environ[_DIRECTORY])
    told = directory / f"{name}.json"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if not told.exists():
                _fork_keeper(directory / f"{name}.keeper", told, start)
        finally:
            # The keeper has the file, too.
            fcntl.flock(lock, fcntl.LOCK_UN)
    return json.loads(told.read_text())


def _fork_keeper(keeper: Path, told: Path, start: Start) -> None:
    wait_for_ended_threads()
    ready, reports = os.pipe()
    runner = os.pidfd_open(int(os.environ[_RUNNER]))
    pid = os.fork()
    if not pid:
        os.close(ready)
        _keep(told, start, runner, reports)
    os.close(runner)
    os.close(reports)
    keeper.write_text(str(pid))
    with os.fdopen(ready, "rb") as reader:
        if reader.read(1) != b"1":
            keeper.unlink()
            raise AssertionError(f"{told.stem} does not start: see the output")


def _keep(told: Path, start: Start, runner: int, reports: int) -> NoReturn:
    status = 1
    try:
        # The runner kills the session of the unit, and removes its directory.
        os.setsid()
        os.environ["TMPDIR"] = tempfile.tempdir = str(told.parent)
        stop, stopping = os.pipe()
        os.set_blocking(stopping, False)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(stopping, warn_on_full_buffer=False)
        value, end = start()
        try:
            temporary = told.with_suffix(".new")
            temporary.write_text(json.dumps(value))
            temporary.rename(told)
            os.write(reports, b"1")
            os.close(reports)
            _wait([runner, stop])
            status = 0
        finally:
            end()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(descriptors: list[int], seconds: float | None = None) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(None if seconds is None else seconds * 1000)
