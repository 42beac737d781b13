"""What the supervisor asks of processes: one contract for those of this machine, and for the table of the tests."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import logging
import math
import os
import signal
import threading
import unittest
from collections.abc import Callable
from typing import TYPE_CHECKING
from unittest import mock

from filestoraged.daemon.processes import BLOCKED_SIGNALS, Processes, StatusPipe, SystemProcesses
from tests.daemon.process import has_pending, state
from tests.daemon.process_table import Behaviour, ProcessTable
from tests.support import PATIENCE

if TYPE_CHECKING:
    _Case = unittest.TestCase
else:
    # The contract alone is no test.
    _Case = object

# ptrace(2).
_TRACE_ME = 0


class Group:
    """Runs one worker, which does its work without waiting where a behaviour is finite."""

    count = 1

    def __init__(self, behaviour: Behaviour, prepare: Callable[[], object] = lambda: None) -> None:
        self._behaviour = behaviour
        self._prepare = prepare

    def work(self, number: int, slot: int, status: StatusPipe) -> int:
        behaviour = self._behaviour
        self._prepare()
        if behaviour.life < math.inf:
            return behaviour.exit_status
        if behaviour.start == math.inf:
            threading.Event().wait()
        status.report_serving()
        signal.sigwait([signal.SIGTERM])
        status.report_not_accepting()
        return behaviour.exit_status


class ProcessesContract(_Case):
    """What the supervisor relies on."""

    processes: Processes

    def fork(self, **behaviour: float) -> int:
        raise NotImplementedError

    def send(self, number: signal.Signals) -> None:
        """Send this process a signal."""
        raise NotImplementedError

    def ended(self, pid: int) -> int:
        """Wait until a worker has ended. Returns its status."""
        while (reaped := self.processes.reap()) is None:
            self.assertEqual(signal.SIGCHLD, self.processes.wait_for_signal(PATIENCE))
        self.assertEqual(pid, reaped[0])
        return reaped[1]

    def test_worker_that_begins_to_serve_is_reported(self) -> None:
        pid = self.fork()

        self.assertTrue(self.processes.wait_until_serving(pid, PATIENCE))

        self.assertTrue(self.processes.serves(pid))
        self.assertFalse(self.processes.wait_until_not_accepting(pid, 0.0))
        self.assertIsNone(self.processes.reap())

    def test_worker_that_hangs_at_its_start_is_waited_for_until_the_timeout(self) -> None:
        pid = self.fork(start=math.inf)

        self.assertFalse(self.processes.wait_until_serving(pid, 0.01))

        self.assertFalse(self.processes.serves(pid))

    def test_worker_that_hangs_at_its_start_does_not_drain(self) -> None:
        pid = self.fork(start=math.inf)

        self.processes.kill(pid, signal.SIGTERM)

        self.assertFalse(self.processes.wait_until_not_accepting(pid, 0.01))

    def test_worker_that_ends_at_its_start_is_not_waited_for_and_does_not_serve(self) -> None:
        pid = self.fork(start=math.inf, life=0.0, exit_status=3)

        self.assertTrue(self.processes.wait_until_serving(pid, PATIENCE))

        self.assertFalse(self.processes.serves(pid))
        self.assertEqual(3 << 8, self.ended(pid))

    def test_worker_that_was_reaped_is_not_waited_for(self) -> None:
        pid = self.fork(life=0.0)
        self.ended(pid)

        self.assertTrue(self.processes.wait_until_serving(pid, PATIENCE))
        self.assertTrue(self.processes.wait_until_not_accepting(pid, PATIENCE))

    def test_worker_that_gets_sigterm_stops_accepting_and_ends(self) -> None:
        pid = self.fork()
        self.processes.wait_until_serving(pid, PATIENCE)

        self.processes.kill(pid, signal.SIGTERM)

        self.assertTrue(self.processes.wait_until_not_accepting(pid, PATIENCE))
        self.assertTrue(self.processes.serves(pid))
        self.assertEqual(0, self.ended(pid))

    def test_killed_worker_has_ended_by_the_signal(self) -> None:
        pid = self.fork(start=math.inf)

        self.processes.kill(pid, signal.SIGKILL)

        self.assertTrue(self.processes.wait_until_not_accepting(pid, PATIENCE))
        self.assertEqual(signal.SIGKILL, self.ended(pid))

    def test_stopped_worker_drains_when_it_is_continued(self) -> None:
        pid = self.fork()
        self.processes.wait_until_serving(pid, PATIENCE)

        self.processes.kill(pid, signal.SIGSTOP)
        self.assertEqual(signal.SIGCHLD, self.processes.wait_for_signal(PATIENCE))
        self.processes.kill(pid, signal.SIGTERM)
        self.assertFalse(self.processes.wait_until_not_accepting(pid, 0.01))
        self.processes.kill(pid, signal.SIGCONT)

        self.assertTrue(self.processes.wait_until_not_accepting(pid, PATIENCE))

    def test_process_without_children_has_none_to_reap(self) -> None:
        self.assertRaises(ChildProcessError, self.processes.reap)

    def test_signals_are_received_once_each_the_lowest_first(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            self.send(number)

        received = [self.processes.wait_for_signal(timeout) for timeout in (0.0, math.inf, 60.0, 0.0, -1.0)]

        self.assertEqual([signal.SIGHUP, signal.SIGINT, signal.SIGTERM, None, None], received)

    def test_wait_without_a_signal_ends_at_its_timeout(self) -> None:
        began = self.processes.now()

        self.assertIsNone(self.processes.wait_for_signal(0.02))

        self.assertGreaterEqual(self.processes.now() - began, 0.02 - 1e-9)

    def test_signal_to_stop_is_pending_until_it_is_received(self) -> None:
        for number, stops in ((signal.SIGHUP, False), (signal.SIGTERM, True), (signal.SIGINT, True)):
            self.send(number)

            self.assertEqual(stops, self.processes.is_stop_pending())
            self.assertEqual(stops, self.processes.is_stop_pending())
            self.processes.wait_for_signal(0.0)
            self.assertFalse(self.processes.is_stop_pending())

    def test_worker_that_is_not_traced_has_no_tracer(self) -> None:
        self.assertEqual(0, self.processes.tracer(self.fork()))


class ProcessTableTest(ProcessesContract, unittest.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.table = ProcessTable()
        self.processes: Processes = self.table

    def fork(self, **behaviour: float) -> int:
        self.table.behaviour = Behaviour(**behaviour)  # type: ignore[arg-type]
        return self.processes.fork(Group(self.table.behaviour), 0, 0)

    def send(self, number: signal.Signals) -> None:
        self.table.send(number)


class SystemProcessesTest(ProcessesContract, unittest.TestCase):
    """Forks this process: only real ones show what the kernel does with pipes, signals and their dead."""

    def setUp(self) -> None:
        super().setUp()
        # A fork thaws what the runner has frozen, all of which the judges of this and later tests would visit.
        self.addCleanup(gc.freeze)
        # A thread that does not block the signals of the master would die of them, and this process with it. Here is
        # none: `bin/test` runs a module in a process of its own.
        self.assertEqual([threading.current_thread()], threading.enumerate())
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        self.addCleanup(self.discard_signals)
        system = SystemProcesses()
        for descriptor in (system._alive, system._master):
            self.addCleanup(os.close, descriptor)
        self.processes: Processes = system

    def fork(self, **behaviour: float) -> int:
        return self.fork_to_prepare(lambda: None, **behaviour)

    def fork_to_prepare(self, prepare: Callable[[], object], **behaviour: float) -> int:
        pid = self.processes.fork(Group(Behaviour(**behaviour), prepare), 0, 0)  # type: ignore[arg-type]
        self.addCleanup(end, pid)
        return pid

    def send(self, number: signal.Signals) -> None:
        os.kill(os.getpid(), number)

    def discard_signals(self) -> None:
        # The timer of the last wait.
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        while signal.sigtimedwait(BLOCKED_SIGNALS, 0):
            pass

    def test_worker_has_its_end_of_its_status_pipe_alone_and_not_the_masters_pipe(self) -> None:
        reader, writer = os.pipe()
        before = descriptors()
        self.fork()
        self.fork_to_prepare(lambda: os.write(writer, b"%d" % descriptors()))

        self.assertEqual(before, int(os.read(reader, 100)))
        os.close(reader)
        os.close(writer)

    def test_workers_that_have_ended_or_were_refused_leave_no_descriptor(self) -> None:
        before = descriptors()
        self.ended(self.fork(life=0.0))
        with mock.patch("filestoraged.daemon.processes.fork", side_effect=OSError(errno.EAGAIN, "")):
            self.assertRaises(OSError, self.fork)

        self.assertEqual(before, descriptors())

    def test_worker_that_fails_is_logged_and_ends_with_status_1(self) -> None:
        reader, writer = os.pipe()

        def fail() -> None:
            # The judge of tests takes the record in the child; nothing else would write it.
            logging.getLogger("filestoraged").addHandler(logging.StreamHandler(os.fdopen(writer, "w")))
            raise ValueError("out of order")

        pid = self.fork_to_prepare(fail)
        status = self.ended(pid)
        os.close(writer)
        with open(reader, encoding="utf-8") as logged:
            lines = logged.read()

        self.assertEqual(1 << 8, status)
        self.assertIn("out of order", lines)

    def test_alarm_of_another_process_is_not_received(self) -> None:
        began = self.processes.now()
        self.send(signal.SIGALRM)
        self.assertIsNone(self.processes.wait_for_signal(0.0))

        self.assertIsNone(self.processes.wait_for_signal(0.02))

        self.assertGreaterEqual(self.processes.now() - began, 0.02)

    def test_process_that_was_stopped_while_it_waited_receives_no_signal_that_was_not_sent(self) -> None:
        """sigtimedwait of CPython does: when the process is continued, and the time is over by then."""
        reader, writer = os.pipe()
        waiting = os.fork()
        if not waiting:
            os.write(writer, b"!")
            os._exit(self.processes.wait_for_signal(0.2) or 0)
        for descriptor in (reader, writer):
            self.addCleanup(os.close, descriptor)
        os.read(reader, 1)
        while state(waiting) not in "SZ":
            os.sched_yield()

        os.kill(waiting, signal.SIGSTOP)
        # Stopped, its timer goes off.
        while state(waiting) != "Z" and not has_pending(waiting, signal.SIGALRM):
            os.sched_yield()
        os.kill(waiting, signal.SIGCONT)

        self.assertEqual((waiting, 0), os.waitpid(waiting, 0))

    def test_process_dies_of_the_signal_that_it_waited_for(self) -> None:
        dying = os.fork()
        if not dying:
            self.processes.die_of(signal.SIGINT)
            os._exit(0)

        self.assertEqual((dying, signal.SIGINT), os.waitpid(dying, 0))

    def test_tracer_of_a_worker_is_found(self) -> None:
        pid = self.fork_to_prepare(lambda: ctypes.CDLL(None).ptrace(_TRACE_ME, 0, None, None))
        self.processes.wait_until_serving(pid, PATIENCE)

        self.assertEqual(os.getpid(), self.processes.tracer(pid))

    def test_process_that_is_gone_has_no_tracer(self) -> None:
        self.assertEqual(0, self.processes.tracer(1 << 30))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def end(pid: int) -> None:
    """Kill a child, unless it was reaped."""
    with contextlib.suppress(ChildProcessError, ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
