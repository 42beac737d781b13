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
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar

log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

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

# Seconds. setitimer takes less than a microsecond for 0, which is no timer.
_MIN_TIMER = 0.001

# Seconds until the master notices a signal to stop while it waits for something else.
_STOP_INTERVAL = 0.05


class WorkerGroup(Protocol):
    """The workers of one configuration, `count` of them."""

    count: int

    def work(self, number: int, slot: int, on_serving: Callable[[], None]) -> int:
        """Run in a worker's process, until it has drained. Returns the exit status. No other worker has its slot."""


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
        """Return the process ids of workers to kill, of all that have been forked to serve."""

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
        reader, writer = os.pipe()
        for number in range(self._group.count):
            self._fork(number, lambda: os.close(writer))
        os.close(writer)
        try:
            # Each worker has a copy of the writer and closes it once it serves: the pipe ends with the last one.
            self.wait_for(_readable(reader))
        finally:
            os.close(reader)

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

        Where the first one does not serve, the former group stays. Raises StopRequested.
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
        return True

    def drain(self, timeout: float) -> bool:
        """Drain all workers. Returns whether they did within `timeout` seconds; those that did not are killed.

        A second signal to stop kills the workers, and this process.
        """
        deadline = time.monotonic() + timeout
        for pid in list(self._serving):
            self._dismiss(pid)
        while self._draining:
            received = _wait_for_signal(deadline - time.monotonic())
            if received is None or received in STOP_SIGNALS:
                for pid in self._draining:
                    os.kill(pid, signal.SIGKILL)
                if received is None:
                    return False
                _die_of(received)
            self._reap()
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

    def _fork(self, number: int, on_serving: Callable[[], None]) -> int | None:
        """Fork a worker. Returns its process id, or None where the system allows for no more processes."""
        slot = min(
            set(range(self._slots)) - {each.slot for each in (*self._serving.values(), *self._draining.values())}
        )
        self._last_fork = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            log.error("cannot start a worker: %s", error.strerror)
            return None
        if pid:
            self._serving[pid] = WorkerProcess(number, slot, self._last_fork)
            return pid
        status = 1
        try:
            os.close(self._master)
            threading.Thread(target=self._await_death_of_master, name="master", daemon=True).start()
            status = self._group.work(number, slot, on_serving)
        except Exception:
            log.exception("a worker failed")
        finally:
            # Not by `sys.exit`, which would run the cleanup of the master.
            os._exit(status)

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
            self._fork(number, lambda: None)

    def _fork_and_wait(self, number: int) -> bool:
        """Fork a worker. Returns whether it serves; one that does not is killed. Raises StopRequested."""
        reader, writer = os.pipe()
        pid = self._fork(number, lambda: _write_once(writer))
        os.close(writer)
        serves = False
        try:
            # A worker that dies closes its end without a byte.
            serves = self.wait_for(_readable(reader), _START_TIMEOUT) and bool(os.read(reader, 1))
            if pid is not None and not serves:
                log.error("worker %d did not begin to serve; killing it", pid)
        finally:
            os.close(reader)
            if pid is not None and not serves:
                # It has no requests to finish.
                self._dismiss(pid, signal.SIGKILL)
        return serves

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
            if status:
                log.error("worker %d died after %.1f s: %s", pid, time.monotonic() - dead.started, _cause(status))
            self._monitor.release(dead.slot)


def run_attended(work: Callable[[], _Result], attend: Callable[[Callable[[float], bool]], object]) -> _Result:
    """Run `work` on a thread that ends before any fork, while this thread acts on signals. Returns its result.

    The work may wait for a resolver, a memcached server or a locked database, and these waits cannot be interrupted.
    `attend` is called with a function that waits for so many seconds and returns whether the work is done. It returns
    once that is so. When it raises instead, the thread goes on by itself and ends with the process.
    """
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="preparation", daemon=True)
    thread.start()

    def is_done(seconds: float) -> bool:
        thread.join(seconds)
        return not thread.is_alive()

    attend(is_done)
    return future.result()


def attend_alone(is_done: Callable[[float], bool]) -> None:
    """For `run_attended` before there are workers. Raises StopRequested."""
    while not is_done(_STOP_INTERVAL):
        raise_if_stopped()


def raise_if_stopped() -> None:
    """Raises StopRequested where a signal to stop is pending, and leaves it pending."""
    if not signal.sigpending().isdisjoint(STOP_SIGNALS):
        raise StopRequested


def _readable(descriptor: int) -> Callable[[float], bool]:
    """For `wait_for`: whether a descriptor can be read, or is at its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda seconds: bool(poll.poll(seconds * 1000))


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


def _write_once(pipe: int) -> None:
    # A broken pipe means that the master is dead. The worker goes on, and finds that out by itself.
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, b"!")
    os.close(pipe)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit status {os.WEXITSTATUS(status)}"


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
