"""The weekly check, and what it finds."""

from __future__ import annotations

from pathlib import Path

from tests.systemd.machine import STORE, ServiceCase, ask, is_served, run, show, systemctl

CHECK = "filestoraged-check.service"
TIMER = "filestoraged-check.timer"


class CheckingTest(ServiceCase):
    def test_a_timer_starts_the_check_every_week(self) -> None:
        systemctl("enable", "--now", TIMER)
        self.addCleanup(systemctl, "disable", "--now", TIMER)

        self.assertIn(CHECK, systemctl("list-timers", "--no-legend"))
        self.assertIn("weekly", systemctl("cat", TIMER))

    def test_a_check_finds_nothing_where_nothing_is_damaged_and_disturbs_nobody(self) -> None:
        ask("POST", "/", b"tea")
        ask("PUT", "/data/kitchen", b"cup")

        systemctl("start", CHECK)

        self.assertEqual("success", show("Result", CHECK))
        self.assertTrue(is_served())
        self.assertEqual(201, ask("PUT", "/data/kitchen", b"after the check").status)

    def test_a_check_needs_no_service_that_runs_and_one_that_starts_later_has_its_store(self) -> None:
        digest = ask("POST", "/", b"tea").json()["hash"]
        systemctl("stop", "filestoraged.service")

        systemctl("start", CHECK)
        systemctl("start", "filestoraged.service")

        self.assertEqual("success", show("Result", CHECK))
        self.assertEqual((200, b"tea"), ask("GET", f"/{digest}"))

    def test_a_check_fails_and_names_what_is_damaged(self) -> None:
        digest = ask("POST", "/", b"will be damaged").json()["hash"]
        path = self.object(digest)
        path.write_bytes(b"was then damaged")

        failed = run("systemctl", "start", CHECK, check=False)

        self.addCleanup(run, "systemctl", "reset-failed", CHECK, check=False)
        self.assertNotEqual(0, failed.returncode)
        self.assertEqual(("failed", "1"), (show("ActiveState", CHECK), show("ExecMainStatus", CHECK)))
        self.assertTrue(self.journal.find(digest, CHECK))

        ask("POST", "/", b"will be damaged")
        systemctl("start", CHECK)
        self.assertEqual("success", show("Result", CHECK))

    def object(self, digest: str) -> Path:
        return STORE / digest[:2] / digest
