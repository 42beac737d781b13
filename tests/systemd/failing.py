"""What goes wrong by itself: processes that are killed, and one that hangs."""

from __future__ import annotations

import functools
import signal

from tests.systemd.machine import (
    UNIT,
    ServiceCase,
    ask,
    is_alive,
    is_served,
    master,
    show,
    systemctl,
    wait_until,
    workers,
)


class FailingTest(ServiceCase):
    def test_a_worker_that_dies_or_hangs_is_replaced_and_the_log_says_so_as_an_error(self) -> None:
        pid = master()
        for number, said in ((signal.SIGKILL, "died.*SIGKILL"), (signal.SIGSTOP, "has not answered")):
            worker = min(workers())
            with self.subTest(number):
                self.kill(worker, number)
                wait_until("its end", functools.partial(lambda gone: not is_alive(gone), worker), 20.0)
                wait_until("another one", lambda: len(workers()) == 2)

                self.assertEqual((pid, "0"), (master(), show("NRestarts")))
                self.assertTrue(is_served())
                (entry,) = self.journal.find(f"worker {worker} {said}")
                self.assertEqual("3", entry["PRIORITY"])

    def test_a_master_that_is_killed_is_started_again_with_what_was_stored(self) -> None:
        stored = ask("POST", "/", b"tea").json()["hash"]
        pid, before = master(), workers()

        self.kill(pid)
        wait_until("another master", lambda: master() not in (0, pid) and is_served())

        self.assertEqual([], [each for each in before if is_alive(each)])
        self.assertEqual("1", show("NRestarts"))
        self.assertEqual((200, b"tea"), ask("GET", f"/{stored}"))

    def test_the_watchdog_leaves_a_master_alone_that_only_rests_and_starts_all_anew_when_it_hangs(self) -> None:
        self.put_unit(f"{UNIT}.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
        systemctl("restart", UNIT)
        pid, before = master(), workers()
        signs = set()

        def has_lived() -> bool:
            signs.add(show("WatchdogTimestampMonotonic"))
            # They come twice in what it waits for.
            return len(signs) > 4

        wait_until("signs of life", has_lived)
        self.assertEqual((pid, "0"), (master(), show("NRestarts")))

        self.kill(pid, signal.SIGSTOP)
        wait_until("another master", lambda: master() not in (0, pid) and is_served())

        self.assertEqual([], [each for each in before if is_alive(each)])
        self.assertTrue(self.journal_of_systemd("Watchdog timeout"))

    def test_what_it_does_not_understand_is_not_tried_again(self) -> None:
        self.configure("[filestoraged]\ncolour = blue\n")

        self.assertRaises(AssertionError, systemctl, "restart", UNIT)

        self.assertEqual(("failed", "2", "0"), (show("ActiveState"), show("ExecMainStatus"), show("NRestarts")))
        self.assertEqual(1, len(self.journal.find("colour")))

    def journal_of_systemd(self, text: str) -> bool:
        return any(text in line for line in self.journal.texts())
