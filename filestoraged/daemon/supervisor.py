"""The master: it forks workers, replaces those that die or hang, and drains them at its end. It never serves.

It knows no operating system: `Processes` forks, kills and reaps for it, and has the time and the signals.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from filestoraged.daemon.processes import STOP_SIGNALS, Processes, WorkerGroup

log = logging.getLogger(__name__)

# Seconds between two forks of missing workers. Doubled while the last fork is less than _STEADY seconds ago, so that
# workers that all fail at their start do not keep a core busy: a start takes 0.1 s of CPU time.
_FIRST_FORK_PAUSE = 0.1
_MAX_FORK_PAUSE = 3.0
_STEADY = 10.0

# Seconds in which the first worker of a new configuration must serve, or the reload is given up.
_START_TIMEOUT = 20.0

# Seconds in which the workers of a former configuration must stop accepting before a reload is reported as complete.
_STOP_ACCEPTING_TIMEOUT = 5.0

# Seconds until the master notices a signal to stop while it waits for something else.
_STOP_INTERVAL = 0.05


class WorkerProcess(NamedTuple):
    # From 0, within its group. A worker that replaces a dead one gets its number.
    number: int
    slot: int
    # Time of the fork, on the monotonic clock.
    started: float


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

    def __init__(
        self, processes: Processes, group: WorkerGroup, slots: int, monitor: Monitor, drain_timeout: float
    ) -> None:
        """At most `slots` workers run at a time. One that was replaced is killed after `drain_timeout` seconds."""
        self._processes = processes
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

    def start(self) -> None:
        """Fork the workers, and return when each of them serves or has died. Raises StopRequested."""
        self._next_check = self._processes.now() + self._monitor.interval
        for number in range(self._group.count):
            self._fork(number)
        for pid in list(self._serving):
            self.wait_for(functools.partial(self._processes.wait_until_serving, pid))

    def run(self) -> signal.Signals:
        """Replace workers that die, until a signal to stop or to reload comes. Returns the signal."""
        # A pending signal comes before any fork.
        received = self._processes.wait_for_signal(0.0)
        while received is None or received == signal.SIGCHLD:
            self._check_workers()
            self._fork_missing()
            next_event = min(self._next_check, self._next_fork, *self._drain_deadlines.values())
            received = self._processes.wait_for_signal(next_event - self._processes.now())
        return received

    def wait_for(self, wait: Callable[[float], bool], timeout: float = math.inf) -> bool:
        """Wait for something else, and check the workers meanwhile; none is forked.

        `wait(seconds)` waits at most so long and returns whether it has happened. Returns False after `timeout`
        seconds. Raises StopRequested on a signal to stop, which stays pending for `run`.
        """
        deadline = self._processes.now() + timeout
        while not wait(_STOP_INTERVAL):
            raise_if_stopped(self._processes)
            self._check_workers()
            if self._processes.now() >= deadline:
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
        deadline = self._processes.now() + timeout
        for pid in list(self._serving):
            self._dismiss(pid)
        while self._draining:
            received = self._processes.wait_for_signal(min(deadline, self._next_check) - self._processes.now())
            is_late = received is None and self._processes.now() >= deadline
            if is_late or received in STOP_SIGNALS:
                for pid in self._draining:
                    self._processes.kill(pid, signal.SIGKILL)
                if received is None:
                    return False
                self._processes.die_of(received)
            self._check_workers()
        return True

    def _check_workers(self) -> None:
        """Take note of dead workers, and kill those that hang or exceed their drain deadline."""
        self._reap()
        now = self._processes.now()
        if now >= self._next_check:
            for pid in self._monitor.hanging(self._serving):
                self._processes.kill(pid, signal.SIGKILL)
            self._next_check = now + self._monitor.interval
        for pid, deadline in list(self._drain_deadlines.items()):
            if now >= deadline:
                log.error("worker %d exceeded its drain deadline (%.0f s); killing it", pid, self._drain_timeout)
                self._processes.kill(pid, signal.SIGKILL)
                del self._drain_deadlines[pid]

    def _fork(self, number: int) -> int | None:
        """Fork a worker. Returns its process id, or None where the system allows for no more processes."""
        slot = min(set(range(self._slots)) - {each.slot for each in self._workers().values()})
        self._last_fork = self._processes.now()
        try:
            pid = self._processes.fork(self._group, number, slot)
        except OSError as error:
            log.error("cannot start a worker: %s", error.strerror)
            return None
        self._serving[pid] = WorkerProcess(number, slot, self._last_fork)
        return pid

    def _fork_missing(self) -> None:
        """Fork all missing workers: at once, unless the last fork was a moment ago."""
        missing = sorted(set(range(self._group.count)) - {each.number for each in self._serving.values()})
        now = self._processes.now()
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
            self.wait_for(functools.partial(self._processes.wait_until_serving, pid), _START_TIMEOUT)
            serves = pid in self._serving and self._processes.serves(pid)
            if not serves:
                log.error("worker %d did not begin to serve; killing it", pid)
        finally:
            if not serves:
                # It has no requests to finish.
                self._dismiss(pid, signal.SIGKILL)
        return serves

    def _wait_until_not_accepting(self, pids: Sequence[int]) -> None:
        """Wait until no worker with the former configuration accepts connections. Raises StopRequested."""
        deadline = self._processes.now() + _STOP_ACCEPTING_TIMEOUT
        for pid in pids:
            wait = functools.partial(self._processes.wait_until_not_accepting, pid)
            if not self.wait_for(wait, max(0.0, deadline - self._processes.now())):
                log.warning("worker %d may still accept connections by the former configuration", pid)

    def _workers(self) -> Mapping[int, WorkerProcess]:
        return {**self._serving, **self._draining}

    def _dismiss(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Send a worker its last signal: it is not replaced. One that is dead already is left alone."""
        if pid in self._serving:
            self._draining[pid] = self._serving.pop(pid)
            self._drain_deadlines[pid] = self._processes.now() + self._drain_timeout
            self._processes.kill(pid, number)

    def _reap(self) -> None:
        """Take note of the workers that are dead."""
        while self._serving or self._draining:
            ended = self._processes.reap()
            if ended is None:
                break
            pid, status = ended
            dead = (self._draining if pid in self._draining else self._serving).pop(pid, None)
            if dead is None:
                # An orphan that the system has made a child of this process.
                continue
            self._drain_deadlines.pop(pid, None)
            if status:
                log.error("worker %d died after %.1f s: %s", pid, self._processes.now() - dead.started, _cause(status))
            self._monitor.release(dead.slot)


def raise_if_stopped(processes: Processes) -> None:
    """Raises StopRequested where a signal to stop is pending, and leaves it pending."""
    if processes.is_stop_pending():
        raise StopRequested


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"
