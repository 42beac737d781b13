"""The service manager is notified for as long as the master checks its workers, and one of them answers."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
from pathlib import Path
from unittest import mock

from filestoraged.daemon import systemd
from tests.daemon.process import KILLED_WORKER, PATIENCE, running
from tests.support import TempCase

# Microseconds. The daemon notifies four times as often.
TIMEOUT = "2000000"


class WatchdogTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.manager.close)
        self.path = str(self.directory / "notify")
        self.manager.bind(self.path)
        self.manager.settimeout(PATIENCE)

    def told(self) -> str:
        return self.manager.recv(1000).decode()

    def test_manager_is_notified_while_a_worker_hangs_and_not_while_the_master_does(self) -> None:
        environment = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": TIMEOUT}
        with running("--workers", "2", "--store", str(self.directory / "store"), environment=environment) as daemon:
            # Where a worker answers long before the last one serves, that is told first.
            told = self.told()
            while told == "WATCHDOG=1":
                told = self.told()
            self.assertIn("READY=1", told)
            self.assertEqual(["WATCHDOG=1"] * 5, [self.told() for _ in range(5)])

            os.kill(daemon.workers()[0], signal.SIGSTOP)
            # Longer than the manager waits.
            self.assertEqual(["WATCHDOG=1"] * 5, [self.told() for _ in range(5)])

            os.kill(daemon.process.pid, signal.SIGSTOP)
            self.wait_until("stopped", lambda: state(daemon.process.pid) == "T")
            self.told_by_now()
            os.kill(daemon.process.pid, signal.SIGCONT)
            self.assertEqual("WATCHDOG=1", self.told())

    def test_manager_that_does_not_read_keeps_the_master_from_nothing(self) -> None:
        self.announce(KILLED_WORKER)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
            other.setblocking(False)
            while True:
                other.sendto(b"another service", self.path)
        environment = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": TIMEOUT}
        with running("--workers", "1", "--store", str(self.directory / "store"), environment=environment) as daemon:
            (worker,) = daemon.workers()
            os.kill(worker, signal.SIGKILL)
            self.wait_until("replaced", lambda: daemon.workers() not in ([], [worker]))

            self.assertEqual(0, daemon.stop())

    def test_manager_without_a_watchdog_for_this_process_is_notified_of_start_and_stop(self) -> None:
        for others in ({}, {"WATCHDOG_USEC": TIMEOUT, "WATCHDOG_PID": "1"}):
            environment = {"NOTIFY_SOCKET": self.path, **others}
            with (
                self.subTest(others=others),
                running("--store", str(self.directory / "store"), environment=environment) as daemon,
            ):
                self.assertEqual(0, daemon.stop())

                self.assertEqual(["READY=1", "STOPPING=1"], [each.split("\n")[0] for each in self.told_by_now()])

    def test_watchdog_timeout_is_that_of_the_manager_for_this_process(self) -> None:
        for variables, seconds in (
            ({"WATCHDOG_USEC": TIMEOUT}, 2.0),
            ({"WATCHDOG_USEC": TIMEOUT, "WATCHDOG_PID": str(os.getpid())}, 2.0),
            ({"WATCHDOG_USEC": TIMEOUT, "WATCHDOG_PID": "1"}, math.inf),
            ({"WATCHDOG_USEC": "soon"}, math.inf),
            ({}, math.inf),
        ):
            with self.subTest(variables=variables), mock.patch.dict(os.environ, variables, clear=True):
                self.assertEqual(seconds, systemd.watchdog_timeout())

    def told_by_now(self) -> list[str]:
        """Return all messages that have arrived."""
        told = []
        self.manager.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(self.told())
        self.manager.settimeout(PATIENCE)
        return told


def state(pid: int) -> str:
    """Return the state of a process, such as T for stopped (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
