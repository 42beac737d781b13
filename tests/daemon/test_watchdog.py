"""Workers whose loop hangs are killed, and the service manager is notified for as long as one of them answers."""

from __future__ import annotations

import itertools
import signal

from tests.daemon.process_table import Behaviour
from tests.daemon.supervision import DIES, HANGS, SupervisorCase


class HangingWorkersTest(SupervisorCase):
    def test_worker_whose_loop_hangs_is_killed_and_replaced_with_one_line(self) -> None:
        hanging, other = self.table.alive
        self.behave(death=5.0)
        self.at(100, self.table.hang, hanging)

        self.run_for(114.5)
        self.assertEqual([], hanging.signals)
        self.run_for(9)

        self.assertEqual([signal.SIGKILL], hanging.signals)
        self.assertEqual([other.pid, 103], [each.pid for each in self.table.alive])
        first, second = self.errors()
        self.assertRegex(first, rf"^worker {hanging.pid} has not answered for 1[56] s; killing it$")
        self.assertRegex(second, rf"^worker {hanging.pid} died after 120\.\d s: SIGKILL$")

    def test_worker_that_hangs_in_the_place_of_one_that_hung_is_killed_too(self) -> None:
        self.table.hang(self.table.alive[0])
        self.run_for(20)

        self.table.hang(self.table.alive[1])
        self.run_for(20)

        self.assertEqual([102, 104], [each.pid for each in self.table.alive])
        self.assertEqual(4, len(self.errors()))

    def test_stopped_worker_is_killed_and_one_that_is_continued_in_time_is_not(self) -> None:
        stopped, continued = self.table.alive
        for worker in (stopped, continued):
            self.at(100, self.table.kill, worker.pid, signal.SIGSTOP)
        self.at(114, self.table.kill, continued.pid, signal.SIGCONT)

        self.run_for(140)

        self.assertEqual([continued.pid, 103], [each.pid for each in self.table.alive])
        self.assertEqual(2, len(self.errors()))

    def test_worker_that_does_not_begin_to_serve_is_killed_after_60_seconds(self) -> None:
        self.run_for(10)
        self.table.behaviour = HANGS
        self.kill(self.table.alive[0])

        self.run_for(59)
        self.assertEqual(2, len(self.table.alive))
        self.table.behaviour = Behaviour()
        self.run_for(3)

        self.assertTrue(all(worker.serves for worker in self.table.alive))
        self.assertRegex(self.errors()[1], r"^worker 103 has not begun to serve for 6[01] s; killing it$")

    def test_traced_worker_is_not_killed_and_reported_once(self) -> None:
        traced, other = self.table.alive
        self.table.tracers[traced.pid] = 77
        self.at(100, self.table.kill, traced.pid, signal.SIGSTOP)

        self.run_for(200)

        self.assert_alive(traced, other)
        (line,) = self.errors()
        self.assertRegex(line, r"^worker 101 has not answered for 1\d s; process 77 traces it, so it is not killed$")

    def test_worker_that_answers_again_is_killed_when_it_hangs_without_a_tracer(self) -> None:
        traced = self.table.alive[0]
        self.table.tracers[traced.pid] = 77
        self.at(0, self.table.kill, traced.pid, signal.SIGSTOP)
        self.run_for(20)

        self.table.tracers.clear()
        self.at(0, self.table.kill, traced.pid, signal.SIGCONT)
        self.at(10, self.table.kill, traced.pid, signal.SIGSTOP)
        self.run_for(30)

        self.assertFalse(traced.is_alive)
        self.assertEqual(3, len(self.errors()))

    def test_no_worker_is_killed_after_the_master_was_suspended_alone(self) -> None:
        before = self.table.alive
        self.at(10, self.table.suspend_master, 3600)

        self.run_for(3700)

        self.assert_alive(*before)

    def test_no_worker_is_killed_after_the_whole_group_was_suspended(self) -> None:
        before = self.table.alive
        self.at(10, self.table.suspend_master, 3600)
        for worker in before:
            self.at(10, self.table.kill, worker.pid, signal.SIGSTOP)
            # The master finds old heartbeats first.
            self.at(3610 + 10, self.table.kill, worker.pid, signal.SIGCONT)

        self.run_for(3700)

        self.assert_alive(*before)

    def test_worker_that_stays_stopped_after_a_suspension_is_killed_15_seconds_later(self) -> None:
        before = self.table.alive
        self.at(10, self.table.suspend_master, 3600)
        for worker in before:
            self.at(10, self.table.kill, worker.pid, signal.SIGSTOP)

        self.run_for(3624)
        self.assert_alive(*before)
        self.run_for(3)

        self.assertFalse(any(worker.is_alive for worker in before))
        self.assertEqual(4, len(self.errors()))


class NotificationsTest(SupervisorCase):
    environment = {"NOTIFY_SOCKET": "@none", "WATCHDOG_USEC": "2000000"}

    def told(self, seconds: float) -> list[str]:
        """Let time pass; return what the service manager was told."""
        self.manager.told.clear()
        self.run_for(seconds)
        return [message for _, message in self.manager.told]

    def test_manager_is_notified_as_long_as_one_worker_answers(self) -> None:
        hanging, other = self.table.alive
        self.table.tracers = {hanging.pid: 77, other.pid: 77}
        self.at(100, self.table.hang, hanging)
        self.at(200, self.table.hang, other)

        self.assertEqual({"WATCHDOG=1"}, set(self.told(214)))
        times = [when for when, _ in self.manager.told]
        self.told(3)
        self.assertEqual([], self.told(100))

        # The manager waits for 2 s.
        self.assertLess(max(later - former for former, later in itertools.pairwise(times)), 0.51)
        self.assertEqual(2, len(self.errors()))

    def test_manager_is_notified_when_the_master_continues_after_a_suspension(self) -> None:
        self.at(10, self.table.suspend_master, 3600)
        for worker in self.table.alive:
            self.at(10, self.table.kill, worker.pid, signal.SIGSTOP)
            self.at(3610 + 10, self.table.kill, worker.pid, signal.SIGCONT)
        self.told(3000)

        self.assertEqual(["WATCHDOG=1"], self.told(0.1))

    def test_manager_is_not_notified_while_all_workers_die_or_hang_at_their_start(self) -> None:
        for behaviour in (DIES, HANGS):
            with self.subTest(behaviour=behaviour):
                self.boot()
                self.supervisor.start()
                self.run_for(10)
                self.table.behaviour = behaviour
                self.kill(*self.table.alive)
                self.run_for(1)
                self.at(10, self.table.suspend_master, 20)

                self.assertEqual([], self.told(45))
                self.errors()

    def test_manager_that_does_not_read_delays_nothing_and_gets_its_state_at_the_next_check(self) -> None:
        self.manager.reads = False
        self.manager.report_ready("Serving")
        self.kill(self.table.alive[0])
        self.assertEqual([], self.told(5))
        self.assertEqual(2, len(self.table.alive))
        self.assertEqual(
            ["the service manager does not read notifications; READY=1 waits", "worker 101 died after 0.1 s: SIGKILL"],
            self.errors(),
        )

        self.manager.reads = True

        self.assertEqual(["READY=1\nSTATUS=Serving", "WATCHDOG=1"], self.told(1.1)[:2])


class UnwatchedTest(SupervisorCase):
    environment = {"NOTIFY_SOCKET": "@none"}

    def test_manager_without_a_watchdog_is_not_notified(self) -> None:
        self.run_for(100)

        self.assertEqual([], self.manager.told)
