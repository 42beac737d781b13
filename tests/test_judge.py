"""Each test is judged by what it left in the log: what it did not announce fails it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import unittest

from tests.daemon.process import ROOT, clean_environment
from tests.runner.judge import bad_entries, judge
from tests.support import TempCase

PROVOKED = """
import gc, logging, threading, unittest
import tests
from tests.runner.judge import announce

log = logging.getLogger("filestoraged.store")

def divide():
    return 1 // 0

class Unraisable:
    def __del__(self): divide()

class Quiet(unittest.TestCase):
    def test_announces(self):
        announce("^ERROR filestoraged.store: pot 7 broke$")
        log.error("pot %d broke", 7)
    def test_asserts(self):
        with self.assertLogs("filestoraged.store"): log.error("broke")
    def test_warns(self):
        log.warning("hot")
    def test_exits(self):
        threading.Thread(target=lambda: exit(1)).start()

class Loud(unittest.TestCase):
    def test_error(self):
        announce("cup")
        log.error("pot")
    def test_error_in_a_cleanup(self):
        self.addCleanup(log.error, "pot")
    def test_traceback(self):
        try: divide()
        except ZeroDivisionError: log.warning("hot", exc_info=True)
    def test_thread(self):
        thread = threading.Thread(target=divide)
        thread.start()
        thread.join()
    def test_unraisable(self):
        Unraisable()
    def test_open_file(self):
        file = open(__file__)
    def test_open_file_in_a_cycle(self):
        cycle = [open(__file__)]
        cycle.append(cycle)
    def test_z_announcement_of_another_test(self):
        log.error("pot 7 broke")
"""


class UnittestTest(TempCase):
    def test_test_fails_by_what_it_does_not_announce_without_the_runner_too(self) -> None:
        (self.directory / "test_sample.py").write_text(PROVOKED)
        environment = {**clean_environment(), "PYTHONPATH": f"{ROOT}:{self.directory}"}

        done = subprocess.run(
            [sys.executable, "-m", "unittest", "test_sample"],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

        self.assertEqual(8, done.stderr.count("\nFAIL: test_"), done.stderr)
        self.assertIn("\nRan 12 tests in ", done.stderr)
        self.assertEqual(8, done.stderr.count("AssertionError: the test did not announce:"), done.stderr)
        self.assertNotIn("test_sample.Quiet", done.stderr)
        self.assertIn("Exception ignored in <function Unraisable.__del__", done.stderr)


class BadEntriesTest(unittest.TestCase):
    def bad(self, log: str) -> list[str]:
        return list(bad_entries(textwrap.dedent(log).strip("\n")))

    def test_error_lines_and_tracebacks_are_found_with_the_lines_that_belong_to_them(self) -> None:
        found = self.bad(
            """
            2026-11-23 22:27:35,298 INFO listening
            2026-11-23 22:27:36,298 ERROR a connection failed
            Traceback (most recent call last):
            OSError: broken
            2026-11-23 22:27:37,298 WARNING ERROR is only a word
            2026-11-23 22:27:38,298 WARNING failed
            Traceback (most recent call last):
            OSError: also
            """
        )

        self.assertEqual(["OSError: broken", "OSError: also"], [entry.splitlines()[-1] for entry in found])
        self.assertTrue(found[0].startswith("2026-11-23 22:27:36"))

    def test_lines_of_the_journal_are_judged_by_their_priorities(self) -> None:
        found = self.bad(
            """
            <6>listening
            <3>a connection failed
            <3>Traceback (most recent call last):
            <3>OSError: broken
            <4>hot
            """
        )

        self.assertEqual(3, len(found[0].splitlines()))
        self.assertEqual(1, len(found))

    def test_crash_of_an_interpreter_is_found_at_the_beginning_of_a_log(self) -> None:
        self.assertEqual(["Fatal Python error: Aborted"], self.bad("Fatal Python error: Aborted\n<6>listening"))


class ProcessTest(unittest.TestCase):
    def test_log_of_a_process_is_judged_by_what_was_announced_since_its_start(self) -> None:
        judge.announce("pot")
        started = judge.mark()
        judge.announce("<3>cup")

        self.assertEqual(["<3>pot"], judge.not_announced(bad_entries("<3>pot\n<6>\n<3>cup"), started))
