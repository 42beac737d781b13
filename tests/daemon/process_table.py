"""A table of processes in a time of its own, for the supervisor: nothing is forked, and no clock is read.

`test_processes.py` runs one contract over it and over the processes of the machine.
Time passes only while the master waits. What happens meanwhile is scheduled: by the workers, as they behave, and by the
test.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from filestoraged.daemon.processes import STOP_SIGNALS, WorkerGroup

# Seconds between two heartbeats of a worker.
_BEAT = 0.5


@dataclass(frozen=True)
class Behaviour:
    """What a worker does by itself, in seconds; infinite for what it never does."""

    # From its fork until it serves.
    start: float = 0.1
    # From its fork until it exits with this status.
    life: float = math.inf
    exit_status: int = 0
    # From SIGTERM until it accepts no connections, and until it exits.
    stop_accepting: float = 0.02
    drain: float = 0.1
    # From SIGKILL until it has ended: a disk may keep it waiting.
    death: float = 0.0


class Worker:
    """A process of the table. A test reads its fields, and calls the methods of the table."""

    def __init__(self, pid: int, group: WorkerGroup, number: int, slot: int, behaviour: Behaviour) -> None:
        self.pid = pid
        self.group = group
        self.number = number
        self.slot = slot
        self.behaviour = behaviour
        self.signals: list[int] = []
        self.serves = False
        self.has_pipe = True
        # As waitpid returns it; None while it lives.
        self.status: int | None = None
        self.is_stopped = False
        # What it does when it is continued.
        self.deferred: list[Callable[[], None]] = []
        # When its heartbeats began, and the last one where there is no further.
        self.beats_since = math.inf
        self.final_beat: float | None = None

    @property
    def is_alive(self) -> bool:
        return self.status is None

    def last_beat(self, now: float) -> float:
        if self.final_beat is not None:
            return self.final_beat
        return now - (now - self.beats_since) % _BEAT if now >= self.beats_since else 0.0


class MasterDied(Exception):
    """The master has killed itself by the signal that is the argument."""


class ProcessTable:
    """`Processes` of a test; also the heartbeats of its workers."""

    def __init__(self) -> None:
        self.time = 1000.0
        # How workers behave that are forked from now on, and whether the system allows for one.
        self.behaviour = Behaviour()
        self.refuses_forks = False
        # All that were ever forked; and the time of each attempt.
        self.workers: list[Worker] = []
        self.forks: list[float] = []
        # Signals to the master that it has not received.
        self.pending: set[signal.Signals] = set()
        # By process id, the debuggers of workers.
        self.tracers: dict[int, int] = {}
        self._pids = itertools.count(101)
        self._children: dict[int, Worker] = {}
        self._ended: list[tuple[int, int]] = []
        # The last worker that has beaten in each slot.
        self._slots: dict[int, Worker] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._suspended_until = -math.inf

    # Called by the test.

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_alive]

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Let something happen in so many seconds from now, where the master waits then."""
        heapq.heappush(self._events, (self.time + seconds, next(self._order), action))

    def send(self, number: signal.Signals) -> None:
        """Send the master a signal."""
        self.pending.add(number)

    def suspend_master(self, seconds: float) -> None:
        """Stop the master, and continue it after so many seconds."""
        self._suspended_until = self.time + seconds

    def hang(self, worker: Worker) -> None:
        """Let the worker's loop hang: its heartbeats end. Its main thread still drains."""
        worker.final_beat = worker.last_beat(self.time)

    def add_orphan(self) -> None:
        """Let a process end that the system has made a child of the master."""
        self._ended.append((next(self._pids), 0))
        self.send(signal.SIGCHLD)

    # `Processes`.

    def now(self) -> float:
        return self.time

    def fork(self, group: WorkerGroup, number: int, slot: int) -> int:
        self.forks.append(self.time)
        if self.refuses_forks:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        assert all(child.slot != slot for child in self._children.values()), f"slot {slot} is in use"
        worker = Worker(next(self._pids), group, number, slot, self.behaviour)
        self.workers.append(worker)
        self._children[worker.pid] = worker
        self._schedule(worker, worker.behaviour.start, self._serve)
        self._schedule(worker, worker.behaviour.life, self._exit)
        return worker.pid

    def kill(self, pid: int, number: int) -> None:
        assert pid in self._children, f"signal {number} to process {pid}, which is no child"
        worker = self._children[pid]
        if not worker.is_alive:
            return
        worker.signals.append(number)
        if number == signal.SIGKILL:
            self._die(worker)
        elif number == signal.SIGSTOP:
            self.hang(worker)
            worker.is_stopped = True
            self.send(signal.SIGCHLD)
        elif number == signal.SIGCONT:
            self._continue(worker)
        elif number == signal.SIGTERM:
            self._schedule(worker, 0, self._receive_sigterm)

    def reap(self) -> tuple[int, int] | None:
        if not self._children and not self._ended:
            raise ChildProcessError
        if not self._ended:
            return None
        pid, status = self._ended.pop(0)
        self._children.pop(pid, None)
        return pid, status

    def serves(self, pid: int) -> bool:
        return self._children[pid].serves

    def wait_until_serving(self, pid: int, timeout: float) -> bool:
        return self._wait(timeout, lambda: not self._has_pipe(pid) or self._children[pid].serves)

    def wait_until_not_accepting(self, pid: int, timeout: float) -> bool:
        return self._wait(timeout, lambda: not self._has_pipe(pid))

    def wait_for_signal(self, timeout: float) -> signal.Signals | None:
        if not self._wait(timeout, lambda: bool(self.pending)):
            return None
        # The kernel delivers the lowest first.
        received = min(self.pending)
        self.pending.remove(received)
        return received

    def is_stop_pending(self) -> bool:
        return not self.pending.isdisjoint(STOP_SIGNALS)

    def die_of(self, number: int) -> None:
        raise MasterDied(number)

    def tracer(self, pid: int) -> int:
        return self.tracers.get(pid, 0)

    # `Heartbeats`.

    def last_beat(self, slot: int) -> float:
        return self._slots[slot].last_beat(self.time) if slot in self._slots else 0.0

    def clear_slot(self, slot: int) -> None:
        self._slots.pop(slot, None)

    # Time, and what workers do.

    def _wait(self, timeout: float, happens: Callable[[], bool]) -> bool:
        """Let time pass until it happens, `timeout` seconds at most. Returns whether it did."""
        deadline = self.time + max(timeout, 0.0)
        while self.time < self._suspended_until or not happens():
            end = max(deadline, self._suspended_until)
            if self._events and self._events[0][0] <= end:
                when, _, action = heapq.heappop(self._events)
                self.time = max(self.time, when)
                action()
            elif self.time < end:
                assert end < math.inf, "the master waits for ever"
                self.time = end
            else:
                return False
        return True

    def _schedule(self, worker: Worker, seconds: float, action: Callable[[Worker], None]) -> None:
        def act() -> None:
            if worker.is_stopped:
                worker.deferred.append(act)
            elif worker.is_alive:
                action(worker)

        if seconds < math.inf:
            self.at(seconds, act)

    def _serve(self, worker: Worker) -> None:
        worker.serves = True
        worker.beats_since = self.time
        self._slots[worker.slot] = worker
        if signal.SIGTERM in worker.signals:
            self._drain(worker)

    def _receive_sigterm(self, worker: Worker) -> None:
        # One that starts waits for the signal when it serves.
        if worker.serves:
            self._drain(worker)

    def _drain(self, worker: Worker) -> None:
        self._schedule(worker, worker.behaviour.stop_accepting, self._stop_accepting)
        self._schedule(worker, worker.behaviour.drain, self._exit)

    def _stop_accepting(self, worker: Worker) -> None:
        worker.has_pipe = False

    def _exit(self, worker: Worker) -> None:
        self._end(worker, worker.behaviour.exit_status << 8)

    def _die(self, worker: Worker) -> None:
        if worker.behaviour.death:
            self.at(worker.behaviour.death, lambda: self._end(worker, signal.SIGKILL))
        else:
            self._end(worker, signal.SIGKILL)

    def _end(self, worker: Worker, status: int) -> None:
        worker.final_beat = worker.last_beat(self.time)
        worker.has_pipe = False
        worker.status = status
        self._ended.append((worker.pid, status))
        self.send(signal.SIGCHLD)

    def _continue(self, worker: Worker) -> None:
        self.send(signal.SIGCHLD)
        worker.is_stopped = False
        worker.final_beat = None
        if worker.serves:
            worker.beats_since = self.time
        deferred, worker.deferred = worker.deferred, []
        for act in deferred:
            act()

    def _has_pipe(self, pid: int) -> bool:
        return pid in self._children and self._children[pid].has_pipe
