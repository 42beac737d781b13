"""The daemon as a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from filestoraged.cli import main as cli
from tests.runner.judge import judge
from tests.runner.zygote import ForkedProcess, Main, Zygote
from tests.watch import wait_for_change

ROOT = Path(__file__).resolve().parent.parent.parent

# Until a daemon listens, or has drained.
PATIENCE = 40.0

# The daemon as a user starts it, for tests of its imports or its memory.
COMMAND = (sys.executable, "-m", "filestoraged")

# What a test announces that kills workers.
KILLED_WORKER = r"worker \d+ died after [\d.]+ s: SIGKILL$"


class Daemon:
    """A running daemon, or another command. The test is its service manager, which it tells when it listens.

    When it is ended, its log is judged: a test announces the errors that it provokes.
    """

    def __init__(
        self,
        *arguments: str,
        before: Sequence[str] = (),
        environment: dict[str, str] | None = None,
        cwd: Path = ROOT,
        program: Sequence[str] = (),
        main: Main = cli.main,
    ) -> None:
        """Fork the daemon, or execute `program`. `before` is a command that starts that, such as `prlimit`.

        `main` is a function of a module. Without the tests' runner, the daemon is always executed.
        """
        self._started = judge.mark()
        self._judged = 0
        self.log = tempfile.NamedTemporaryFile("w+b", prefix="filestoraged-log-")  # noqa: SIM115
        self._manager_path = f"{self.log.name}.notify"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(self._manager_path)
        # The daemon may run as another user.
        os.chmod(self._manager_path, 0o777)
        environment = {**clean_environment(), "NOTIFY_SOCKET": self._manager_path, **(environment or {})}
        self.process: ForkedProcess | subprocess.Popen[bytes]
        if program or before or not Zygote.started:
            command = [*before, *(program or (COMMAND if main is cli.main else command_of(main))), *arguments]
            self.process = subprocess.Popen(command, stderr=self.log, cwd=cwd, env=environment)
        else:
            self.process = Zygote.started.fork(
                main, arguments, cwd=cwd, environment=environment, stderr=self.log.fileno()
            )
        # Where it listens, without Unix sockets.
        self.ports: list[int] = []

    def wait_until_listening(self) -> Daemon:
        message = self.next_message()
        if not message.startswith("READY=1\n"):
            self.kill()
            raise AssertionError(f"the daemon does not listen: {self.lines()}")
        self.ports = [int(port) for port in re.findall(r":(\d+)(?:,| with )", message)]
        return self

    def reload(self) -> str:
        """Let it read its configuration again. Returns what it then tells its service manager."""
        self.process.send_signal(signal.SIGHUP)
        reloading = self.next_message()
        assert reloading.startswith("RELOADING=1\n"), reloading
        return self.next_message()

    def next_message(self) -> str:
        """What it tells its service manager next; nothing if it ends before."""
        with contextlib.suppress(ProcessLookupError), _pidfd(self.process.pid) as ended:
            _poll(PATIENCE, self.manager.fileno(), ended)
        return self.manager.recv(4096).decode() if _poll(0, self.manager.fileno()) else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def lines(self) -> list[str]:
        return Path(self.log.name).read_text(errors="replace").splitlines()

    def lines_with(self, text: str, count: int = 1) -> list[str]:
        """The lines that have a text, `count` at least: access lines are written behind the response."""
        found: list[str] = []

        def is_logged() -> bool:
            found[:] = [line for line in self.lines() if text in line]
            return len(found) >= count

        wait_for_change(f"{count} lines with {text!r}", Path(self.log.name), is_logged)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it, and return its exit status."""
        self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._end()
        return status

    def _end(self) -> None:
        self.manager.close()
        Path(self._manager_path).unlink(missing_ok=True)
        self.judge_log()

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
        self._end()

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
                descriptors.append(stack.enter_context(_pidfd(pid)))
        # All are stopped before one is killed: a worker whose master is dead would drain.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for descriptor in descriptors:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        for descriptor in descriptors:
            if not _poll(PATIENCE, descriptor):
                raise AssertionError("a killed process does not end")


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A descriptor that can be read when the process has ended. Raises ProcessLookupError."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _poll(seconds: float, *descriptors: int) -> bool:
    """Wait until one of the descriptors can be read; returns whether that is so."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


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
    """Fork a command that ends by itself; return its exit status, output and errors."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = judge.mark()
        process = Zygote.start().fork(
            cli.main,
            arguments,
            cwd=cwd,
            environment=clean_environment(),
            stdout=output.fileno(),
            stderr=errors.fileno(),
        )
        try:
            status = process.wait(PATIENCE)
        finally:
            # A daemon that starts where it should have refused to is ended.
            process.kill()
        output.seek(0)
        errors.seek(0)
        logged = errors.read()
        judge.judge_log(f"filestoraged {arguments[0]}", logged, started)
        return status, output.read(), logged


def command_of(main: Main) -> Sequence[str]:
    """The command that executes a main function of a module."""
    start = f"import sys; from {main.__module__} import {main.__name__} as main; sys.exit(main())"
    return (sys.executable, "-c", start)


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
