"""What the master asks of the operating system: to fork workers, kill and reap them, their reports, signals, the time.

The signals that the master waits for are blocked in all threads of all processes, so that none is lost between a fork
and the first wait. A worker drains on SIGTERM: from the master, or from itself when the master's death closes a pipe.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import select
import signal
import threading
from typing import NoReturn, Protocol

from filestoraged.clock import SYSTEM_CLOCK, Clock

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP
_SIGNALS = (*STOP_SIGNALS, RELOAD_SIGNAL, signal.SIGCHLD)
# SIGALRM is the timer of `wait_for_signal`.
BLOCKED_SIGNALS = (*_SIGNALS, signal.SIGALRM)

# Seconds. setitimer takes less than a microsecond for 0, which is no timer.
_MIN_TIMER = 0.001

# Of this process, a directory for each thread.
_THREADS = "/proc/self/task"

# Seconds until threads that have ended are waited for no longer. They take microseconds, unless the machine is busy.
_END_TIMEOUT = 5.0
_END_PAUSE = 0.001


class StatusPipe:
    """What a worker tells the master: it writes a byte when it serves, and closes the pipe when it stops accepting.

    The end of its process closes the pipe as well.
    """

    def __init__(self, writer: int) -> None:
        self._writer = writer

    def report_serving(self) -> None:
        # A broken pipe means that the master is dead. The worker continues, and detects that itself.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._writer, b"!")

    def report_not_accepting(self) -> None:
        os.close(self._writer)


class WorkerGroup(Protocol):
    """The workers of one configuration, `count` of them."""

    count: int

    def work(self, number: int, slot: int, status: StatusPipe) -> int:
        """Run in a worker's process, until it has drained. Returns the exit status. No other worker has its slot."""


