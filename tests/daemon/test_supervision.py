"""A master and its workers: those that die or hang are replaced soon, and a signal to stop is not kept waiting."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Iterator
from unittest import mock

from filestoraged.daemon import watchdog as watchdog_module
from filestoraged.daemon.supervisor import Supervisor, WorkerProcess
from filestoraged.daemon.watchdog import HeartbeatTimeouts, Watchdog
from tests.daemon.fake_workers import TIMEOUTS
from tests.daemon.process import KILLED_WORKER, PATIENCE, ROOT, Daemon
from tests.runner.marks import long
from tests.support import TempCase


class Master(Daemon):
    """A running `python -m tests.daemon.fake_workers`."""

    def __init__(self, count: int, directory: os.PathLike) -> None:  # type: ignore[type-arg]
        program = (sys.executable, "-m", "tests.daemon.fake_workers")
        super().__init__(str(count), program=program, cwd=directory, stdout=subprocess.PIPE)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()


class SupervisionTest(TempCase):
    @contextlib.contextmanager
    def master(self, count: int) -> Iterator[Master]:
        master = Master(count, self.directory)
        try:
            self.assertEqual("started", master.says(), master.lines())
            yield master
        finally:
            master.kill()
            master.log.close()
            assert master.process.stdout is not None
            master.process.stdout.close()

    def test_workers_that_were_killed_together_are_replaced(self) -> None:
        self.announce(KILLED_WORKER)
        with self.master(4) as master:
            before = set(master.workers())

            for pid in before:
                os.kill(pid, signal.SIGKILL)

            self.wait_until("replaced", lambda: len(set(master.workers()) - before) == 4)

    @long("a storm of kills")
    def test_workers_are_back_after_a_burst_of_kills(self) -> None:
        self.announce(KILLED_WORKER)
        with self.master(4) as master:
            for _ in range(40):
                for pid in master.workers():
                    # One of the round before may be reaped meanwhile.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)

            self.wait_until("four", lambda: len(master.workers()) == 4)

    def test_workers_that_die_at_their_start_are_forked_until_they_serve(self) -> None:
        self.announce(KILLED_WORKER)
        self.announce(r"worker \d+ died after [\d.]+ s: exit status 3$")
        with self.master(2) as master:
            (self.directory / "die").touch()
            for pid in master.workers():
                os.kill(pid, signal.SIGKILL)
            self.wait_until("three rounds", lambda: sum("exit status 3" in line for line in master.lines()) >= 6)
            (self.directory / "die").unlink()
            died = len(master.lines())

            self.wait_until("two", lambda: len(master.workers()) == 2)

            self.assertLessEqual(len(master.lines()) - died, 2)

    def test_stopped_worker_is_killed_and_replaced_with_one_log_line(self) -> None:
        self.announce(r"worker \d+ has not answered for \d+ s; killing it$")
        self.announce(KILLED_WORKER)
        with self.master(2) as master:
            stopped, other = master.workers()

            os.kill(stopped, signal.SIGSTOP)
            self.wait_until("replaced", lambda: len(set(master.workers()) - {stopped}) == 2)

            self.assertIn(other, master.workers())
            (line,) = [line for line in master.lines() if f"worker {stopped} has not" in line]
            self.assertRegex(line, rf"ERROR worker {stopped} has not answered for ([5-9]|\d\d) s; killing it$")

    @long("real time, which WatchdogTest replaces")
    def test_worker_that_does_not_begin_to_serve_is_killed_and_replaced(self) -> None:
        self.announce(r"worker \d+ (has not begun to serve for \d+ s|did not begin to serve); killing it$")
        self.announce(KILLED_WORKER)
        with self.master(2) as master:
            (self.directory / "hang").touch()
            os.kill(master.workers()[0], signal.SIGKILL)
            self.wait_until("another one", lambda: any("has not begun" in line for line in master.lines()))
            (self.directory / "hang").unlink()
            self.wait_until("two", lambda: len(master.workers()) == 2)

            self.assertRegex("\n".join(master.lines()), r"has not begun to serve for \d\d s; killing it")

    @long("real time, which WatchdogTest replaces")
    def test_no_worker_is_killed_after_the_whole_group_was_stopped(self) -> None:
        with self.master(2) as master:
            before = master.workers()
            # The master first: it would miss the beats of workers that were stopped before it.
            group = [master.process.pid, *before]

            for pid in group:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(2 * TIMEOUTS.silence)
            for pid in group:
                # The master first: it finds the beats of its workers old.
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.05)
            time.sleep(1.5 * TIMEOUTS.silence)

            self.assertEqual(before, master.workers())
            self.assertEqual([], [line for line in master.lines() if "ERROR" in line])

    def test_traced_worker_is_not_killed(self) -> None:
        self.announce(r"worker \d+ has not answered for \d+ s; process \d+ traces it, so it is not killed$")
        with self.master(2) as master:
            traced = master.workers()[0]
            with subprocess.Popen(["strace", "-p", str(traced), "-o", os.devnull], stderr=subprocess.DEVNULL) as tracer:
                self.wait_until("attached", lambda: f"TracerPid:\t{tracer.pid}" in status(traced))
                os.kill(traced, signal.SIGSTOP)
                self.wait_until("noticed", lambda: any("traces it" in line for line in master.lines()))
                os.kill(traced, signal.SIGCONT)
                tracer.terminate()

            self.assertIn(f"process {tracer.pid} traces it, so it is not killed", "\n".join(master.lines()))
            self.assertIn(traced, master.workers())

    def test_sigterm_ends_a_reload_that_waits_for_a_worker(self) -> None:
        self.announce(KILLED_WORKER)
        with self.master(2) as master:
            (self.directory / "hang").touch()
            master.process.send_signal(signal.SIGHUP)
            self.wait_until("a third", lambda: len(master.workers()) == 3)
            status = master.stop()

            self.assertEqual((0, "stopped"), (status, master.says()))

    def test_reload_is_complete_when_former_workers_have_stopped_accepting(self) -> None:
        with self.master(2) as master:
            (self.directory / "accept").touch()
            before = set(master.workers())
            master.process.send_signal(signal.SIGHUP)
            self.wait_until("two new ones", lambda: len(set(master.workers()) - before) == 2)
            (self.directory / "accept").unlink()

            self.assertEqual(["not accepting", "not accepting", "replaced"], [master.says() for _ in range(3)])

    def test_reload_does_not_wait_for_a_former_worker_that_dies(self) -> None:
        self.announce(KILLED_WORKER)
        with self.master(1) as master:
            (self.directory / "accept").touch()
            former = master.workers()[0]
            master.process.send_signal(signal.SIGHUP)
            self.wait_until("a new one", lambda: len(master.workers()) == 2)

            os.kill(former, signal.SIGKILL)

            self.assertEqual("replaced", master.says())
            (self.directory / "accept").unlink()

    @long("real time, which WatchdogTest replaces")
    def test_hung_worker_is_killed_while_a_reload_waits(self) -> None:
        self.announce(r"worker \d+ has not answered for \d+ s; killing it$")
        self.announce(r"worker \d+ (has not begun to serve for \d+ s|did not begin to serve); killing it$")
        self.announce(KILLED_WORKER)
        with self.master(2) as master:
            stopped = master.workers()[0]
            (self.directory / "hang").touch()
            master.process.send_signal(signal.SIGHUP)
            self.wait_until("a third", lambda: len(master.workers()) == 3)

            os.kill(stopped, signal.SIGSTOP)

            self.wait_until("killed", lambda: any(f"worker {stopped} has not" in line for line in master.lines()))
            self.assertEqual("kept", master.says())
            (self.directory / "hang").unlink()
            self.wait_until("two", lambda: len(master.workers()) == 2 and stopped not in master.workers())


# Prints how many objects the collector ignores in a worker, then in its master.
FROZEN = """
import gc, math
from filestoraged.daemon.supervisor import Supervisor

