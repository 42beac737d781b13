"""The main thread of a worker: it waits for SIGTERM while the loop serves, and drains it."""

from __future__ import annotations

import json
import logging
import os
import signal
import unittest
from unittest import mock

from filestoraged.daemon.processes import BLOCKED_SIGNALS
from filestoraged.daemon.worker import drain, wait_for_sigterm
from filestoraged.web.limits import Limits
from tests.clock import VirtualClock
from tests.daemon.process import has_pending
from tests.support import PATIENCE, ServerCase

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


class WaitTest(unittest.TestCase):
    def test_worker_that_is_stopped_and_continued_waits_on_and_writes_its_log(self) -> None:
        """In a process of its own: only the kernel shows what a timer does that goes off while a process is stopped."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        worker = os.fork()
        if not worker:
            wait_and_report_flushes(writer)
        os.close(writer)
        self.assertEqual(b"!", os.read(reader, 1))

        os.kill(worker, signal.SIGSTOP)
        while not has_pending(worker, signal.SIGALRM):
            os.sched_yield()
        os.kill(worker, signal.SIGCONT)

        self.assertEqual(b"!!!", b"".join(os.read(reader, 1) for _ in range(3)))
        os.kill(worker, signal.SIGTERM)
        self.assertEqual((worker, 7 << 8), os.waitpid(worker, 0))


class DrainTimeTest(unittest.TestCase):
    def test_pending_writes_have_the_rest_of_30_seconds_and_3_at_least(self) -> None:
        for taken, left in ((0.0, 30.0), (20.0, 10.0), (28.0, 3.0), (31.0, 3.0)):
            with self.subTest(taken=taken):
                self.assertEqual((True, left), self.drain(taken))

    def test_worker_has_drained_when_requests_and_writes_have_finished_in_time(self) -> None:
        for served, stopped in ((True, False), (False, True), (False, False)):
            with self.subTest(served=served, stopped=stopped):
                self.assertFalse(self.drain(0.0, served, stopped)[0])

    def drain(self, taken: float, served: bool = True, stopped: bool = True) -> tuple[bool, float]:
        """Drain a server that takes so long. Returns the result, and the seconds that the services have."""
        clock, status = VirtualClock(), mock.Mock()
        serving, services = mock.Mock(), mock.Mock()
        serving.drain.side_effect = lambda *_: (clock.advance(taken), served)[1]  # type: ignore[func-returns-value]
        services.stop.return_value = stopped

        drained = drain(serving, services, status, clock)

        serving.drain.assert_called_once_with(30.0, status.report_not_accepting)
        return drained, services.stop.call_args.args[0]


class WorkerTest(ServerCase):
    limits = Limits(notice=0.02, last_call=PATIENCE)

    def test_store_that_cannot_be_swept_is_served(self) -> None:
        digest = json.loads(self.post("/", b"tea").body)["hash"]
        staging = self.store_path / "staging"
        staging.rename(self.directory / "lost")
        staging.touch()

        self.services.sweep()

        self.assertEqual(b"tea", self.get(f"/{digest}").body)
        self.assertIn("cannot sweep", "".join(self.log_lines(logging.WARNING)))


class Reporting(logging.Handler):
    """Writes a byte when it is flushed."""

    def __init__(self, writer: int) -> None:
        super().__init__()
        self._writer = writer

    def flush(self) -> None:
        os.write(self._writer, b"!")


def wait_and_report_flushes(writer: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED_SIGNALS)
    logging.getLogger().addHandler(Reporting(writer))
    wait_for_sigterm(0.02)
    os._exit(7)
