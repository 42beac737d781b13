"""What is shipped beside the code: the systemd unit, and the lists that bin/test installs from."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import List

from filestoraged.daemon.options import parse_arguments
from filestoraged.daemon.serve import DRAIN
from filestoraged.errors import UsageError
from tests.support import TempCase, find_program

ROOT = Path(__file__).resolve().parent.parent
UNIT = (ROOT / "systemd" / "filestoraged.service").read_text(encoding="utf-8")

# What systemd-analyze calls "OK" ends at 2, and a unit without any protection has 9.2 to 9.6.
EXPOSURE = 1.5


class UnitTest(TempCase):
    def test_the_daemon_knows_the_options_that_it_is_started_with(self) -> None:
        command, *arguments = start_command(UNIT)

        parse_arguments(arguments[1:])

        self.assertEqual("filestoraged", Path(command).name)
        self.assertTrue(Path(command).is_absolute())
        self.assertEqual("serve", arguments[0])

    def test_an_option_that_the_daemon_does_not_know_is_noticed(self) -> None:
        *_, unknown = start_command("[Service]\nExecStart=/bin/filestoraged serve --colour=blue\n")

        with self.assertRaises(UsageError):
            parse_arguments([unknown])

    def test_the_drain_ends_before_systemd_loses_its_patience(self) -> None:
        self.assertGreater(float(setting(UNIT, "TimeoutStopSec")), DRAIN)

    def test_systemd_finds_no_fault_in_it(self) -> None:
        self.assertEqual("", self.verify(UNIT))

    def test_a_setting_that_systemd_does_not_know_is_noticed(self) -> None:
        self.assertIn("ProtectSytem", self.verify(UNIT.replace("ProtectSystem=", "ProtectSytem=")))

    def test_it_is_exposed_to_little(self) -> None:
        self.assertLessEqual(self.exposure(UNIT), EXPOSURE)

    def test_a_unit_that_protects_nothing_is_noticed(self) -> None:
        self.assertGreater(self.exposure("[Service]\nExecStart=/bin/true\n"), EXPOSURE)

    def verify(self, unit: str) -> str:
        """What systemd says about a unit, its command taken to be installed."""
        installed = unit.replace(start_command(unit)[0], find_program("true"))
        return self.analyze(installed, "verify").stderr

    def exposure(self, unit: str) -> float:
        done = self.analyze(unit, "security", "--offline=true", "--no-pager")
        level = re.search(r"Overall exposure level for filestoraged\.service: ([0-9.]+)", done.stdout)
        if level is None:
            self.fail(f"systemd-analyze names no level: {done.stderr}")
        return float(level.group(1))

    def analyze(self, unit: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        path = self.directory / "filestoraged.service"
        path.write_text(unit, encoding="utf-8")
        command = [find_program("systemd-analyze"), *arguments, str(path)]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


class ProgramsTest(TempCase):
    """So that a run of all tests counts as failed what bin/test could not install."""

    def test_every_program_that_the_tests_run_is_installed(self) -> None:
        programs = listed(ROOT / "tests" / "programs.txt")

        for program in programs:
            with self.subTest(program):
                find_program(program)
        self.assertIn("curl", programs)

    def test_a_program_that_is_missing_is_noticed(self) -> None:
        with self.assertRaisesRegex(AssertionError, "no-such-program is not installed"):
            find_program("no-such-program")


def start_command(unit: str) -> List[str]:
    return shlex.split(setting(unit, "ExecStart"))


def setting(unit: str, name: str) -> str:
    """The value of a setting that the unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)
    assert isinstance(value, str)
    return value


def listed(path: Path) -> List[str]:
    """The first word of each line that is no comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]