class Workers:
    count = 1

    def work(self, number, slot, status):
        print(gc.get_freeze_count(), flush=True)
        return 0

class Monitor:
    interval = math.inf
    hanging = lambda self, workers: ()
    release = lambda self, slot: None

supervisor = Supervisor(Workers(), 1, Monitor(), 1.0)
supervisor.start()
print(gc.get_freeze_count())
"""


class FreezeTest(unittest.TestCase):
    def test_collector_ignores_the_objects_that_a_worker_shares_with_its_master(self) -> None:
        done = subprocess.run(
            [sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=PATIENCE, check=True, cwd=ROOT
        )
        in_worker, in_master = map(int, done.stdout.split())

        self.assertGreater(in_worker, 1000)
        self.assertEqual(0, in_master)


class FutileSupervisor(Supervisor):
    """All of its workers die at once. `forks` are the times at which they were forked."""

    def __init__(self, count: int) -> None:
        super().__init__(mock.Mock(count=count), 8, mock.Mock(interval=1.0), 5.0)
        self.forks: list[float] = []

    def _fork(self, number: int) -> int | None:
        self._last_fork = time.monotonic()
        self.forks.append(self._last_fork)
        return None

    def close(self) -> None:
        os.close(self._alive)
        os.close(self._master)


class EndOfWorkersTest(unittest.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.supervisor = FutileSupervisor(1)
        self.addCleanup(self.supervisor.close)
        self.monitor = mock.Mock(interval=1.0, hanging=lambda _: ())
        self.supervisor._monitor = self.monitor

    def test_worker_that_drains_is_killed_at_its_deadline(self) -> None:
        self.supervisor._drain_deadlines = {1 << 30: 100.0}
        with mock.patch("os.kill") as kill, mock.patch("time.monotonic", return_value=99.9) as now:
            self.supervisor._check_workers()
            before = kill.call_count
            now.return_value = 100.0
            with self.assertLogs("filestoraged"):
                self.supervisor._check_workers()

        self.assertEqual(0, before)
        kill.assert_called_once_with(1 << 30, signal.SIGKILL)

    def test_slot_of_a_dead_worker_is_released(self) -> None:
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        self.supervisor._serving = {1 << 30: WorkerProcess(0, 3, 0.0, reader)}

        with mock.patch("os.waitpid", return_value=(1 << 30, 0)):
            self.supervisor._check_workers()

        self.assertEqual([mock.call(3)], self.monitor.release.call_args_list)


class ForkPauseTest(unittest.TestCase):
    """With a clock of the test's own."""

    def setUp(self) -> None:
        super().setUp()
        self.now = 1000.0
        patched = mock.patch("filestoraged.daemon.supervisor.time.monotonic", lambda: self.now)
        patched.start()
        self.addCleanup(patched.stop)
        self.supervisor = FutileSupervisor(1)
        self.addCleanup(self.supervisor.close)

    def pass_time(self, seconds: float) -> list[float]:
        """Fork what is missing every 0.1 s. Returns the times of the forks, from now."""
        began = self.now
        self.supervisor.forks.clear()
        for step in range(round(seconds * 10)):
            self.now = began + step / 10
            self.supervisor._fork_missing()
        return [round(each - began, 1) for each in self.supervisor.forks]

    def test_pause_between_forks_doubles_from_0_2_to_3_seconds(self) -> None:
        self.assertEqual([0.0, 0.2, 0.6, 1.4, 3.0, 6.0, 9.0, 12.0], self.pass_time(13))

    def test_worker_that_dies_after_10_seconds_is_replaced_at_once(self) -> None:
        self.pass_time(3.1)
        self.supervisor._serving[1 << 30] = WorkerProcess(0, 0, self.now, -1)
        self.now += 10
        self.supervisor._serving.clear()

        self.assertEqual([0.0, 0.2], self.pass_time(0.5))

    def test_all_missing_workers_are_forked_together(self) -> None:
        self.supervisor._group.count = 4

        self.assertEqual([0.0] * 4 + [0.2] * 4, self.pass_time(0.5))


