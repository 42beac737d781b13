"""The master of the workers: it forks them, replaces those that die, and passes its end on to them.

It has no threads when it forks, and never serves. The signals it waits for stay blocked
in the workers too, so that none is lost between a fork and its first wait. A worker drains on SIGTERM, which only
the master sends, or when the master is gone: it then finds a pipe closed whose other end was the master's.
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

STOP = (signal.SIGTERM, signal.SIGINT)
RELOAD = signal.SIGHUP
_SIGNALS = (*STOP, RELOAD, signal.SIGCHLD)
# Blocked in all threads of all processes. SIGALRM is that of `_wait`.
AWAITED = (*_SIGNALS, signal.SIGALRM)

# Seconds between two forks of missing workers. Doubled while the last fork is less than _STEADY seconds old, so that a
# fault at the start of each worker does not keep a core busy: a start takes 0.1 s of CPU time.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.0
_STEADY = 10.0

# A worker that replaces one of the old configuration serves within so many seconds, or is given up.
_PATIENCE = 20.0

# Seconds. A timer of less than a microsecond would be none.
_SHORTEST_TIMER = 0.001

# Seconds until a signal to stop is noticed while the master waits for something else.
_NOTICE = 0.05


class WorkerGroup(Protocol):
    """Workers of one configuration, as many as its `count`."""

    count: int

    def work(self, number: int, slot: int, on_serving: Callable[[], None]) -> int:
        """Be the worker of that number, with a slot that no other worker has. Returns the exit status when drained."""


class Started(NamedTuple):
    """A worker's process."""

    # From 0 up, within its crew; the one that replaces a worker has its number.
    number: int
    slot: int
    # On the monotonic clock.
    time: float


class Watch(Protocol):
    """Judges by the workers' slots whether they hang."""

    # Seconds between two looks.
    pause: float

    def look(self, workers: Mapping[int, Started]) -> Sequence[int]:
        """Return the process ids of workers that hang and are to be killed. `workers` has all that are to serve."""

    def bury(self, slot: int) -> None:
        """The worker that had the slot is gone."""


class StopRequested(Exception):
    """SIGTERM or SIGINT came while the master waited for something else. The signal is still pending."""


