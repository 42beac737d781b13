"""The main thread of a worker, which waits for SIGTERM while its loop serves."""

from __future__ import annotations

import logging
import os
import signal
import unittest

from filestoraged.daemon.processes import BLOCKED_SIGNALS
from filestoraged.daemon.worker import wait_for_sigterm
from tests.daemon.process import has_pending


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
