"""The weekly check, and what it finds."""

from __future__ import annotations

from tests.systemd.machine import STORE, ServiceCase, ask, run, show, systemctl

CHECK = "filestoraged-check.service"
TIMER = "filestoraged-check.timer"


class CheckingTest(ServiceCase):
    def test_a_timer_starts_the_check_every_week(self) -> None:
        systemctl("enable", "--now", TIMER)
        self.addCleanup(systemctl, "disable", "--now", TIMER)

        self.assertIn(CHECK, systemctl("list-timers", "--no-legend"))
        self.assertIn("weekly", systemctl("cat", TIMER))

    def test_a_check_disturbs_nobody_and_needs_no_service_that_runs(self) -> None:
        digest = ask("POST", "/", b"tea").json()["hash"]
        ask("PUT", "/data/kitchen", b"cup")

        systemctl("start", CHECK)
        self.assertEqual("success", show("Result", CHECK))
        self.assertEqual(201, ask("PUT", "/data/kitchen", b"after the check").status)

        systemctl("stop", "filestoraged.service")
        systemctl("start", CHECK)
        systemctl("start", "filestoraged.service")
        self.assertEqual("success", show("Result", CHECK))
        self.assertEqual((200, b"tea"), ask("GET", f"/{digest}"))

    def test_a_check_fails_and_names_what_is_damaged(self) -> None:
        digest = ask("POST", "/", b"will be damaged").json()["hash"]
        (STORE / digest[:2] / digest).write_bytes(b"was then damaged")

        failed = run("systemctl", "start", CHECK, check=False)

        self.addCleanup(run, "systemctl", "reset-failed", CHECK, check=False)
        self.assertNotEqual(0, failed.returncode)
        self.assertEqual(("failed", "1"), (show("ActiveState", CHECK), show("ExecMainStatus", CHECK)))
        self.assertTrue(self.journal.find(digest, CHECK))

        ask("POST", "/", b"will be damaged")
        systemctl("start", CHECK)
        self.assertEqual("success", show("Result", CHECK))
