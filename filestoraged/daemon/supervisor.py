"""The master process: it forks workers, replaces those that die or hang, and drains them at its end.

It has no threads when it forks, and never serves. The signals that it waits for are blocked in all threads of all
processes, so that none is lost between a fork and the first wait. A worker drains on SIGTERM: from the master, or from
itself when the pipe of a dead master is closed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, Protocol

from filestoraged.daemon.forking import fork

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP
_SIGNALS = (*STOP_SIGNALS, RELOAD_SIGNAL, signal.SIGCHLD)
# SIGALRM is the timer of `_wait_for_signal`.
BLOCKED_SIGNALS = (*_SIGNALS, signal.SIGALRM)

# Seconds between two forks of missing workers. Doubled while the last fork is less than _STEADY seconds ago, so that
# workers that all fail at their start do not keep a core busy: a start takes 0.1 s of CPU time.
_FIRST_FORK_PAUSE = 0.1
_MAX_FORK_PAUSE = 3.0
_STEADY = 10.0

# Seconds in which the first worker of a new configuration must serve, or the reload is given up.
_START_TIMEOUT = 20.0

# Seconds in which the workers of a former configuration must stop accepting before a reload is reported as complete.
_STOP_ACCEPTING_TIMEOUT = 5.0

# Seconds. setitimer takes less than a microsecond for 0, which is no timer.
_MIN_TIMER = 0.001

# Seconds until the master notices a signal to stop while it waits for something else.
_STOP_INTERVAL = 0.05


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


class WorkerProcess(NamedTuple):
    # From 0, within its group. A worker that replaces a dead one gets its number.
    number: int
    slot: int
    # Time of the fork, on the monotonic clock.
    started: float
    # The reader of its status pipe.
    status: int


class Monitor(Protocol):
    """Finds workers that hang."""

    # Seconds between two calls of `hanging`.
    interval: float

    def hanging(self, workers: Mapping[int, WorkerProcess]) -> Sequence[int]:
        """Return the process ids of workers to kill, of all that have been forked to serve; none during a drain."""

    def release(self, slot: int) -> None:
        """Forget the worker of a slot, which is dead."""


class StopRequested(Exception):
    """SIGTERM or SIGINT came while the master waited for something else. The signal is still pending."""


class Supervisor:
    """The processes of a group of workers, and of former groups that still drain. The master's main thread calls it."""

    def __init__(self, group: WorkerGroup, slots: int, monitor: Monitor, drain_timeout: float) -> None:
        """At most `slots` workers run at a time. One that was replaced is killed after `drain_timeout` seconds."""
        self._group = group
        self._slots = slots
        self._monitor = monitor
        self._drain_timeout = drain_timeout
        # By process ids: workers that are to serve, and those that were told to drain.
        self._serving: dict[int, WorkerProcess] = {}
        self._draining: dict[int, WorkerProcess] = {}
        # When a draining worker is killed.
        self._drain_deadlines: dict[int, float] = {}
        self._next_check = 0.0
        self._fork_pause = _FIRST_FORK_PAUSE
        self._last_fork = -math.inf
        # When missing workers are forked; infinite where none is missing.
        self._next_fork = math.inf
        # Never written to. Workers read from the first end; they see its end when the master is dead.
        self._alive, self._master = os.pipe()

    def start(self) -> None:
        """Fork the workers, and return when each of them serves or has died. Raises StopRequested."""
        self._next_check = time.monotonic() + self._monitor.interval
        for number in range(self._group.count):
            self._fork(number)
        for pid in list(self._serving):
            self.wait_for(self._reports(pid, select.POLLIN))

    def run(self) -> signal.Signals:
        """Replace workers that die, until a signal to stop or to reload comes. Returns the signal."""
        # A pending signal comes before any fork.
        received = _wait_for_signal(0.0)
        while received is None or received == signal.SIGCHLD:
            self._check_workers()
            self._fork_missing()
            next_event = min(self._next_check, self._next_fork, *self._drain_deadlines.values())
            received = _wait_for_signal(next_event - time.monotonic())
        return received

    def wait_for(self, wait: Callable[[float], bool], timeout: float = math.inf) -> bool:
        """Wait for something else, and check the workers meanwhile; none is forked.

        `wait(seconds)` waits at most so long and returns whether it has happened. Returns False after `timeout`
        seconds. Raises StopRequested on a signal to stop, which stays pending for `run`.
        """
        deadline = time.monotonic() + timeout
        while not wait(_STOP_INTERVAL):
            raise_if_stopped()
            self._check_workers()
            if time.monotonic() >= deadline:
                return False
        return True

    def replace(self, group: WorkerGroup) -> bool:
        """Replace the workers by those of another group, one after the other. Returns whether they now serve.

        Returns when the former ones have stopped accepting. Where the first new one does not serve, the former group
        stays. Raises StopRequested.
        """
        self._reap()
        if len(self._serving) + len(self._draining) + group.count > self._slots:
            log.error("cannot replace the workers: %d former ones still drain", len(self._draining))
            return False
        former, former_group = list(self._serving), self._group
        self._group = group
        for number in range(max(group.count, len(former))):
            if number < group.count and not self._fork_and_wait(number) and number == 0:
                self._group = former_group
                return False
            if number < len(former):
                self._dismiss(former[number])
        self._wait_until_not_accepting(former)
        return True

    def drain(self, timeout: float) -> bool:
        """Drain all workers. Returns whether they did within `timeout` seconds; those that did not are killed.

        A second signal to stop kills the workers, and this process.
        """
        deadline = time.monotonic() + timeout
        for pid in list(self._serving):
            self._dismiss(pid)
        while self._draining:
            received = _wait_for_signal(min(deadline, self._next_check) - time.monotonic())
            is_late = received is None and time.monotonic() >= deadline
            if is_late or received in STOP_SIGNALS:
                for pid in self._draining:
                    os.kill(pid, signal.SIGKILL)
                if received is None:
                    return False
                _die_of(received)
            self._check_workers()
        return True

    def _check_workers(self) -> None:
        """Take note of dead workers, and kill those that hang or exceed their drain deadline."""
        self._reap()
        now = time.monotonic()
        if now >= self._next_check:
            for pid in self._monitor.hanging(self._serving):
                os.kill(pid, signal.SIGKILL)
            self._next_check = now + self._monitor.interval
        for pid, deadline in list(self._drain_deadlines.items()):
            if now >= deadline:
                log.error("worker %d exceeded its drain deadline (%.0f s); killing it", pid, self._drain_timeout)
                os.kill(pid, signal.SIGKILL)
                del self._drain_deadlines[pid]

    def _fork(self, number: int) -> int | None:
        """Fork a worker. Returns its process id, or None where the system allows for no more processes."""
        slot = min(set(range(self._slots)) - {each.slot for each in self._processes().values()})
        self._last_fork = time.monotonic()
        try:
            pid, reader, writer = _fork_with_pipe()
        except OSError as error:
            log.error("cannot start a worker: %s", error.strerror)
            return None
        if not pid:
            self._be_worker(number, slot, StatusPipe(writer))
        os.close(writer)
        self._serving[pid] = WorkerProcess(number, slot, self._last_fork, reader)
        return pid

    def _be_worker(self, number: int, slot: int, status: StatusPipe) -> NoReturn:
        exit_status = 1
        try:
            for descriptor in (self._master, *(each.status for each in self._processes().values())):
                os.close(descriptor)
            threading.Thread(target=self._await_death_of_master, name="master", daemon=True).start()
            exit_status = self._group.work(number, slot, status)
        except Exception:
            log.exception("a worker failed")
        finally:
            # Not by `sys.exit`, which would run the cleanup of the master.
            os._exit(exit_status)

    def _fork_missing(self) -> None:
        """Fork all missing workers: at once, unless the last fork was a moment ago."""
        missing = sorted(set(range(self._group.count)) - {each.number for each in self._serving.values()})
        now = time.monotonic()
        if missing and self._next_fork == math.inf:
            is_steady = now - self._last_fork >= _STEADY
            self._fork_pause = _FIRST_FORK_PAUSE if is_steady else min(self._fork_pause * 2, _MAX_FORK_PAUSE)
            self._next_fork = self._last_fork + self._fork_pause
        if now < self._next_fork:
            return
        self._next_fork = math.inf
        for number in missing:
            self._fork(number)

    def _fork_and_wait(self, number: int) -> bool:
        """Fork a worker. Returns whether it serves; one that does not is killed. Raises StopRequested."""
        pid = self._fork(number)
        if pid is None:
            return False
        serves = False
        try:
            self.wait_for(self._reports(pid, select.POLLIN), _START_TIMEOUT)
            serves = pid in self._serving and _has_byte(self._serving[pid].status)
            if not serves:
                log.error("worker %d did not begin to serve; killing it", pid)
        finally:
            if not serves:
                # It has no requests to finish.
                self._dismiss(pid, signal.SIGKILL)
        return serves

    def _wait_until_not_accepting(self, pids: Sequence[int]) -> None:
        """Wait until no worker with the former configuration accepts connections. Raises StopRequested."""
        deadline = time.monotonic() + _STOP_ACCEPTING_TIMEOUT
        for pid in pids:
            # A pipe that is closed is reported whatever is waited for.
            if not self.wait_for(self._reports(pid, 0), max(0.0, deadline - time.monotonic())):
                log.warning("worker %d may still accept connections by the former configuration", pid)

    def _reports(self, pid: int, events: int) -> Callable[[float], bool]:
        """For `wait_for`: whether a status pipe has one of poll's events or is closed, or its worker is dead."""
        poll = select.poll()
        if pid in self._processes():
            poll.register(self._processes()[pid].status, events)
        # The pipe of a dead worker is closed when it is reaped, and must not be polled then.
        return lambda seconds: pid not in self._processes() or bool(poll.poll(seconds * 1000))

    def _processes(self) -> Mapping[int, WorkerProcess]:
        return {**self._serving, **self._draining}

    def _dismiss(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Send a worker its last signal: it is not replaced. One that is dead already is left alone."""
        if pid in self._serving:
            self._draining[pid] = self._serving.pop(pid)
            self._drain_deadlines[pid] = time.monotonic() + self._drain_timeout
            os.kill(pid, number)

    def _await_death_of_master(self) -> None:
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _reap(self) -> None:
        """Take note of the workers that are dead."""
        while self._serving or self._draining:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            dead = (self._draining if pid in self._draining else self._serving).pop(pid, None)
            if dead is None:
                # An orphan that the system has made a child of this process.
                continue
            self._drain_deadlines.pop(pid, None)
            os.close(dead.status)
            if status:
                log.error("worker %d died after %.1f s: %s", pid, time.monotonic() - dead.started, _cause(status))
            self._monitor.release(dead.slot)


def raise_if_stopped() -> None:
    """Raises StopRequested where a signal to stop is pending, and leaves it pending."""
    if not signal.sigpending().isdisjoint(STOP_SIGNALS):
        raise StopRequested


def _fork_with_pipe() -> tuple[int, int, int]:
    """Return what fork returns, and the ends of a pipe that both processes have. Raises OSError."""
    reader, writer = os.pipe()
    try:
        return fork(), reader, writer
    except OSError:
        os.close(reader)
        os.close(writer)
        raise


def _has_byte(pipe: int) -> bool:
    """Whether a pipe has a byte to read; False where it is empty, closed or not."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


def _wait_for_signal(timeout: float) -> signal.Signals | None:
    """Return the next signal, or None where none comes within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = max(timeout, 0.0)
    while left:
        # Not by sigtimedwait: in CPython it returns a signal that was never sent, from uninitialized memory, when this
        # process was stopped and continued and the time is over by then (seen with 3.9 to 3.13).
        signal.setitimer(signal.ITIMER_REAL, 0.0 if left == math.inf else max(left, _MIN_TIMER))
        number = signal.sigwaitinfo(BLOCKED_SIGNALS).si_signo
        # SIGALRM may be left from an earlier timer, or come from another process.
        if number != signal.SIGALRM:
            return signal.Signals(number)
        left = max(deadline - time.monotonic(), 0.0)
    received = signal.sigtimedwait(_SIGNALS, 0)
    return None if received is None else signal.Signals(received.si_signo)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
