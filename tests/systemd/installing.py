"""From a checkout to a service that runs, by the README's commands; and the same again."""

from __future__ import annotations

import subprocess
import time
import unittest
from pathlib import Path

from tests.systemd.load import Load
from tests.systemd.machine import (
    CONFIGURATION,
    ROOT,
    UNIT,
    Newcomer,
    ServiceCase,
    ask,
    is_served,
    master,
    show,
    systemctl,
    wait_until,
)

ENVIRONMENT = Path("/usr/local/lib/filestoraged")


class FirstTest(unittest.TestCase):
    """Each is a step."""

    def test_a_newcomer_who_is_not_root_is_told_to_use_sudo(self) -> None:
        done = Newcomer().run("bin/install", check=False)

        self.assertEqual((1, 1), (done.returncode, len(done.stderr.splitlines())), done.stderr)
        self.assertIn("sudo", done.stderr)
        self.assertFalse(ENVIRONMENT.exists())

    def test_the_commands_of_the_readme_install_and_start_it(self) -> None:
        newcomer = Newcomer()
        log = next(index for index, command in enumerate(newcomer.commands) if "journalctl" in command)

        began = time.monotonic()
        for command in newcomer.commands[:log]:
            newcomer.run(command)

        self.note = f"{log} commands in {time.monotonic() - began:.1f} s"
        self.assertEqual("active", show("ActiveState"))
        self.assertEqual("enabled", show("UnitFileState"))
        self.assertEqual([200, 200], [ask("GET", "/-/health", host=host).status for host in ("127.0.0.1", "::1")])
        systemctl("restart", UNIT)
        # It is ready when systemd says so.
        self.assertEqual(200, ask("GET", "/-/ready").status)

    def test_nothing_is_left_in_the_checkout(self) -> None:
        before = set(subprocess.check_output(["find", ".", "-user", "root"], cwd=ROOT, text=True).split())

        self.assertEqual(set(), before)


class AgainTest(ServiceCase):
    def test_installing_again_keeps_the_configuration_and_the_service_that_runs(self) -> None:
        before, pid, environment = CONFIGURATION.read_bytes(), master(), ENVIRONMENT.stat().st_ino

        with Load(200, clients=2).running() as load:
            self.newcomer.run("sudo bin/install")
            self.reload()

        self.note = f"and a reload, {load}"
        self.assertEqual({}, dict(load.faults))
        self.assertEqual(before, CONFIGURATION.read_bytes())
        self.assertNotEqual(environment, ENVIRONMENT.stat().st_ino)
        self.assertEqual(pid, master())
        systemctl("restart", UNIT)
        self.assertTrue(is_served())

    def test_an_install_that_fails_leaves_the_one_before(self) -> None:
        before = ENVIRONMENT.stat().st_ino

        done = self.newcomer.run("sudo PIP_FIND_LINKS=/nowhere bin/install", check=False)

        self.assertNotEqual(0, done.returncode)
        self.assertEqual(before, ENVIRONMENT.stat().st_ino)
        self.assertEqual([ENVIRONMENT], sorted(ENVIRONMENT.parent.glob("*filestoraged*")))
        systemctl("restart", UNIT)
        self.assertTrue(is_served())

    def test_another_prefix_has_units_that_lead_there(self) -> None:
        self.newcomer.run("sudo PREFIX=/opt/filestoraged bin/install")
        systemctl("restart", UNIT)

        command = Path(f"/proc/{master()}/cmdline").read_text(encoding="utf-8")
        again = self.newcomer.run("sudo bin/install")
        self.newcomer.run("sudo PREFIX=/opt/filestoraged bin/uninstall")
        systemctl("enable", UNIT)
        systemctl("restart", UNIT)

        self.assertIn("/opt/filestoraged/", command)
        self.assertIn("/etc/systemd/system/filestoraged.service overrides the new unit", again.stderr)
        self.assertEqual([], sorted(Path("/opt/filestoraged").rglob("*filestoraged*")))
        self.assertTrue(wait_until("the first one is served again", is_served))
