"""The Debian package on each release that it supports: from nothing to a stored file, and the life of an installation.

Each class has one machine.
"""

from __future__ import annotations

import re
import sys
import time
import unittest
from pathlib import Path

from bin.release.source import copy_source
from tests.packages.load import Clients
from tests.packages.machine import ROOT, Machine
from tests.release.packages import class_directory, package

_UNITS = "filestoraged.service filestoraged.socket"

_STORE = "echo tea >/tmp/cup && curl --no-progress-meter --fail --data-binary @/tmp/cup http://localhost:8080/"
_TEA = "b49c876df8b640bda8d61932383cbb787236104f12ebfaf1007ea6dcc11d64aa"
_FETCH = f"curl --no-progress-meter --fail http://localhost:8080/{_TEA}"

# Those that systemd takes for DynamicUser=.
_DYNAMIC_USERS = range(61184, 65520)

_CHANGE = "# a local change"

# Every path of the machine's own file system, with its kind, mode and owner; and the content of the configuration.
_LIST = r"find / -xdev ! -type s -printf '%y %m %u %g %p %l\n'; find /etc -xdev -type f -exec md5sum {} +"
# What apt, dpkg, systemd and the checks themselves leave.
_OWN = re.compile(
    r" /(var/lib/(dpkg|apt)|var/cache|var/log|var/backups|tmp|packages|run|root)(/| |$)|machine-id|random-seed"
)


class DebianCase(unittest.TestCase):
    """A booted machine, and the package of this checkout."""

    release: str
    machine: Machine
    packages: Path
    package: str
    note = ""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.packages = class_directory(cls)
        cls.package = cls.build(ROOT)
        cls.machine = Machine(cls.release, cls.packages)
        cls.addClassCleanup(cls.machine.stop)

    @classmethod
    def build(cls, tree: Path) -> str:
        """Build the package of a source tree. Returns its path on the machine."""
        (made,) = package(cls.packages / f"of-{tree.name}", "--deb", root=tree)
        return f"/packages/{made.parent.name}/{made.name}"

    @classmethod
    def apt(cls, *arguments: str) -> None:
        """Run apt without questions, as far as apt itself is concerned."""
        cls.machine.run("apt-get", "-qq", "--yes", "--allow-downgrades", *arguments)

    def states(self) -> list[str]:
        """Of the service and the socket: whether they run, and whether they are enabled."""
        script = f"systemctl is-active {_UNITS}; systemctl is-enabled {_UNITS}"
        return self.machine.run("sh", "-c", script, check=False).stdout.split()


