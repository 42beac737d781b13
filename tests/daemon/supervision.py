"""A supervisor over a table of processes: what its tests share."""

from __future__ import annotations

import functools
import logging
import math
import signal
import unittest
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

from filestoraged.daemon.processes import RELOAD_SIGNAL, StatusPipe
from filestoraged.daemon.supervisor import Monitor, Supervisor
from filestoraged.daemon.systemd import ServiceManager
from filestoraged.daemon.watchdog import Watchdog
from tests.daemon.process_table import Behaviour, ProcessTable, Worker

# Workers that run at a time at most.
SLOTS = 6

DRAIN_TIMEOUT = 35.0

HANGS = Behaviour(start=math.inf)
DIES = Behaviour(start=math.inf, life=0.0625, exit_status=3)


class Group:
    """The workers of a configuration. The table does not run them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def work(self, number: int, slot: int, status: StatusPipe) -> int:
        raise AssertionError("a worker of the table runs")


class RecordingManager(ServiceManager):
    """A service manager with a watchdog of 30 s. `told` are its messages, with their times."""

    def __init__(self, table: ProcessTable, environment: dict[str, str]) -> None:
        super().__init__(environment)
        self.told: list[tuple[float, str]] = []
        self.reads = True
        self._table = table

    def _send(self, message: bytes) -> bool:
        if self.reads:
            self.told.append((self._table.time, message.decode()))
        return self.reads


class LogLines(logging.Handler):
    """The log of the package during a test, which fails by warnings and errors that it does not take."""

    def __init__(self, case: unittest.TestCase) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []
        case.addCleanup(lambda: case.assertEqual([], self.warnings()))
        logger = logging.getLogger("filestoraged")
        for name, value in (("handlers", [self]), ("propagate", False)):
            patched = mock.patch.object(logger, name, value)
            patched.start()
            case.addCleanup(patched.stop)

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)

    def take(self) -> list[str]:
        """Return the lines since the last call."""
        records, self._records = self._records, []
        return [record.getMessage() for record in records]

    def warnings(self) -> list[str]:
        """Return the warnings and errors since the last call, and forget the other lines."""
        self._records = [record for record in self._records if record.levelno >= logging.WARNING]
        return self.take()


class SupervisorCase(unittest.TestCase):
    """Two workers that serve. A test ends with an error in the log that it does not announce by `errors`: it fails."""

    count = 2
    # Of the service manager.
    environment = {"NOTIFY_SOCKET": "@none", "WATCHDOG_USEC": "30000000"}

    def setUp(self) -> None:
        super().setUp()
        self.log = LogLines(self)
        self.boot()
        self.supervisor.start()

    def boot(self) -> None:
        """Make a machine without processes, and a supervisor."""
        self.table = ProcessTable()
        self.manager = RecordingManager(self.table, self.environment)
        self.group = Group(self.count)
        self.supervisor = self.make_supervisor(Watchdog(self.table, self.table, self.manager))

    def make_supervisor(self, monitor: Monitor) -> Supervisor:
        return Supervisor(self.table, self.group, SLOTS, monitor, DRAIN_TIMEOUT)

    def run_for(self, seconds: float) -> None:
        """Let the master run for so long."""
        self.table.at(seconds, lambda: self.table.send(RELOAD_SIGNAL))
        self.assertEqual(RELOAD_SIGNAL, self.supervisor.run())

    def kill(self, *workers: Worker) -> None:
        for worker in workers:
            self.table.kill(worker.pid, signal.SIGKILL)

    def at(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        self.table.at(seconds, functools.partial(action, *arguments))

    def behave(self, **changes: Any) -> None:
        """Let the workers that are alive behave otherwise from now on."""
        for worker in self.table.alive:
            worker.behaviour = replace(worker.behaviour, **changes)

    def errors(self) -> list[str]:
        """Return the warnings and errors in the log since the last call: the test expects them."""
        return self.log.warnings()

    def assert_alive(self, *workers: Worker) -> None:
        self.assertEqual([each.pid for each in workers], [each.pid for each in self.table.alive])
