"""The end: what `bin/uninstall` takes away, and what it leaves."""

from __future__ import annotations

from pathlib import Path

from tests.systemd.machine import CONFIGURATION, STORE, UNIT, ServiceCase, ask, run, show, systemctl


class LeavingTest(ServiceCase):
    def test_uninstalling_stops_the_service_and_leaves_data_and_configuration_for_the_next_time(self) -> None:
        digest = ask("POST", "/", b"tea").json()["hash"]
        systemctl("enable", "--now", "filestoraged-check.timer")

        done = self.newcomer.run(self.newcomer.command("uninstall"))

        self.assertEqual(1, len(done.stdout.splitlines()), done.stdout)
        self.assertIn(str(STORE), done.stdout)
        self.assertIn(str(CONFIGURATION), done.stdout)
        self.assertEqual(("inactive", "not-found"), (show("ActiveState"), show("LoadState")))
        for what in ("list-unit-files", "list-units"):
            self.assertEqual("", run("systemctl", what, "--all", "--no-legend", "filestoraged*", check=False).stdout)
        self.assertEqual([], sorted(Path("/usr/local").rglob("*filestoraged*")))
        self.assertEqual([], sorted(Path("/etc/systemd/system").rglob(f"*{UNIT}")))
        self.assertEqual(self.configuration, CONFIGURATION.read_text())
        self.assertEqual(b"tea", (STORE / digest[:2] / digest).read_bytes())

        self.newcomer.run(self.newcomer.command("uninstall"))

        self.newcomer.run("sudo bin/install && sudo systemctl start filestoraged")
        self.assertEqual((200, b"tea"), ask("GET", f"/{digest}"))
