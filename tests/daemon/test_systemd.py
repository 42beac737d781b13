"""Notifications to a service manager that reads late, or not at all."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket

from filestoraged.daemon.systemd import ServiceManager
from tests.support import TempCase

OTHER = b"another service"


class ServiceManagerTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = str(self.directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.socket.close)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.manager = ServiceManager({"NOTIFY_SOCKET": self.path})

    def fill(self) -> None:
        """Fill the queue of the manager, as others do that notify it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.sendto(OTHER, self.path)

    def read(self) -> list[str]:
        """Read all that has arrived of this process."""
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(1000))
        return [message.decode() for message in messages if message != OTHER]

    def test_state_that_a_full_socket_does_not_take_is_sent_when_it_is_read_with_one_warning(self) -> None:
        self.fill()

        with self.assertLogs("filestoraged.daemon.systemd") as logged:
            self.manager.report_ready("Serving")
            self.manager.flush()
        before = self.read()
        self.manager.flush()
        after = self.read()
        self.manager.flush()

        self.assertEqual(([], ["READY=1\nSTATUS=Serving"], []), (before, after, self.read()))
        self.assertEqual(1, len(logged.output))
        self.assertIn("does not read notifications; READY=1 waits", logged.output[0])

    def test_sign_of_life_that_a_full_socket_does_not_take_is_dropped(self) -> None:
        self.fill()

        self.manager.feed_watchdog()
        self.read()
        self.manager.flush()

        self.assertEqual([], self.read())

    def test_reload_and_its_end_wait_in_their_order(self) -> None:
        self.fill()

        with self.assertLogs("filestoraged.daemon.systemd"):
            self.manager.report_reloading()
            self.manager.report_ready("Serving")
        self.read()
        self.manager.flush()

        reloading, ready = self.read()
        self.assertTrue(re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading))
        self.assertEqual("READY=1\nSTATUS=Serving", ready)

    def test_reload_and_stop_supersede_states_that_wait(self) -> None:
        for supersede, expected in (
            (self.manager.report_reloading, "RELOADING=1"),
            (lambda: self.manager.report_stopping("Finishing"), "STOPPING=1"),
        ):
            with self.subTest(expected=expected):
                self.fill()
                with self.assertLogs("filestoraged.daemon.systemd"):
                    self.manager.report_ready("Serving")
                    supersede()
                self.read()

                self.manager.flush()

                self.assertEqual([expected], [message.split("\n")[0] for message in self.read()])

    def test_manager_that_is_gone_gets_one_warning_and_nothing_waits(self) -> None:
        for gone in ("closed", "missing"):
            with self.subTest(gone=gone):
                if gone == "closed":
                    self.socket.close()
                else:
                    os.unlink(self.path)
                with self.assertLogs("filestoraged.daemon.systemd") as logged:
                    self.manager.report_ready("Serving")
                    self.manager.flush()

                self.assertEqual(1, len(logged.output))
                self.assertIn("cannot notify the service manager", logged.output[0])

    def test_process_without_a_manager_sends_nothing(self) -> None:
        manager = ServiceManager({})
        with self.assertNoLogs("filestoraged.daemon.systemd"):
            manager.report_ready("Serving")
            manager.feed_watchdog()

        self.assertEqual([], self.read())

    def test_watchdog_timeout_is_that_of_the_manager_for_this_process(self) -> None:
        for environment, seconds in (
            ({"WATCHDOG_USEC": "2000000"}, 2.0),
            ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
            ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, math.inf),
            ({"WATCHDOG_USEC": "soon"}, math.inf),
            ({}, math.inf),
        ):
            with self.subTest(environment=environment):
                self.assertEqual(seconds, ServiceManager(environment).watchdog_timeout)