class Processes(Protocol):
    """The operating system as the master sees it. The master's main thread calls it."""

    def now(self) -> float:
        """Return the seconds of the monotonic clock."""

    def fork(self, group: WorkerGroup, number: int, slot: int) -> int:
        """Fork a worker. Returns its process id. Raises OSError where the system allows for no more processes."""

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a process that has not been reaped."""

    def reap(self) -> tuple[int, int] | None:
        """Return the process id and the status (wait(2)) of a child that has ended; None where none has.

        There is a child.
        """

    def serves(self, pid: int) -> bool:
        """Whether a worker has reported that it serves."""

    def wait_until_serving(self, pid: int, timeout: float) -> bool:
        """Wait until a worker serves. Returns whether it does or never will, as it has ended."""

    def wait_until_not_accepting(self, pid: int, timeout: float) -> bool:
        """Wait until a worker accepts no connections. Returns whether that is so."""

    def wait_for_signal(self, timeout: float) -> signal.Signals | None:
        """Return the next signal to this process, or None where none comes within `timeout` seconds."""

    def is_stop_pending(self) -> bool:
        """Whether a signal to stop is pending. It stays pending."""

    def die_of(self, number: int) -> None:
        """End this process as a signal does."""

    def tracer(self, pid: int) -> int:
        """Return the process id of a debugger, which may have stopped the process; 0 for none."""


class SystemProcesses:
    """The processes of this machine."""

    def __init__(self) -> None:
        # Never written to. Workers read from the first end; they see its end when the master is dead.
        self._alive, self._master = os.pipe()
        # The reader of each worker's status pipe, by its process id.
        self._pipes: dict[int, int] = {}

    def now(self) -> float:
        return SYSTEM_CLOCK.now()

    def fork(self, group: WorkerGroup, number: int, slot: int) -> int:
        reader, writer = os.pipe()
        try:
            pid = fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            raise
        if not pid:
            os.close(reader)
            self._be_worker(group, number, slot, StatusPipe(writer))
        os.close(writer)
        self._pipes[pid] = reader
        return pid

    def kill(self, pid: int, number: int) -> None:
        os.kill(pid, number)

    def reap(self) -> tuple[int, int] | None:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return None
        # An orphan that the system has made a child of this process has none.
        if pid in self._pipes:
            os.close(self._pipes.pop(pid))
        return pid, status

    def serves(self, pid: int) -> bool:
        return bool(self._poll(pid, select.POLLIN, 0) & select.POLLIN)

    def wait_until_serving(self, pid: int, timeout: float) -> bool:
        return pid not in self._pipes or bool(self._poll(pid, select.POLLIN, timeout))

    def wait_until_not_accepting(self, pid: int, timeout: float) -> bool:
        # A pipe that is closed is reported whatever is waited for.
        return pid not in self._pipes or bool(self._poll(pid, 0, timeout))

    def wait_for_signal(self, timeout: float) -> signal.Signals | None:
        deadline = self.now() + timeout
        left = max(timeout, 0.0)
        while left:
            # Not by sigtimedwait: in CPython it returns a signal that was never sent, from uninitialized memory, when
            # this process was stopped and continued and the time is over by then (seen with 3.9 to 3.13).
            signal.setitimer(signal.ITIMER_REAL, 0.0 if left == math.inf else max(left, _MIN_TIMER))
            number = signal.sigwaitinfo(BLOCKED_SIGNALS).si_signo
            # SIGALRM may be left from an earlier timer, or come from another process.
            if number != signal.SIGALRM:
                return signal.Signals(number)
            left = max(deadline - self.now(), 0.0)
        received = signal.sigtimedwait(_SIGNALS, 0)
        return None if received is None else signal.Signals(received.si_signo)

    def is_stop_pending(self) -> bool:
        return not signal.sigpending().isdisjoint(STOP_SIGNALS)

    def die_of(self, number: int) -> None:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        os.kill(os.getpid(), number)

    def tracer(self, pid: int) -> int:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"TracerPid:"):
                    return int(line.split()[1])
        return 0

    def _be_worker(self, group: WorkerGroup, number: int, slot: int, status: StatusPipe) -> NoReturn:
        exit_status = 1
        try:
            for descriptor in (self._master, *self._pipes.values()):
                os.close(descriptor)
            threading.Thread(target=self._await_death_of_master, name="master", daemon=True).start()
            exit_status = group.work(number, slot, status)
        except Exception:
            log.exception("a worker failed")
        finally:
            # Not by `sys.exit`, which would run the cleanup of the master.
            os._exit(exit_status)

    def _await_death_of_master(self) -> None:
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _poll(self, pid: int, events: int, timeout: float) -> int:
        """Return the events of a worker's status pipe: of those asked for, and its end; 0 after `timeout` seconds."""
        poll = select.poll()
        poll.register(self._pipes[pid], events)
        return sum(happened for _, happened in poll.poll(timeout * 1000))


def fork() -> int:
    """Return what `os.fork` returns. Raises OSError.

    The garbage collector of the child never visits the objects that it has of this process. A visit writes to them, and
    so copies the pages that all processes share.
    """
    wait_for_ended_threads()
    gc.freeze()
    pid = -1
    try:
        pid = os.fork()
        return pid
    finally:
        if pid:
            gc.unfreeze()


def wait_for_ended_threads(clock: Clock = SYSTEM_CLOCK, directory: str = _THREADS) -> None:
    """Wait until the kernel has no thread of this process any more that has ended in Python.

    `directory` has an entry for each thread.

    Before Python 3.13, `Thread.join` returns while the thread still releases what C libraries keep for it, under their
    locks. A child that is forked meanwhile has such a lock and no thread to release it: with OpenSSL's, the first hash
    of each new thread would wait for ever.
    """
    deadline = clock.now() + _END_TIMEOUT
    while _count_entries(directory) > threading.active_count() and clock.now() < deadline:
        clock.sleep(_END_PAUSE)


def _count_entries(directory: str) -> int:
    try:
        return len(os.listdir(directory))
    except OSError:
        # /proc is not mounted.
        return 0
