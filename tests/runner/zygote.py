"""Forks daemons and commands from a process that has the program imported, and one thread.

An interpreter that imports the program takes 250 ms of CPU time, a fork 10. A process with threads must not fork: what
another thread locks stays locked in the child. So the runner forks a zygote for each unit that may start programs,
before its first test. Nothing that tests do in their own process (patches, sockets, log handlers) reaches its children.
They are of the unit's session, with which the runner ends them.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from filestoraged.cli.main import COMMANDS

Main = Callable[[Sequence[str]], int]

# What audit hooks are told: the process stands for a program.
FORK_EVENT = "tests.zygote.fork"

# A request has arguments and an environment.
_MAX_REQUEST = 1 << 20
_MAX_DESCRIPTORS = 1 << 16


class ForkedProcess:
    """A process that runs a main function, with those methods of `subprocess.Popen` that tests call."""

    def __init__(self, arguments: Sequence[str], pid: int, pidfd: int, status: int) -> None:
        """From `status`, the exit status is read: the zygote writes it before it reaps the process."""
        self.args = ["filestoraged", *arguments]
        self.pid = pid
        self.returncode: int | None = None
        # It stays the process's, where the process id may become another's.
        self._pidfd = pidfd
        self._status = status

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(os.read(self._status, 20))
            os.close(self._status)
            os.close(self._pidfd)
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Zygote:
    """A child of this process. `started` is the one of a unit that may start programs."""

    started: ClassVar[Zygote | None] = None

    def __init__(self) -> None:
        self._control, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Threads of a test may ask at the same time.
        self._lock = threading.Lock()
        sys.stdout.flush()
        sys.stderr.flush()
        if not os.fork():
            self._control.close()
            _serve(control)
        control.close()

    @classmethod
    def start(cls) -> Zygote:
        """Return the zygote of this process; fork it first, if this is the first call, while there is one thread."""
        cls.started = cls.started or cls()
        return cls.started

    def fork(
        self,
        main: Main,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        stderr: int,
        stdout: int = 1,
    ) -> ForkedProcess:
        """Start a process. `main` is a function of a module."""
        sys.audit(FORK_EVENT, arguments)
        reader, status = os.pipe()
        request = pickle.dumps((main, list(arguments), str(cwd), dict(environment)))
        with self._lock:
            socket.send_fds(self._control, [request], [stdout, stderr, status])
            os.close(status)
            answer, (pidfd,), _, _ = socket.recv_fds(self._control, 20, 1)
        return ForkedProcess(arguments, int(answer), pidfd, reader)


def _serve(control: socket.socket) -> NoReturn:
    """Fork what is asked for, until the process that asks has ended."""
    try:
        _forget_tests()
        children: dict[int, tuple[int, int]] = {}
        poll = select.poll()
        poll.register(control, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor in children:
                    poll.unregister(descriptor)
                    _report_end(descriptor, *children.pop(descriptor))
                    continue
                request, descriptors, _, _ = socket.recv_fds(control, _MAX_REQUEST, 3)
                if not request:
                    os._exit(0)
                stdout, stderr, status = descriptors
                pid = os.fork()
                if not pid:
                    _run(request, stdout, stderr)
                os.close(stdout)
                os.close(stderr)
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid, status
                poll.register(pidfd, select.POLLIN)
                socket.send_fds(control, [b"%d" % pid], [pidfd])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _forget_tests() -> None:
    """Undo what the runner has changed in its process, and import what a daemon and the commands do."""
    logging.getLogger("filestoraged").handlers.clear()
    threading.excepthook = threading.__excepthook__
    sys.unraisablehook = sys.__unraisablehook__
    # As in an interpreter without options; the tests' own shows them.
    warnings.simplefilter("ignore")
    for load in COMMANDS.values():
        load()
    # What a test has lost is not collected in a child, whose descriptors have other numbers.
    gc.freeze()


def _report_end(pidfd: int, pid: int, status: int) -> None:
    ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    os.write(status, b"%d" % (ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
    os.close(status)
    # From now on the process id may be another's.
    os.waitpid(pid, 0)
    os.close(pidfd)


def _run(request: bytes, stdout: int, stderr: int) -> NoReturn:
    status = 70
    try:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.closerange(3, _MAX_DESCRIPTORS)
        main, arguments, cwd, environment = pickle.loads(request)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        tempfile.tempdir = None
        status = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
