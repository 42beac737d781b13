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
from typing import Callable, Dict, Mapping, NamedTuple, Optional, Protocol

log = logging.getLogger(__name__)

STOP = (signal.SIGTERM, signal.SIGINT)
RELOAD = signal.SIGHUP
# Blocked in all threads of all processes.
AWAITED = (*STOP, RELOAD, signal.SIGCHLD)

# A worker that lived this long, in seconds, did not die of how it was started, and is replaced at once.
_GROWN_UP = 10.0

# Seconds before one that died young is replaced: doubled each time, so that a fault does not keep a core busy.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0

# A worker that replaces one of the old configuration serves within so many seconds, or is given up.
_PATIENCE = 20.0


class Crew(Protocol):
    """Workers of one configuration, as many as its `count`."""

    count: int

    def work(self, number: int, slot: int, on_serving: Callable[[], None]) -> int:
        """Be the worker of that number, with a slot that no other worker has. Returns the exit status when drained."""


class Watch(Protocol):
    """Whoever wants to look at the workers' slots every now and then."""

    # Seconds between two looks; infinite for none.
    pause: float

    def look(self, workers: Mapping[int, int]) -> None:
        """`workers` has the process id of each that is to serve, by its slot."""

    def bury(self, slot: int) -> None:
        """Whoever had the slot is gone."""


class _Started(NamedTuple):
    # From 0 up, within its crew; the one that replaces a worker has its number.
    number: int
    slot: int
    # On the monotonic clock.
    time: float


class Workers:
    """The processes of a crew, and those of former ones that still drain. All by the main thread of the master."""

    def __init__(self, crew: Crew, slots: int, watch: Watch, longest_drain: float) -> None:
        """There may be so many workers at a time as there are `slots`.

        One that others have taken over from is killed when it has not left after `longest_drain` seconds.
        """
        self._crew = crew
        self._slots = slots
        self._watch = watch
        self._started: Dict[int, _Started] = {}
        # Those that were told to drain, since others have taken their place.
        self._leaving: Dict[int, _Started] = {}
        # When they are killed, by their process ids.
        self._leaving_ends: Dict[int, float] = {}
        self._longest_drain = longest_drain
        self._pause = _FIRST_PAUSE
        # When one that is missing is forked.
        self._next_fork = math.inf
        # Nothing is ever written to it: its end is the message.
        self._alive, self._master = os.pipe()

    def start(self) -> None:
        """Fork the workers, and return when each of them serves or has died."""
        all_serve, one_serves = os.pipe()
        for number in range(self._crew.count):
            self._fork(number, lambda: os.close(one_serves))
        os.close(one_serves)
        # Each has a copy of that end, and closes it once it serves. Nothing is read until the last one has.
        os.read(all_serve, 1)
        os.close(all_serve)

    def run(self) -> signal.Signals:
        """Replace workers that die, until a signal asks for the end or a new configuration. Returns that signal."""
        next_look = 0.0
        self._schedule_fork()
        while True:
            now = time.monotonic()
            if now >= next_look:
                self._look()
                next_look = now + self._watch.pause
            if now >= self._next_fork:
                self._fork_missing()
            self._end_the_late(now)
            received = _wait(min(next_look, self._next_fork, *self._leaving_ends.values()) - time.monotonic())
            if received in STOP or received == RELOAD:
                return received
            self._bury()

    def replace(self, crew: Crew) -> bool:
        """Have another crew take over, one worker after the other. Returns whether it does, or else this one goes on.

        It does not where its first worker cannot serve.
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
            self._look()
            if number < len(former):
                self._dismiss(former[number])
        self._schedule_fork()
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

    def _look(self) -> None:
        self._watch.look({each.slot: pid for pid, each in self._started.items()})

    def _fork(self, number: int, on_serving: Callable[[], None]) -> Optional[int]:
        """Returns the process id, None where the system has no room for another process."""
        slot = min(set(range(self._slots)) - {each.slot for each in (*self._started.values(), *self._leaving.values())})
        try:
            pid = os.fork()
        except OSError as error:
            log.error("cannot start a worker: %s", error.strerror)
            return None
        if pid:
            self._started[pid] = _Started(number, slot, time.monotonic())
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
        there = {each.number for each in self._started.values()}
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._fork(min(set(range(self._crew.count)) - there), lambda: None)
        self._schedule_fork()

    def _schedule_fork(self) -> None:
        missing = len(self._started) < self._crew.count
        self._next_fork = time.monotonic() + self._pause if missing else math.inf

    def _fork_and_wait(self, number: int) -> bool:
        """Fork a worker. Returns whether it serves; one that does not is killed."""
        serves, one_serves = os.pipe()
        pid = self._fork(number, lambda: _tell(one_serves))
        os.close(one_serves)
        poll = select.poll()
        poll.register(serves, select.POLLIN)
        # Closed without a word by one that has died.
        told = poll.poll(_PATIENCE * 1000) and os.read(serves, 1)
        os.close(serves)
        if pid is not None and not told:
            log.error("worker %d does not begin to serve", pid)
            self._dismiss(pid)
            os.kill(pid, signal.SIGKILL)
        return bool(told)

    def _dismiss(self, pid: int) -> None:
        """Have a worker drain, for good."""
        self._leaving[pid] = self._started.pop(pid)
        self._leaving_ends[pid] = time.monotonic() + self._longest_drain
        os.kill(pid, signal.SIGTERM)

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
        """Take note of the workers that are dead. One that grew up is replaced at once, others after a pause."""
        while self._started or self._leaving:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            was_leaving = pid in self._leaving
            dead = (self._leaving if was_leaving else self._started).pop(pid, None)
            if dead is None:
                # An orphan that the system gave to us.
                continue
            self._leaving_ends.pop(pid, None)
            lived = time.monotonic() - dead.time
            if status:
                log.error("worker %d died after %.1f s: %s", pid, lived, _cause(status))
            if lived >= _GROWN_UP and not was_leaving:
                self._pause = _FIRST_PAUSE
            self._watch.bury(dead.slot)
        if self._next_fork == math.inf:
            self._schedule_fork()


def _wait(timeout: float) -> Optional[signal.Signals]:
    """Return the next signal, or None where none comes in so many seconds."""
    received = signal.sigwaitinfo(AWAITED) if timeout == math.inf else signal.sigtimedwait(AWAITED, max(0.0, timeout))
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