class DrainTest(unittest.TestCase):
    """With a clock of the test's own, and a worker that drains for ever."""

    PID = 1 << 30

    def setUp(self) -> None:
        super().setUp()
        self.now = 1000.0
        self.waits: list[float] = []
        self.supervisor = FutileSupervisor(1)
        self.addCleanup(self.supervisor.close)
        self.supervisor._draining[self.PID] = WorkerProcess(0, 0, self.now, -1)
        self.monitor = mock.Mock(interval=1.0, hanging=mock.Mock(return_value=()))
        self.supervisor._monitor = self.monitor
        for name, double in (
            ("time.monotonic", lambda: self.now),
            ("_wait_for_signal", self.wait_for_signal),
            ("Supervisor._reap", lambda _: None),
            ("os.kill", mock.Mock()),
        ):
            patched = mock.patch(f"filestoraged.daemon.supervisor.{name}", double)
            patched.start()
            self.addCleanup(patched.stop)

    def wait_for_signal(self, timeout: float) -> None:
        self.waits.append(timeout)
        self.now += timeout

    def test_monitor_is_called_at_its_interval_while_workers_drain(self) -> None:
        self.supervisor._next_check = self.now + 1.0

        drained = self.supervisor.drain(3.5)

        self.assertFalse(drained)
        self.assertEqual([1.0, 1.0, 1.0, 0.5], self.waits)
        self.assertEqual(3, self.monitor.hanging.call_count)


