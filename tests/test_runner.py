"""The test runner: its counts, and its reports of tests that fail, die or hang."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import unittest
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

from tests.daemon.process import ROOT, clean_environment
from tests.runner import real_time
from tests.runner.marks import alone, thorough
from tests.runner.programs import may_start_programs
from tests.runner.real_time import LIST, Stopwatch, _stalled_seconds, is_listed
from tests.runner.units import Unit, fast_only, group, load_tests_named, shuffled
from tests.runner.zygote import ForkedProcess, Main, Zygote
from tests.support import PATIENCE, TempCase


class RunnerCase(TempCase):
    def run_tests(self, source: str, *arguments: str, status: int = 1) -> subprocess.CompletedProcess[str]:
        """Run the tests of a module with this source."""
        (self.directory / "test_sample.py").write_text(f"import unittest\n{textwrap.dedent(source)}")
        environment = {**clean_environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{self.directory}"}
        command = [sys.executable, "-m", "tests", *arguments, "test_sample"]
        done = subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(status, done.returncode, done.stderr)
        return done


class CountTest(RunnerCase):
    def test_skipped_tests_and_failed_fixtures_count_as_failed_and_subtests_as_one(self) -> None:
        done = self.run_tests(
            """
            class Test(unittest.TestCase):
                def test_passes(self): pass
                def test_is_skipped(self): self.skipTest("no reason")
                def test_fails_twice(self):
                    for number in (1, 2):
                        with self.subTest(number=number): self.assertEqual(0, number)
                @unittest.expectedFailure
                def test_succeeds_unexpectedly(self): pass

            class Broken(unittest.TestCase):
                @classmethod
                def setUpClass(cls): raise OSError("no fixture")
                def test_is_not_reached(self): pass
            """
        )

        self.assertEqual("1 passed, 4 failed\n", done.stdout)
        for expected in ("FAIL: test_sample.Test.test_fails_twice (number=2)", "no reason", "OSError: no fixture"):
            self.assertIn(expected, done.stderr)

    def test_passing_tests_end_with_status_0_and_print_no_output_of_theirs(self) -> None:
        source = 'class Test(unittest.TestCase):\n    def test_prints(self): print("noise")'

        quiet = self.run_tests(source, status=0)
        verbose = self.run_tests(source, "-v", status=0)

        self.assertEqual("1 passed, 0 failed\n", quiet.stdout)
        self.assertNotIn("noise", quiet.stderr)
        self.assertIn("noise", verbose.stderr)
        self.assertIn("ok test_sample.Test.test_prints", verbose.stderr)

    def test_run_without_a_test_fails(self) -> None:
        self.assertEqual("0 passed, 0 failed\n", self.run_tests("").stdout)


class DeathTest(RunnerCase):
    def test_test_whose_process_dies_fails_by_name_and_the_rest_of_its_class_runs(self) -> None:
        done = self.run_tests(
            """
            import os
            class Test(unittest.TestCase):
                def test_a(self): pass
                def test_b(self): os.kill(os.getpid(), 9)
                def test_c(self): pass
            """
        )

        self.assertEqual("2 passed, 1 failed\n", done.stdout)
        self.assertIn("DIED: test_sample.Test.test_b", done.stderr)
        self.assertIn("SIGKILL", done.stderr)

    def test_test_over_its_time_limit_fails_by_name_with_the_stacks_of_its_threads(self) -> None:
        done = self.run_tests(
            """
            import threading
            class Test(unittest.TestCase):
                def test_a(self): pass
                def test_hangs(self): threading.Event().wait()
                def test_z(self): pass
            """,
            *("--limit", "6"),
        )

        self.assertEqual("2 passed, 1 failed\n", done.stdout)
        self.assertIn("DIED: test_sample.Test.test_hangs", done.stderr)
        self.assertIn("exceeded its time limit (6 s)", done.stderr)
        self.assertIn("in test_hangs", done.stderr)

    def test_orphaned_programs_of_a_test_are_killed_and_delay_nothing(self) -> None:
        done = self.run_tests(
            """
            import os, pathlib
            class Test(unittest.TestCase):
                def test_loses(self):
                    lost = os.fork()
                    if not lost: os.execvp("sleep", ["sleep", "900"])
                    pathlib.Path("lost").write_text(str(lost))
            """,
            status=0,
        )

        lost = int((self.directory / "lost").read_text())
        self.assertEqual("1 passed, 0 failed\n", done.stdout)
        self.wait_until("it is gone", lambda: not is_alive(lost))


class FastTest(RunnerCase):
    def test_tests_are_judged_by_the_programs_that_they_and_their_helpers_start(self) -> None:
        starting = self.some_test(DeathTest)
        harmless = self.some_test(Lone)

        self.assertEqual([True, False], [may_start_programs(test) for test in (starting, harmless)])
        self.assertEqual([harmless], fast_only([starting, harmless]))

    def some_test(self, case: type[TempCase]) -> TempCase:
        return case(next(name for name in dir(case) if name.startswith("test_")))

    def test_undeclared_program_is_not_started(self) -> None:
        done = self.run_tests(
            """
            import os
            from filestoraged.cli.main import main
            from tests.runner.zygote import Zygote
            class Test(unittest.TestCase):
                def test_starts(self): os.posix_spawn("/bin/true", ["true"], {})
                def test_forks(self): Zygote.start().fork(main, ["--help"], cwd=".", environment={}, stderr=2)
            """,
            "--fast",
        )

        self.assertEqual("0 passed, 2 failed\n", done.stdout)
        self.assertIn("os.posix_spawn '/bin/true' under --fast", done.stderr)
        self.assertIn("tests.zygote.fork ['--help'] under --fast", done.stderr)


class LongTierTest(RunnerCase):
    SOURCE = """
        from time import sleep
        from tests.runner.marks import long
        class Test(unittest.TestCase):
            def test_short(self): pass
            @long("it sleeps")
            def test_long(self): sleep(0)
        @long("so do they")
        class LongTest(unittest.TestCase):
            def test_long(self): sleep(0)
        """

    def test_thorough_tests_are_left_out_of_the_fast_tier(self) -> None:
        class Both(unittest.TestCase):
            @thorough("many inputs")
            def test_thorough(self) -> None: ...

            def test_brief(self) -> None: ...

        tests = [Both("test_thorough"), Both("test_brief")]

        self.assertEqual(tests[1:], fast_only(tests))

    def test_long_tests_run_and_may_sleep_where_they_are_asked_for_and_are_left_out_elsewhere(self) -> None:
        short, both = self.run_tests(self.SOURCE, status=0), self.run_tests(self.SOURCE, "--long", status=0)

        self.assertEqual(["1 passed, 0 failed\n", "3 passed, 0 failed\n"], [short.stdout, both.stdout])


class RealTimeTest(RunnerCase):
    def test_test_that_sleeps_fails_and_what_it_calls_may_sleep(self) -> None:
        done = self.run_tests(
            """
            import threading
            from time import sleep
            from tests.runner.real_time import RefusedSleepError
            library = {"__name__": "library"}
            exec("from time import sleep\\ndef wait(): sleep(0.001)", library)
            class Test(unittest.TestCase):
                def test_sleeps(self): sleep(0.001)
                def test_calls(self): library["wait"]()
                def test_waits(self): threading.Event().wait(0.001)
            """
        )

        self.assertEqual("2 passed, 1 failed\n", done.stdout)
        self.assertIn("RefusedSleepError: test_sample sleeps for 0.001 s", done.stderr)

    def test_slow_test_is_named_and_fails_where_slow_tests_are_refused(self) -> None:
        # Without a machine that is idle for two seconds.
        source = """
            from tests.runner import process
            class Test(unittest.TestCase):
                def test_quick(self): pass
                def test_slow(self): process.Stopwatch.own = lambda stopwatch: 2.5
            """

        named, refused = self.run_tests(source, status=0), self.run_tests(source, "--refuse-slow")

        self.assertIn("test_sample.Test.test_slow took 2.5 s; a test that takes more than 2 s is listed", named.stderr)
        self.assertEqual("1 passed, 1 failed\n", refused.stdout)
        self.assertIn("SLOW: test_sample.Test.test_slow", refused.stderr)

    def test_time_that_processes_wait_for_a_busy_machine_is_not_the_tests(self) -> None:
        stalls = iter([100.0, 107.0])
        with (
            mock.patch.object(real_time, "_stalled_seconds", lambda: next(stalls)),
            mock.patch.object(real_time, "time", mock.Mock(monotonic=mock.Mock(side_effect=[50.0, 60.0]))),
            # A machine half as slow again.
            mock.patch.object(real_time, "_pace", lambda: 1.5),
        ):
            self.assertEqual(2.0, Stopwatch().own())

    def test_stalls_are_read_from_the_kernel(self) -> None:
        before = _stalled_seconds()

        self.assertGreaterEqual(_stalled_seconds(), before)

    def test_slow_tests_that_are_listed_exist(self) -> None:
        lines = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]

        self.assertEqual([], [line for line in lines if len(line.split()) < 2])
        for line in lines:
            with self.subTest(line=line):
                tests = load_tests_named([line.split()[0]])
                self.assertTrue(tests)
                self.assertFalse([test for test in tests if "Failed" in type(test).__name__])
                self.assertTrue(all(is_listed(test.id()) for test in tests))


class SharedServerTest(RunnerCase):
    SOURCE = """
        import os, pathlib
        from tests.runner.marks import alone
        from tests.runner.shared import shared

        def start():
            with open("started", "a") as file: print(os.getpid(), file=file)
            return [os.getpid()], lambda: pathlib.Path("ended").touch()

        def fail(): raise OSError("no port")

        def use():
            with open("used", "a") as file: print(*shared("server", start), file=file)

        class FirstTest(unittest.TestCase):
            def test_uses(self):
                use()
                use()
        @alone
        class SecondTest(unittest.TestCase):
            def test_uses(self): use()
        """

    def words(self, name: str) -> list[str]:
        return (self.directory / name).read_text().split()

    def test_server_is_started_once_for_all_units_and_ended_with_the_run(self) -> None:
        self.run_tests(self.SOURCE, status=0)

        (keeper,) = self.words("started")
        self.assertEqual([keeper] * 3, self.words("used"))
        self.assertTrue((self.directory / "ended").exists())
        self.assertFalse(is_alive(int(keeper)))

    def test_server_that_does_not_start_fails_the_test_with_the_reason_in_the_output(self) -> None:
        done = self.run_tests(self.SOURCE.replace('"server", start', '"server", fail'))

        self.assertEqual("0 passed, 2 failed\n", done.stdout)
        self.assertIn("AssertionError: server does not start", done.stderr)
        self.assertIn("OSError: no port", done.stderr)

    def test_server_ends_when_the_runner_is_killed(self) -> None:
        kill = 'os.kill(int(os.environ["TESTS_SHARED_RUNNER"]), 9)'
        self.run_tests(self.SOURCE.replace("use()\n                use()", f"use(); {kill}"), status=-9)

        self.wait_until("it has ended", (self.directory / "ended").exists)


class OrderTest(TempCase):
    def test_units_are_classes_the_longest_first_and_those_that_run_alone_last(self) -> None:
        durations = {test.id(): 1.0 for test in (*self.some(FastTest), *self.some(CountTest))}
        durations[self.id()] = 5.0

        units = group([*self.some(Lone), *self.some(FastTest), *self.some(CountTest), self], durations)

        names = [type(self), CountTest, FastTest, Lone]
        self.assertEqual([f"{__name__}.{each.__name__}" for each in names], [unit.name for unit in units])
        self.assertEqual([False, False, False, True], [unit.runs_alone for unit in units])

    def test_order_by_a_seed_is_random_and_the_same_each_time_and_keeps_classes_together(self) -> None:
        classes = (FastTest, CountTest, DeathTest, RealTimeTest)
        units = [Unit("some", tuple(test for each in classes for test in self.some(each)), runs_alone=False)]
        units += [Unit(f"{number}", (self,), runs_alone=False) for number in range(8)]
        units.insert(0, Unit("alone", tuple(self.some(Lone)), runs_alone=True))

        first, again, other = (shuffled(units, seed) for seed in ("1", "1", "2"))

        self.assertEqual(first, again)
        self.assertNotEqual(first, other)
        self.assertEqual(["alone"] * 2, [first[-1].name, other[-1].name])
        (some,) = [unit for unit in first if unit.name == "some"]
        self.assertEqual(set(units[1].tests), set(some.tests))
        self.assertNotEqual(units[1].tests, some.tests)
        self.assertEqual(4, len([name for name, _ in itertools.groupby(some.tests, type)]))

    def some(self, case: type[TempCase]) -> list[TempCase]:
        return [case(name) for name in dir(case) if name.startswith("test_")]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for has no command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False


@alone
class Lone(TempCase):
    def test_marked_class_runs_alone(self) -> None:
        self.assertTrue(group([self], {})[0].runs_alone)


class ZygoteTest(TempCase):
    """Processes that the zygote of this unit forks."""

    def fork(self, main: Main, *arguments: str) -> ForkedProcess:
        with (self.directory / "errors").open("w") as errors:
            return Zygote.start().fork(
                main, arguments, cwd=self.directory, environment={"NAME": "value"}, stderr=errors.fileno()
            )

    def test_process_has_its_arguments_directory_and_environment_and_no_thread_patch_or_file_of_the_test(self) -> None:
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()

        with mock.patch("os.getcwd"):
            status = self.fork(_describe, "tea").wait(PATIENCE)

        done.set()
        thread.join()
        self.assertEqual(0, status, (self.directory / "errors").read_text())
        self.assertEqual(
            f"['tea'] {self.directory} {{'NAME': 'value'}} 1 [0, 1, 2]", (self.directory / "described").read_text()
        )

    def test_exit_status_is_that_of_main_or_of_the_signal(self) -> None:
        hanging = self.fork(_hang)
        self.assertIsNone(hanging.poll())
        hanging.send_signal(signal.SIGKILL)

        self.assertEqual(-signal.SIGKILL, hanging.wait(PATIENCE))
        self.assertEqual(7, self.fork(_fail).wait(PATIENCE))
        # It is none any more.
        hanging.kill()

    def test_exception_is_printed_and_ends_the_process_with_status_70(self) -> None:
        self.assertEqual(70, self.fork(_raise).wait(PATIENCE))
        self.assertIn("ValueError: tea", (self.directory / "errors").read_text())


def _describe(arguments: Sequence[str]) -> int:
    descriptors = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    threads = len(os.listdir("/proc/self/task"))
    text = f"{list(arguments)} {os.getcwd()} {dict(os.environ)} {threads} {descriptors[:-1]}"
    Path("described").write_text(text)
    return 0


def _fail(_: Sequence[str]) -> int:
    return 7


def _hang(_: Sequence[str]) -> int:
    signal.pause()
    return 0


def _raise(_: Sequence[str]) -> int:
    raise ValueError("tea")
