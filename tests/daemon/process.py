"""The daemon as a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from filestoraged.daemon.cli import main
from filestoraged.daemon.forking import wait_for_ended_threads
from tests.runner.judge import judge

ROOT = Path(__file__).resolve().parent.parent.parent

# Until a daemon listens, or has drained.
PATIENCE = 40.0

# What a test announces that kills workers.
KILLED_WORKER = r"worker \d+ died after [\d.]+ s: SIGKILL$"


class Daemon:
    """A running `python -m filestoraged`. `ports` are those that its log names.

    When it is ended, its log is judged: a test announces the errors that it provokes.
    """

    def __init__(
        self,
        *arguments: str,
        before: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
        program: Sequence[str] = (sys.executable, "-m", "filestoraged"),
        stdout: int | None = None,
    ) -> None:
        """`before` is a command that starts the daemon's, such as `prlimit`."""
        command = [*before, *program, *arguments]
        self._started = judge.mark()
        self._judged = 0
        self.log = tempfile.NamedTemporaryFile("w+b", prefix="filestoraged-log-")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdout=stdout, stderr=self.log, cwd=cwd or ROOT, env={**clean_environment(), **(environment or {})}
        )
        self.ports: list[int] = []

    def wait_until_listening(self) -> Daemon:
        deadline = time.monotonic() + PATIENCE
        pause = threading.Event()
        while time.monotonic() < deadline:
            lines = self.lines()
            if any("listening on" in line for line in lines):
                self.ports = [int(port) for port in re.findall(r"listening on [^ ]+:(\d+) ", "\n".join(lines))]
                return self
            if self.process.poll() is not None:
                break
            pause.wait(0.02)
        self.kill()
        raise AssertionError(f"the daemon does not listen: {self.lines()}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def lines(self) -> list[str]:
        return Path(self.log.name).read_text(errors="replace").splitlines()

    def lines_with(self, text: str, count: int = 1) -> list[str]:
        """The lines that have a text, `count` at least: access lines are written behind the response."""
        deadline = time.monotonic() + PATIENCE
        pause = threading.Event()
        while len(found := [line for line in self.lines() if text in line]) < count and time.monotonic() < deadline:
            pause.wait(0.02)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it, and return its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self.judge_log()
        return status

    def judge_log(self) -> None:
        """Judge what it logged since it was judged last."""
        lines = self.lines()
        judge.judge_log(f"daemon {self.process.pid}", "\n".join(lines[self._judged :]), self._started)
        self._judged = len(lines)

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    @property
    def worker(self) -> int:
        """The process id of the only one."""
        (pid,) = self.workers()
        return pid

    def kill(self) -> None:
        """Kill it and its workers, as a machine that loses its power does. Returns when all have ended."""
        # After it was waited for, its process id may be another's.
        if self.process.poll() is None:
            kill_all([self.process.pid, *self.workers()])
        self.process.wait(PATIENCE)
        self.judge_log()

    def resident(self, key: str = "VmRSS") -> int:
        """Memory of the only worker in bytes: `VmRSS` now, `VmHWM` at its peak."""
        status = Path(f"/proc/{self.worker}/status").read_text()
        (kibibytes,) = re.findall(rf"{key}:\s+(\d+) kB", status)
        return int(kibibytes) * 1024


def kill_all(pids: Sequence[int]) -> None:
    """Kill processes in this order, and wait until the last thread of each has ended: it may hold locks until then."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(pid))
                stack.callback(os.close, descriptors[-1])
        # All are stopped before one is killed: a worker whose master is dead would drain.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for descriptor in descriptors:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        for descriptor in descriptors:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(PATIENCE * 1000):
                raise AssertionError("a killed process does not end")


@contextlib.contextmanager
def running(*arguments: str, **settings: object) -> Iterator[Daemon]:
    """A daemon on a free port for the length of a block."""
    daemon = Daemon("--listen", "127.0.0.1:0", *arguments, **settings)  # type: ignore[arg-type]
    try:
        yield daemon.wait_until_listening()
    finally:
        daemon.kill()
        daemon.log.close()


@contextlib.contextmanager
def traced(daemon: Daemon, *arguments: str) -> Iterator[None]:
    """Trace all threads of a daemon's only worker by strace, with these arguments, for the length of the block."""
    with traced_processes([daemon.worker], *arguments):
        yield


@contextlib.contextmanager
def traced_processes(pids: Sequence[int], *arguments: str) -> Iterator[None]:
    """Trace all threads of processes in the same way."""
    tracer = subprocess.Popen(["strace", "-f", "-qq", *arguments, *(f"-p{pid}" for pid in pids)])
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    try:
        while any("TracerPid:\t0" in (task / "status").read_text() for task in _tasks(pids)):
            if time.monotonic() > deadline:
                raise AssertionError("strace does not trace the worker")
            pause.wait(0.01)
        yield
    finally:
        tracer.terminate()
        tracer.wait(PATIENCE)


def _tasks(pids: Sequence[int]) -> list[Path]:
    return [task for pid in pids for task in Path("/proc", str(pid), "task").iterdir()]


def fork_command(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """Run a command that ends by itself in a fork of this process; return its exit status, output and errors.

    A fork takes 10 ms of CPU time; an interpreter that imports the package takes 250 ms.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        wait_for_ended_threads()
        started = judge.mark()
        child = os.fork()
        if not child:
            _run_in_fork(arguments, cwd, output.fileno(), errors.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        errors.seek(0)
        logged = errors.read()
        judge.judge_log(f"filestoraged {arguments[0]}", logged, started)
        return status, output.read(), logged


def _run_in_fork(arguments: Sequence[str], cwd: Path, output: int, errors: int) -> NoReturn:
    status = 70
    try:
        # A daemon that starts where it should have refused to is ended.
        signal.alarm(int(PATIENCE))
        # As in an interpreter without options; the tests' own shows them.
        warnings.simplefilter("ignore")
        os.chdir(cwd)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        for name in os.environ.keys() - clean_environment().keys():
            del os.environ[name]
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def clean_environment() -> dict[str, str]:
    """The environment, without what a service manager or an earlier test has put there."""
    ours = ("STATE_DIRECTORY", "NOTIFY_SOCKET", "JOURNAL_STREAM")
    return {**{name: value for name, value in os.environ.items() if name not in ours}, "PYTHONPATH": str(ROOT)}


def state(pid: int) -> str:
    """Return the state of a process, such as T for stopped and Z for ended (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def has_pending(pid: int, number: int) -> bool:
    """Whether a signal to a process waits to be received."""
    (pending,) = re.findall(r"ShdPnd:\s+(\w+)", Path(f"/proc/{pid}/status").read_text())
    return bool(int(pending, 16) & 1 << number - 1)