class Beats:
    """Heartbeats that the test sets."""

    def __init__(self) -> None:
        self.beats: dict[int, float] = {}

    def last_beat(self, slot: int) -> float:
        return self.beats.get(slot, 0.0)

    def clear_slot(self, slot: int) -> None:
        self.beats.pop(slot, None)


class WatchdogTest(unittest.TestCase):
    """With a clock of the test's own."""

    def setUp(self) -> None:
        super().setUp()
        self.now = 1000.0
        self.beats = Beats()
        self.manager = mock.Mock()
        # How often it was told.
        self.told = self.manager.feed_watchdog
        patched = mock.patch.object(watchdog_module, "watchdog_timeout", lambda: 30.0)
        patched.start()
        self.addCleanup(patched.stop)
        # No process has these numbers.
        self.workers = {1 << 30: WorkerProcess(0, 0, self.now, -1), (1 << 30) + 1: WorkerProcess(1, 1, self.now, -1)}
        self.watchdog = Watchdog(self.beats, self.manager, HeartbeatTimeouts(), clock=lambda: self.now)

    def pass_time(self, seconds: float, *beating: int) -> list[int]:
        """Look as often as it is due. Returns who is to be killed."""
        killed: list[int] = []
        end = self.now + seconds
        while self.now < end:
            self.now += self.watchdog.interval
            self.beats.beats.update(dict.fromkeys(beating, self.now))
            killed += self.watchdog.hanging(self.workers)
        return killed

    def test_silent_worker_is_killed_once_after_15_to_17_seconds(self) -> None:
        self.pass_time(10, 0, 1)

        self.assertEqual([], self.pass_time(13, 1))
        with self.assertLogs("filestoraged") as logged:
            self.assertEqual([1 << 30], self.pass_time(4, 1))
        self.assertEqual([], self.pass_time(30, 1))

        self.assertEqual(1, len(logged.output))
        self.assertRegex(logged.output[0], r"worker 1073741824 has not answered for 1[56] s; killing it")

    def test_starting_worker_has_60_seconds(self) -> None:
        self.assertEqual([], self.pass_time(58, 1))
        with self.assertLogs("filestoraged"):
            self.assertEqual([1 << 30], self.pass_time(4, 1))

    def test_manager_is_notified_while_one_worker_answers(self) -> None:
        self.pass_time(10, 0, 1)
        self.told.reset_mock()

        with self.assertLogs("filestoraged"):
            self.pass_time(40, 1)
        self.assertGreater(self.told.call_count, 10)
        with self.assertLogs("filestoraged"):
            self.pass_time(20)
        self.told.reset_mock()
        self.pass_time(20)

        self.told.assert_not_called()

    def test_states_that_the_manager_has_not_read_are_sent_again_at_each_check(self) -> None:
        self.pass_time(3)

        self.assertEqual(3, self.manager.flush.call_count)

    def test_manager_without_a_watchdog_is_not_notified(self) -> None:
        with mock.patch.object(watchdog_module, "watchdog_timeout", lambda: math.inf):
            self.watchdog = Watchdog(self.beats, self.manager, HeartbeatTimeouts(), clock=lambda: self.now)

        self.pass_time(40, 0, 1)

        self.told.assert_not_called()

    def test_silent_worker_that_is_traced_is_not_killed(self) -> None:
        self.pass_time(10, 0, 1)

        with (
            mock.patch("filestoraged.daemon.watchdog._tracer", lambda _: 42),
            self.assertLogs("filestoraged") as logged,
        ):
            self.assertEqual([], self.pass_time(40, 1))

        self.assertEqual(1, len(logged.output))
        self.assertIn("process 42 traces it", logged.output[0])

    def test_heartbeats_before_a_pause_of_the_master_are_ignored(self) -> None:
        self.pass_time(10, 0, 1)

        self.now += 3600

        self.assertEqual([], self.pass_time(14))
        with self.assertLogs("filestoraged"):
            self.assertEqual(list(self.workers), self.pass_time(4))


def status(pid: int) -> str:
    with open(f"/proc/{pid}/status", encoding="ascii") as stream:
        return stream.read()