class Supervisor:
    """The processes of a crew, and those of former ones that still drain. All by the main thread of the master."""

    def __init__(self, crew: WorkerGroup, slots: int, watch: Watch, longest_drain: float) -> None:
        """There may be so many workers at a time as there are `slots`.

        One that others have taken over from is killed when it has not left after `longest_drain` seconds.
        """
        self._crew = crew
        self._slots = slots
        self._watch = watch
        self._started: dict[int, Started] = {}
        # Those that were told to drain, since others have taken their place.
        self._leaving: dict[int, Started] = {}
        # When they are killed, by their process ids.
        self._leaving_ends: dict[int, float] = {}
        self._longest_drain = longest_drain
        self._next_look = 0.0
        self._pause = _FIRST_PAUSE
        self._last_fork = -math.inf
        # When those that are missing are forked.
        self._next_fork = math.inf
        # Nothing is ever written to it: its end is the message.
        self._alive, self._master = os.pipe()

    def start(self) -> None:
        """Fork the workers, and return when each of them serves or has died. Raises StopRequested."""
        # Not before they have had the time to begin.
        self._next_look = time.monotonic() + self._watch.pause
        all_serve, one_serves = os.pipe()
        for number in range(self._crew.count):
            self._fork(number, lambda: os.close(one_serves))
        os.close(one_serves)
        try:
            # Each has a copy of that end, and closes it once it serves: readable when the last one has.
            self.wait_for(_readable(all_serve))
        finally:
            os.close(all_serve)

    def run(self) -> signal.Signals:
        """Replace workers that die, until a signal asks for the end or a new configuration. Returns that signal."""
        # A signal that is pending comes before any fork.
        received = _wait(0.0)
        while received is None or received == signal.SIGCHLD:
            self._look_after()
            self._fork_missing()
            next_event = min(self._next_look, self._next_fork, *self._leaving_ends.values())
            received = _wait(next_event - time.monotonic())
        return received

    def wait_for(self, wait: Callable[[float], bool], timeout: float = math.inf) -> bool:
        """Wait for something else, and look after the workers meanwhile; none is forked.

        `wait(seconds)` returns whether it has happened, after at most so many seconds. Returns False after `timeout`.
        Raises StopRequested on a signal to stop, which stays pending for `run`.
        """
        deadline = time.monotonic() + timeout
        while not wait(_NOTICE):
            raise_if_stopped()
            self._look_after()
            if time.monotonic() >= deadline:
                return False
        return True

    def replace(self, crew: WorkerGroup) -> bool:
        """Have another crew take over, one worker after the other. Returns whether it does, or else this one goes on.

        It does not where its first worker cannot serve. Raises StopRequested.
        """
        self._bury()
        if len(self._started) + len(self._leaving) + crew.count > self._slots:
            log.error("too many workers still drain for others to take over")
            return False
        former, old = list(self._started), self._crew
        self._crew = crew
        for number in range(max(crew.count, len(former))):
            if number < crew.count and not self._fork_and_wait(number) and number == 0:
                self._crew = old
                return False
            if number < len(former):
                self._dismiss(former[number])
        return True

    def drain(self, timeout: float) -> bool:
        """Have all finish. Returns whether they did, within `timeout` seconds; those that did not are killed.

        A second signal ends the workers and this process at once.
        """
        deadline = time.monotonic() + timeout
        for pid in list(self._started):
            self._dismiss(pid)
        while self._leaving:
            received = _wait(deadline - time.monotonic())
            if received is None or received in STOP:
                for pid in self._leaving:
                    os.kill(pid, signal.SIGKILL)
                if received is None:
                    return False
                _die_of(received)
            self._bury()
        return True

    def _look_after(self) -> None:
        """Note who has died, and kill those that hang or do not leave."""
        self._bury()
        now = time.monotonic()
        if now >= self._next_look:
            for pid in self._watch.look(self._started):
                os.kill(pid, signal.SIGKILL)
            self._next_look = now + self._watch.pause
        self._end_the_late(now)

    def _fork(self, number: int, on_serving: Callable[[], None]) -> int | None:
        """Returns the process id, None where the system has no room for another process."""
        slot = min(set(range(self._slots)) - {each.slot for each in (*self._started.values(), *self._leaving.values())})
        self._last_fork = time.monotonic()
        try:
            pid = os.fork()
        except OSError as error:
            log.error("cannot start a worker: %s", error.strerror)
            return None
        if pid:
            self._started[pid] = Started(number, slot, self._last_fork)
            return pid
        status = 1
        try:
            os.close(self._master)
            threading.Thread(target=self._await_masters_end, name="master", daemon=True).start()
            status = self._crew.work(number, slot, on_serving)
        except Exception:
            log.exception("a worker failed")
        finally:
            # Not by `sys.exit`: what is to be tidied up is the master's.
            os._exit(status)

    def _fork_missing(self) -> None:
        """Fork all that are missing, if it is time to: at once, unless the last fork was a moment ago."""
        missing = sorted(set(range(self._crew.count)) - {each.number for each in self._started.values()})
        now = time.monotonic()
        if missing and self._next_fork == math.inf:
            is_steady = now - self._last_fork >= _STEADY
            self._pause = _FIRST_PAUSE if is_steady else min(self._pause * 2, _LONGEST_PAUSE)
            self._next_fork = self._last_fork + self._pause
        if now < self._next_fork:
            return
        self._next_fork = math.inf
        for number in missing:
            self._fork(number, lambda: None)

    def _fork_and_wait(self, number: int) -> bool:
        """Fork a worker. Returns whether it serves; one that does not is killed. Raises StopRequested."""
        serves, one_serves = os.pipe()
        pid = self._fork(number, lambda: _tell(one_serves))
        os.close(one_serves)
        told = False
        try:
            # Closed without a word by one that has died.
            told = self.wait_for(_readable(serves), _PATIENCE) and bool(os.read(serves, 1))
            if pid is not None and not told:
                log.error("worker %d does not begin to serve", pid)
        finally:
            os.close(serves)
            if pid is not None and not told:
                # It has no requests to finish.
                self._dismiss(pid, signal.SIGKILL)
        return told

    def _dismiss(self, pid: int, number: int = signal.SIGTERM) -> None:
        """Have a worker drain, for good, or end it at once. One that is dead already is left."""
        if pid in self._started:
            self._leaving[pid] = self._started.pop(pid)
            self._leaving_ends[pid] = time.monotonic() + self._longest_drain
            os.kill(pid, number)

    def _end_the_late(self, now: float) -> None:
        for pid, end in list(self._leaving_ends.items()):
            if now >= end:
                log.error("worker %d does not leave", pid)
                os.kill(pid, signal.SIGKILL)
                del self._leaving_ends[pid]

    def _await_masters_end(self) -> None:
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _bury(self) -> None:
        """Take note of the workers that are dead."""
        while self._started or self._leaving:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            dead = (self._leaving if pid in self._leaving else self._started).pop(pid, None)
            if dead is None:
                # An orphan that the system gave to us.
                continue
            self._leaving_ends.pop(pid, None)
            lived = time.monotonic() - dead.time
            if status:
                log.error("worker %d died after %.1f s: %s", pid, lived, _cause(status))
            self._watch.bury(dead.slot)


def run_attended(work: Callable[[], _Result], attend: Callable[[Callable[[float], bool]], object]) -> _Result:
    """Return what `work` returns, or raise what it raises.

    `attend` is called with a function that waits for so many seconds and returns whether the work is done. It returns
    once that is so. When it raises instead, the work is left to itself, on a thread that ends with the process.
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


def raise_if_stopped() -> None:
    """Raises StopRequested where a signal to stop is pending, and leaves it pending."""
    if not signal.sigpending().isdisjoint(STOP):
        raise StopRequested


def _readable(descriptor: int) -> Callable[[float], bool]:
    """For `wait_for`: whether a descriptor can be read, or is at its end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return lambda seconds: bool(poll.poll(seconds * 1000))


def _wait(timeout: float) -> signal.Signals | None:
    """Return the next signal, or None where none comes in so many seconds."""
    deadline = time.monotonic() + timeout
    left = max(timeout, 0.0)
    while left:
        # Not by sigtimedwait: in CPython it returns a signal that never came, from memory that was never written, when
        # this process was stopped and continued and the time is over by then (seen with 3.9 to 3.13).
        signal.setitimer(signal.ITIMER_REAL, 0.0 if left == math.inf else max(left, _SHORTEST_TIMER))
        number = signal.sigwaitinfo(AWAITED).si_signo
        # It may be that of an earlier timer, or come from elsewhere.
        if number != signal.SIGALRM:
            return signal.Signals(number)
        left = max(deadline - time.monotonic(), 0.0)
    received = signal.sigtimedwait(_SIGNALS, 0)
    return None if received is None else signal.Signals(received.si_signo)


def _tell(pipe: int) -> None:
    # Where nobody listens, the master is gone: what has begun is finished.
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
