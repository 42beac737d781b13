"""A master and its workers over a table of processes: time passes only while the master waits."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from dataclasses import replace

from filestoraged.daemon.processes import RELOAD_SIGNAL
from filestoraged.daemon.supervisor import StopRequested
from tests.daemon.process_table import Behaviour, MasterDied, ProcessTable
from tests.daemon.supervision import DIES, DRAIN_TIMEOUT, HANGS, Group, SupervisorCase


class StartTest(SupervisorCase):
    def test_start_returns_when_all_workers_serve(self) -> None:
        self.assertEqual([True, True], [worker.serves for worker in self.table.alive])

    def test_start_does_not_wait_for_a_worker_that_dies(self) -> None:
        self.boot()
        self.table.behaviour = DIES

        self.supervisor.start()

        self.assertAlmostEqual(1000.0625, self.table.time)

    def test_signal_to_stop_ends_a_start_that_waits_and_stays_pending(self) -> None:
        self.boot()
        self.table.behaviour = HANGS
        self.at(5, self.table.send, signal.SIGINT)

        self.assertRaises(StopRequested, self.supervisor.start)

        self.assertEqual(signal.SIGINT, self.supervisor.run())


class DeadWorkersTest(SupervisorCase):
    count = 4

    def test_workers_that_die_together_are_replaced_together(self) -> None:
        self.run_for(10)
        self.kill(*self.table.alive)

        self.run_for(0.15)

        self.assertEqual([(0, 0), (1, 1), (2, 2), (3, 3)], [(each.number, each.slot) for each in self.table.alive])
        self.assertTrue(all(each.serves for each in self.table.alive))
        self.assertEqual([f"worker {pid} died after 10.1 s: SIGKILL" for pid in range(101, 105)], self.errors())

    def test_orphan_that_ends_is_reaped_and_replaced_by_nothing(self) -> None:
        before = self.table.alive
        self.table.add_orphan()

        self.run_for(1)

        self.assert_alive(*before)
        self.assertIsNone(self.table.reap())

    def test_worker_that_exits_by_itself_without_an_error_is_replaced(self) -> None:
        self.table.at(1, lambda: self.table.kill(101, signal.SIGTERM))

        self.run_for(2)

        self.assertEqual([102, 103, 104, 105], [each.pid for each in self.table.alive])

    def test_workers_are_complete_after_a_burst_of_kills(self) -> None:
        for round_ in range(40):
            self.at(round_ * 0.3, lambda: self.kill(*self.table.alive))

        self.run_for(40 * 0.3 + 3.1)

        self.assertEqual({0, 1, 2, 3}, {each.number for each in self.table.alive})
        self.assertEqual(len(self.table.workers) - 4, len(self.errors()))


class ForkPauseTest(SupervisorCase):
    count = 1

    def forks(self, seconds: float) -> list[float]:
        """Let time pass; return when workers were forked."""
        began, before = self.table.time, len(self.table.forks)
        self.run_for(seconds)
        return [round(each - began, 2) for each in self.table.forks[before:]]

    def kill_late(self, behaviour: Behaviour) -> None:
        """Kill the workers, which have run for 11 s. Those that are forked then behave so."""
        self.run_for(11)
        self.table.behaviour = behaviour
        self.kill(*self.table.alive)

    def test_worker_that_dies_after_10_seconds_is_replaced_at_once(self) -> None:
        self.kill_late(Behaviour())

        self.assertEqual([0.0], self.forks(20))
        self.errors()

    def test_worker_that_dies_younger_is_replaced_0_2_seconds_after_its_fork(self) -> None:
        self.kill(*self.table.alive)

        self.assertEqual([0.1], self.forks(20))
        self.errors()

    def test_pause_between_forks_doubles_from_0_1_to_3_seconds_while_workers_die(self) -> None:
        self.kill_late(DIES)

        self.assertEqual([0.0, 0.2, 0.6, 1.4, 3.0, 6.0, 9.0, 12.0], self.forks(13))
        self.table.behaviour = Behaviour()
        self.assertEqual([2.0], self.forks(20))
        self.kill(*self.table.alive)
        self.assertEqual([0.0], self.forks(20))
        self.errors()

    def test_fork_that_the_system_refuses_is_tried_again_within_a_second(self) -> None:
        self.table.refuses_forks = True
        self.kill_late(Behaviour())

        self.assertEqual([0.0, 0.9], self.forks(1))
        self.table.refuses_forks = False
        self.run_for(1)

        self.assertEqual(1, len(self.table.alive))
        refused = ["cannot start a worker: Resource temporarily unavailable"] * 2
        self.assertEqual(["worker 101 died after 11.1 s: SIGKILL", *refused], self.errors())

    def test_all_missing_workers_are_forked_together(self) -> None:
        self.group.count = 4
        self.kill_late(DIES)

        self.assertEqual([0.0] * 4 + [0.2] * 4, self.forks(0.5)[-8:])
        self.errors()


class ReplacementTest(SupervisorCase):
    def setUp(self) -> None:
        super().setUp()
        self.former = self.table.alive

    def replace(self) -> tuple[bool, float]:
        """Replace the workers. Returns whether they were replaced, and how many seconds it took."""
        began = self.table.time
        return self.supervisor.replace(Group(2)), round(self.table.time - began, 1)

    def counts(self, seconds: float, every: float) -> list[int]:
        """Schedule counts of the workers that serve and accept. Returns a list that gets them."""
        counts: list[int] = []
        for step in range(round(seconds / every)):
            self.at(
                step * every, lambda: counts.append(sum(each.serves and each.has_pipe for each in self.table.alive))
            )
        return counts

    def test_workers_are_replaced_one_after_the_other_and_their_number_accepts_at_any_time(self) -> None:
        accepting = self.counts(1.0, 0.01)
        group = Group(2)

        self.assertTrue(self.supervisor.replace(group))
        self.run_for(5)

        self.assertEqual([group, group], [each.group for each in self.table.alive])
        self.assertEqual([(0, 2), (1, 3)], [(each.number, each.slot) for each in self.table.alive])
        self.assertGreaterEqual(min(accepting), 2)
        self.assertEqual([[signal.SIGTERM]] * 2, [each.signals for each in self.former])

    def test_group_of_another_size_replaces_all_former_workers(self) -> None:
        for count in (4, 1, 3):
            with self.subTest(count=count):
                group = Group(count)
                self.assertTrue(self.supervisor.replace(group))
                self.assertEqual(count, sum(each.group is group and each.serves for each in self.table.alive))
                self.run_for(20)

                self.assertEqual(list(range(count)), sorted(each.number for each in self.table.alive))

    def test_worker_that_dies_after_a_replacement_is_replaced_with_the_new_group(self) -> None:
        group = Group(2)
        self.supervisor.replace(group)
        self.run_for(20)
        self.kill(*self.table.alive)

        self.run_for(5)

        self.assertEqual([group, group], [each.group for each in self.table.alive])
        self.assertEqual(2, len(self.errors()))

    def test_replacement_is_complete_when_the_former_workers_have_stopped_accepting(self) -> None:
        self.behave(stop_accepting=3.0, drain=30.0)

        # The last of them was told after 0.2 s, when the second new worker served.
        self.assertEqual((True, 3.2), self.replace())

        self.assertEqual([False, False], [each.has_pipe for each in self.former])
        self.assertEqual(4, len(self.table.alive))

    def test_former_workers_that_go_on_accepting_are_reported_after_5_seconds(self) -> None:
        self.behave(stop_accepting=9.0, drain=10.0)

        self.assertEqual((True, 5.3), self.replace())

        text = "worker %d may still accept connections by the former configuration"
        self.assertEqual([text % each.pid for each in self.former], self.errors())

    def test_former_worker_that_dies_is_not_waited_for(self) -> None:
        self.behave(stop_accepting=4.0, drain=30.0)
        self.at(1, self.kill, *self.former)

        self.assertEqual((True, 1.0), self.replace())

        self.run_for(1)
        self.assertEqual(2, len(self.errors()))

    def test_former_worker_that_dies_before_its_turn_gets_no_signal(self) -> None:
        self.at(0.02, self.kill, self.former[1])

        self.assertTrue(self.supervisor.replace(Group(2)))

        self.assertEqual([signal.SIGKILL], self.former[1].signals)
        self.assertEqual(["worker 102 died after 0.1 s: SIGKILL"], self.errors())

    def test_former_worker_that_exceeds_its_drain_is_killed_while_the_others_serve(self) -> None:
        self.behave(drain=math.inf, death=5.0)
        self.supervisor.replace(Group(2))

        self.run_for(34)
        self.assertEqual([[signal.SIGTERM]] * 2, [each.signals for each in self.former])
        self.run_for(10)

        self.assertEqual([[signal.SIGTERM, signal.SIGKILL]] * 2, [each.signals for each in self.former])
        self.assertEqual(2, len(self.table.alive))
        first, second, *others = self.errors()
        self.assertEqual("worker 101 exceeded its drain deadline (35 s); killing it", first)
        self.assertEqual("worker 102 exceeded its drain deadline (35 s); killing it", second)
        self.assertRegex("\n".join(others), r"^worker 101 died .*: SIGKILL\nworker 102 died .*: SIGKILL$")

    def test_draining_worker_whose_loop_hangs_has_its_drain_deadline(self) -> None:
        self.behave(drain=30.0)
        self.supervisor.replace(Group(2))
        for each in self.former:
            self.table.hang(each)

        self.run_for(40)

        self.assertEqual([[signal.SIGTERM]] * 2, [each.signals for each in self.former])

    def test_first_new_worker_that_does_not_serve_is_killed_and_the_former_group_stays(self) -> None:
        for behaviour, seconds, cause in ((HANGS, 20.0, "20.0 s: SIGKILL"), (DIES, 0.1, "0.1 s: exit status 3")):
            with self.subTest(behaviour=behaviour):
                self.table.behaviour = behaviour

                self.assertEqual((False, seconds), self.replace())

                self.run_for(5)
                self.assert_alive(*self.former)
                pid = self.table.workers[-1].pid
                lines = [f"worker {pid} did not begin to serve; killing it", f"worker {pid} died after {cause}"]
                self.assertEqual(lines, self.errors())

    def test_new_worker_that_the_system_refuses_leaves_the_former_group(self) -> None:
        self.table.refuses_forks = True

        self.assertFalse(self.supervisor.replace(Group(2)))

        self.run_for(5)
        self.assert_alive(*self.former)
        self.assertEqual(["cannot start a worker: Resource temporarily unavailable"], self.errors())

    def test_later_new_worker_that_does_not_serve_is_replaced_within_the_new_group(self) -> None:
        group = Group(2)
        self.at(0.05, setattr, self.table, "behaviour", DIES)
        self.at(1.0, setattr, self.table, "behaviour", Behaviour())

        self.assertTrue(self.supervisor.replace(group))
        self.run_for(5)

        self.assertEqual([group, group], [each.group for each in self.table.alive])
        self.assertTrue(all(each.serves for each in self.table.alive))
        self.errors()

    def test_replacement_without_slots_is_refused_while_former_workers_drain(self) -> None:
        self.behave(drain=30.0)
        self.assertTrue(self.supervisor.replace(Group(2)))

        self.assertFalse(self.supervisor.replace(Group(3)))

        self.assertEqual(["cannot replace the workers: 2 former ones still drain"], self.errors())
        self.run_for(31)
        self.assertTrue(self.supervisor.replace(Group(3)))

    def test_worker_that_hangs_while_a_replacement_waits_is_killed_then_and_replaced_later(self) -> None:
        hanging = self.former[0]
        self.run_for(10)
        self.table.behaviour = HANGS
        self.table.hang(hanging)
        forks = len(self.table.forks)

        self.assertFalse(self.supervisor.replace(Group(2)))

        self.assertFalse(hanging.is_alive)
        self.assertEqual(1, len(self.table.forks) - forks)
        self.table.behaviour = Behaviour()
        self.run_for(5)
        self.assertEqual([(1, self.group), (0, self.group)], [(each.number, each.group) for each in self.table.alive])
        self.assertRegex(self.errors()[0], r"^worker 101 has not answered for 1[56] s; killing it$")

    def test_signal_to_stop_ends_a_replacement_that_waits_and_kills_the_new_worker(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number=number):
                self.table.behaviour = HANGS
                began = self.table.time
                self.at(1, self.table.send, number)

                self.assertRaises(StopRequested, self.supervisor.replace, Group(2))

                self.assertAlmostEqual(1.0, self.table.time - began, delta=0.06)
                self.assertEqual([signal.SIGKILL], self.table.workers[-1].signals)
                self.assertEqual(number, self.supervisor.run())
                self.errors()

    def test_signal_to_stop_ends_a_wait_for_something_else(self) -> None:
        self.at(1, self.table.send, signal.SIGTERM)

        self.assertRaises(StopRequested, self.supervisor.wait_for, lambda seconds: self.table._wait(seconds, bool))

    def test_wait_for_something_else_ends_at_its_time_out(self) -> None:
        began = self.table.time

        self.assertFalse(self.supervisor.wait_for(lambda seconds: self.table._wait(seconds, bool), 7.0))

        self.assertAlmostEqual(7.0, self.table.time - began, delta=0.06)


class DrainTest(SupervisorCase):
    def drain(self, timeout: float = DRAIN_TIMEOUT) -> tuple[bool, float]:
        """Drain. Returns whether all workers did, and how many seconds it took."""
        began = self.table.time
        return self.supervisor.drain(timeout), round(self.table.time - began, 2)

    def test_workers_that_drain_end_it(self) -> None:
        self.behave(drain=7.0)
        workers = self.table.alive

        self.assertEqual((True, 7.0), self.drain())

        self.assertEqual(([], [[signal.SIGTERM]] * 2), (self.table.alive, [each.signals for each in workers]))
        self.assertRaises(ChildProcessError, self.table.reap)

    def test_worker_that_ignores_sigterm_is_killed_at_the_deadline(self) -> None:
        ignoring = self.table.alive[0]
        ignoring.behaviour = replace(ignoring.behaviour, drain=math.inf)

        self.assertEqual((False, 20.0), self.drain(20.0))

        self.assertEqual([], self.table.alive)

    def test_worker_that_exceeds_the_drain_of_a_former_replacement_is_killed_meanwhile(self) -> None:
        self.behave(drain=math.inf)
        self.supervisor.replace(Group(2))
        self.run_for(30)
        self.behave(drain=20.0)

        self.assertEqual(True, self.drain()[0])

        self.assertEqual(2, sum("exceeded its drain deadline" in line for line in self.errors()))

    def test_second_signal_to_stop_kills_the_workers_and_the_master(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number=number):
                self.behave(drain=30.0)
                self.at(5, self.table.send, number)

                with self.assertRaises(MasterDied) as raised:
                    self.drain()

                self.assertEqual(((number,), []), (raised.exception.args, self.table.alive))
                self.boot()
                self.supervisor.start()

    def test_sighup_and_dead_workers_do_not_end_a_drain(self) -> None:
        self.behave(drain=7.0)
        self.at(1, self.table.send, RELOAD_SIGNAL)
        self.at(2, self.table.add_orphan)

        self.assertEqual((True, 7.0), self.drain())

    def test_manager_is_told_nothing_more_by_the_watchdog_and_its_states_are_sent(self) -> None:
        self.behave(drain=7.0)
        self.manager.told.clear()
        self.manager.reads = False
        self.manager.report_stopping("Finishing")
        self.at(3, setattr, self.manager, "reads", True)

        self.drain()

        self.assertEqual(["STOPPING=1\nSTATUS=Finishing"], [message for _, message in self.manager.told])
        self.errors()

    def test_monitor_is_called_at_its_interval(self) -> None:
        self.boot()
        monitor = CountingMonitor(self.table)
        self.supervisor = self.make_supervisor(monitor)
        self.supervisor.start()
        self.behave(drain=math.inf)
        began = self.table.time

        self.assertFalse(self.supervisor.drain(3.5))

        self.assertEqual([0.9, 1.9, 2.9], [round(each - began, 2) for each in monitor.calls])


class CountingMonitor:
    interval = 1.0

    def __init__(self, table: ProcessTable) -> None:
        self.calls: list[float] = []
        self._table = table

    def hanging(self, workers: object) -> Sequence[int]:
        self.calls.append(self._table.time)
        return ()

    def release(self, slot: int) -> None: ...
