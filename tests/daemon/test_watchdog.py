"""The service manager gets a sign of life for as long as the master looks after its workers, and one answers."""

from __future__ import annotations

import os
import signal
import socket

from tests.daemon.process import PATIENCE, running
from tests.support import TempCase

# Microseconds. The daemon says something four times as often.
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

    def test_it_is_fed_while_a_worker_hangs_and_not_while_the_master_does(self) -> None:
        environment = {"NOTIFY_SOCKET": self.path, "WATCHDOG_USEC": TIMEOUT}
        with running("--workers", "2", "--store", str(self.directory / "store"), environment=environment) as daemon:
            self.assertIn("READY=1", self.told())
            self.assertEqual(["WATCHDOG=1"] * 5, [self.told() for _ in range(5)])

            os.kill(daemon.workers()[0], signal.SIGSTOP)
            # Longer than the manager waits.
            self.assertEqual(["WATCHDOG=1"] * 5, [self.told() for _ in range(5)])

            os.kill(daemon.process.pid, signal.SIGSTOP)
            self.drain()
            self.manager.settimeout(1.5)
            with self.assertRaises(socket.timeout):
                self.told()

            self.manager.settimeout(PATIENCE)
            os.kill(daemon.process.pid, signal.SIGCONT)
            self.assertEqual("WATCHDOG=1", self.told())

    def test_nothing_is_told_where_nobody_waits(self) -> None:
        for others in ({}, {"WATCHDOG_USEC": TIMEOUT, "WATCHDOG_PID": "1"}):
            environment = {"NOTIFY_SOCKET": self.path, **others}
            with (
                self.subTest(others=others),
                running("--store", str(self.directory / "store"), environment=environment),
            ):
                self.assertIn("READY=1", self.told())
                self.manager.settimeout(1)
                with self.assertRaises(socket.timeout):
                    self.told()
                self.manager.settimeout(PATIENCE)
            self.drain()

    def drain(self) -> None:
        self.manager.settimeout(0)
        try:
            while True:
                self.told()
        except BlockingIOError:
            self.manager.settimeout(PATIENCE)
