"""Files shipped beside the code: systemd units, the sample configuration, and lists of requirements."""

from __future__ import annotations

import re
import shlex
import subprocess
import unittest
from pathlib import Path

from bin.release.source import PARTS
from filestoraged.api.pages import FILES
from filestoraged.cli.serve import parse_arguments
from filestoraged.command_errors import UsageError
from filestoraged.daemon.config import FIELDS
from filestoraged.daemon.worker import DRAIN_TIMEOUT
from tests.support import TempCase, find_program

ROOT = Path(__file__).resolve().parent.parent
UNITS = {
    name: (ROOT / "systemd" / name).read_text(encoding="utf-8")
    for name in (
        "filestoraged.service",
        "filestoraged.socket",
        "filestoraged-check.service",
        "filestoraged-check.timer",
    )
}
UNIT = UNITS["filestoraged.service"]
CHECK = UNITS["filestoraged-check.service"]
SAMPLE = ROOT / "systemd" / "filestoraged.conf"

# What systemd-analyze calls "OK" ends at 2, and a unit without any protection has 9.2 to 9.6.
EXPOSURE = 1.3

# What the check has otherwise than the daemon, as it serves nobody.
_OF_ITS_OWN = {"RestrictAddressFamilies"}


class UnitsTest(TempCase):
    def test_unit_starts_the_daemon_with_valid_options(self) -> None:
        command, *arguments = start_command(UNIT)

        parse_arguments([str(SAMPLE) if each == "/etc/filestoraged.conf" else each for each in arguments[1:]])

        self.assertEqual("/usr/local/bin/filestoraged", command)
        self.assertEqual("serve", arguments[0])

    def test_unit_with_an_unknown_option_is_noticed(self) -> None:
        *_, unknown = start_command("[Service]\nExecStart=/bin/filestoraged serve --colour=blue\n")

        with self.assertRaises(UsageError):
            parse_arguments([unknown])

    def test_stop_timeout_of_the_unit_exceeds_the_drain(self) -> None:
        self.assertGreater(float(setting(UNIT, "TimeoutStopSec")), DRAIN_TIMEOUT)

    def test_systemd_finds_no_fault_in_the_units(self) -> None:
        self.assertEqual("", self.verify(UNIT))

    def test_unit_with_an_unknown_setting_is_noticed(self) -> None:
        self.assertIn("ProtectSytem", self.verify(UNIT.replace("ProtectSystem=", "ProtectSytem=")))

    def test_units_have_a_low_exposure(self) -> None:
        self.assertLessEqual(self.exposure(UNIT), EXPOSURE)
        self.assertLessEqual(self.exposure(CHECK), EXPOSURE)

    def test_memory_threads_and_devices_are_bounded(self) -> None:
        defaults = parse_arguments([])

        self.assertRegex(setting(UNIT, "MemoryMax"), r"^[1-9][0-9]%$")
        # Both generations of a reload, on 16 processors.
        self.assertGreater(int(setting(UNIT, "TasksMax")), 2 * 16 * (2 * defaults.threads + 16))
        self.assertEqual("closed", setting(UNIT, "DevicePolicy"))
        # A worker that the kernel kills is replaced by the master.
        self.assertEqual("continue", setting(UNIT, "OOMPolicy"))

    def test_unit_without_protection_is_noticed(self) -> None:
        self.assertGreater(self.exposure("[Service]\nExecStart=/bin/true\n"), EXPOSURE)

    def test_check_has_the_protection_the_user_and_the_store_of_the_daemon(self) -> None:
        protection = UNIT.index("DynamicUser=")

        lost = settings(UNIT[protection : UNIT.index("[Install]")]) - settings(CHECK)

        self.assertEqual(_OF_ITS_OWN, {each.partition("=")[0] for each in lost})

    def verify(self, unit: str) -> str:
        """What systemd says about the units, their command taken to be installed, with `unit` as the daemon's."""
        for name, text in {**UNITS, "filestoraged.service": unit}.items():
            self.write(name, text.replace("/usr/local/bin/filestoraged", find_program("true")))
        return self.analyze("verify", "--recursive-errors=yes", *(str(self.directory / name) for name in UNITS)).stderr

    def exposure(self, unit: str) -> float:
        path = self.write("filestoraged.service", unit)
        done = self.analyze("security", "--offline=true", "--no-pager", str(path))
        level = re.search(r"Overall exposure level for filestoraged\.service: ([0-9.]+)", done.stdout)
        if level is None:
            self.fail(f"systemd-analyze names no level: {done.stderr}")
        return float(level.group(1))

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def analyze(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [find_program("systemd-analyze"), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


class SampleTest(TempCase):
    """systemd/filestoraged.conf, which bin/install puts into /etc."""

    def test_sample_as_shipped_changes_no_default(self) -> None:
        self.assertEqual(vars(parse_arguments([])), vars(parse_arguments(["--config", str(SAMPLE)])))

    def test_sample_with_all_options_uncommented_is_a_valid_configuration(self) -> None:
        text = re.sub(r"^#(?! )(.*)$|^#(    .*)$", r"\1\2", SAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
        path = self.directory / "filestoraged.conf"
        # One of two that exclude each other.
        path.write_text(text.replace("\ns3 =", "\n#s3 ="), encoding="utf-8")

        config = parse_arguments(["--config", str(path)])

        self.assertEqual(2, len(config.listen))
        self.assertEqual(50 << 20, config.max_size)

    def test_sample_has_the_help_and_the_default_of_every_option_in_order(self) -> None:
        paragraphs = SAMPLE.read_text(encoding="utf-8").partition("[filestoraged]\n")[2].split("\n\n")

        for field, paragraph in zip(FIELDS, paragraphs):
            with self.subTest(field.name):
                lines = paragraph.splitlines()
                words = " ".join(line[2:] for line in lines if re.match("# [^ ]", line))
                repeatable = "" if field.join is None else "; one value on each line"
                self.assertEqual(f"{field.help}{repeatable} (default: {field.default})", words)
                self.assertTrue(any(line.startswith(f"#{field.name} =") for line in lines))
        self.assertEqual(len(FIELDS), len(paragraphs))


class ProgramsTest(TempCase):
    """A run of all tests fails if bin/test could not install a program."""

    def test_every_program_that_the_tests_run_is_installed(self) -> None:
        programs = listed(ROOT / "tests" / "programs.txt")

        for program in programs:
            with self.subTest(program):
                find_program(program)
        self.assertIn("curl", programs)

    def test_missing_program_is_noticed(self) -> None:
        with self.assertRaisesRegex(AssertionError, "no-such-program is not installed"):
            find_program("no-such-program")


class PackageDataTest(unittest.TestCase):
    """What pip and bin/install put beside the modules."""

    def test_every_file_of_the_package_is_a_module_or_package_data(self) -> None:
        package = ROOT / "filestoraged"
        (line,) = re.findall(r"^filestoraged = (.*)$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
        files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}

        data = {path for pattern in line.split(", ") for path in package.glob(pattern)}

        self.assertEqual(set(), {path for path in files if path.suffix != ".py"} - data)
        self.assertIn(package / "pages" / "style.css", data)

    def test_every_page_and_asset_is_served(self) -> None:
        self.assertEqual(sorted(path.name for path in (ROOT / "filestoraged" / "pages").iterdir()), sorted(FILES))

    def test_parts_of_the_source_are_all_that_is_in_the_repository(self) -> None:
        command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files"]
        # Nothing where the source has no history: then it was packed by the same list.
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()

        self.assertLessEqual({path.partition("/")[0] for path in listed}, set(PARTS))
        self.assertEqual([], [part for part in PARTS if not (ROOT / part).exists()])


class PinsTest(unittest.TestCase):
    """Downloaded code that runs as root or with the rights of the repository."""

    def test_packages_installed_by_root_are_pinned_by_version_and_hash(self) -> None:
        pins = (ROOT / "systemd" / "requirements.txt").read_text(encoding="utf-8")

        lines = [line for line in pins.splitlines() if not line.startswith("#")]

        self.assertEqual(["setuptools", "pymemcache"], [line.partition("==")[0] for line in lines])
        for line in lines:
            self.assertRegex(line, r"^[a-z]+==[0-9.]+( --hash=sha256:[0-9a-f]{64})+$")

    def test_actions_are_pinned_by_commit_and_leave_no_credentials(self) -> None:
        workflows = [path.read_text(encoding="utf-8") for path in (ROOT / ".github" / "workflows").iterdir()]

        used = [line for text in workflows for line in text.splitlines() if "uses:" in line]

        self.assertGreater(len(used), 2)
        for line in used:
            self.assertRegex(line, r"uses: [\w/-]+@[0-9a-f]{40} # v[0-9.]+$")
        for text in workflows:
            self.assertEqual(text.count("actions/checkout@"), text.count("persist-credentials: false"))


def start_command(unit: str) -> list[str]:
    return shlex.split(setting(unit, "ExecStart"))


def settings(unit: str) -> set[str]:
    return {line for line in unit.splitlines() if re.match("[A-Za-z]+=", line)}


def setting(unit: str, name: str) -> str:
    """The value of a setting that the unit has once."""
    (value,) = re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)
    assert isinstance(value, str)
    return value


def listed(path: Path) -> list[str]:
    """The first word of each line that is no comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split()[0] for line in lines if line and not line.startswith("#")]