class FirstContact(DebianCase):
    """On a machine that has not even Python."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        has_python = not cls.machine.run("which", "python3", check=False).returncode
        assert not has_python
        began = time.monotonic()
        cls.apt("install", cls.package)
        stored = cls.machine.shell(_STORE)
        assert _TEA in stored, stored
        seconds = time.monotonic() - began
        print(f"{cls.release}: {seconds:.1f} s from apt to a stored file, without downloads", file=sys.stderr)

    def test_installation_starts_and_enables_service_and_socket(self) -> None:
        self.assertEqual(["active", "active", "enabled", "enabled"], self.states())
        self.assertEqual("tea", self.machine.shell(_FETCH))

    def test_service_runs_as_a_user_of_its_own_and_reads_compiled_modules(self) -> None:
        user = self.machine.shell("stat -c %u /proc/$(systemctl show --value -p MainPID filestoraged)")
        compiled = self.machine.shell("find /usr/share/filestoraged -name 'main.*.pyc' | wc -l")

        self.assertIn(int(user), _DYNAMIC_USERS)
        self.assertEqual("1", compiled)

    def test_command_reads_the_store_of_the_service(self) -> None:
        checked = self.machine.shell("filestoraged check --store /var/lib/filestoraged")

        self.assertIn("1 object", checked)

    def test_weekly_check_passes_under_its_own_unit(self) -> None:
        self.machine.run("systemctl", "start", "filestoraged-check.service")

        self.assertEqual("success", self.machine.show("filestoraged-check.service", "Result"))

    def test_reload_and_restart_keep_the_service(self) -> None:
        self.machine.run("systemctl", "reload", "filestoraged")
        self.machine.run("systemctl", "restart", "filestoraged")

        self.assertEqual("tea", self.machine.shell(_FETCH))


class Life(DebianCase):
    """Upgrade, removal and purge, as piuparts examines them. Each test begins with a new installation."""

    before: set[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # What it depends on is not what is examined.
        cls.apt("install", "python3")
        cls.before = cls.listing()

    def setUp(self) -> None:
        super().setUp()
        self.apt("install", self.package)
        self.addCleanup(self.machine.run, "dpkg", "--purge", "filestoraged")
        self.machine.shell(_STORE)

    def test_upgrade_under_load_fails_no_request_and_keeps_the_configuration(self) -> None:
        newer = self.build_next("0.3.0.1")
        before = self.machine.show("filestoraged.service", "MainPID")
        self.machine.shell(f"echo '{_CHANGE}' >>/etc/filestoraged.conf")

        with Clients(self.machine) as clients:
            self.apt("install", newer)

        self.note = f"{clients.requests} requests"
        self.assertEqual({}, clients.faults)
        self.assertNotEqual(before, self.machine.show("filestoraged.service", "MainPID"))
        self.assertEqual("filestoraged 0.3.0.1", self.machine.shell("filestoraged --version"))
        self.assertEqual(_CHANGE, self.machine.shell("tail -n 1 /etc/filestoraged.conf"))

    def test_units_that_the_administrator_disabled_stay_disabled(self) -> None:
        self.machine.shell(f"systemctl disable --now --quiet {_UNITS}")

        self.apt("install", self.build_next("0.3.0.2"))

        self.assertEqual(["inactive", "inactive", "disabled", "disabled"], self.states())

    def test_removal_keeps_configuration_and_data_for_the_next_installation(self) -> None:
        self.machine.shell(f"echo '{_CHANGE}' >>/etc/filestoraged.conf")

        self.apt("remove", "filestoraged")

        self.assertEqual("", self.machine.shell("grep -l '^filestoraged$' /proc/[0-9]*/comm || true"))
        self.machine.shell("! test -e /usr/share/filestoraged")
        self.apt("install", self.package)
        self.assertEqual("tea", self.machine.shell(_FETCH))
        self.assertEqual(_CHANGE, self.machine.shell("tail -n 1 /etc/filestoraged.conf"))
        self.assertEqual(["active", "active", "enabled", "enabled"], self.states())

    def test_purge_asks_nothing_and_leaves_nothing(self) -> None:
        # What an administrator enables is removed, too.
        self.machine.run("systemctl", "enable", "--now", "--quiet", "filestoraged-check.timer")

        self.apt("purge", "filestoraged")

        after = self.listing()
        self.assertEqual(([], []), (sorted(after - self.before), sorted(self.before - after)))
        self.assertEqual("", self.machine.shell("systemctl list-unit-files --no-legend 'filestoraged*' || true"))
        self.assertEqual("", self.machine.shell("systemctl list-units --failed --no-legend"))

    def build_next(self, version: str) -> str:
        """Build the same tree with another version."""
        tree = self.packages / version
        copy_source(tree)
        module = tree / "filestoraged" / "__init__.py"
        module.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', module.read_text()))
        return self.build(tree)

    @classmethod
    def listing(cls) -> set[str]:
        return {line for line in cls.machine.shell(_LIST).splitlines() if not _OWN.search(line)}


class Debian12FirstContactTest(FirstContact):
    release = "bookworm"


class Debian13FirstContactTest(FirstContact):
    release = "trixie"


class Debian12LifeTest(Life):
    release = "bookworm"


class Debian13LifeTest(Life):
    release = "trixie"


CASES = (Debian12FirstContactTest, Debian12LifeTest, Debian13FirstContactTest, Debian13LifeTest)
