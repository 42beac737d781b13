"""Lines reach standard error whole and in order, and one that is not read stops nothing."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import unittest
from unittest import mock

from filestoraged.daemon import logs
from filestoraged.daemon.logs import MAX_WAITING, LogOutput
from tests.daemon.process import PATIENCE, ROOT, clean_environment
from tests.runner.judge import announce
from tests.support import TempCase

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"

DROPPED = re.compile(r"(\d+) log lines were dropped: standard error was not read")


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("filestoraged", logging.INFO, "file", 1, message, (), None)


def read_now(descriptor: int) -> bytes:
    """All that can be read at once."""
    os.set_blocking(descriptor, False)
    received = b""
    try:
        while True:
            received += os.read(descriptor, 65536)
    except BlockingIOError:
        return received


class PipeTest(unittest.TestCase):
    def setUp(self) -> None:
        self.reader, self.writer = self.open()
        self.addCleanup(os.close, self.reader)
        self.output = LogOutput(self.writer)
        self.addCleanup(self.output.close)

    def open(self) -> tuple[int, int]:
        reader, writer = os.pipe()
        self.addCleanup(os.close, writer)
        return reader, writer

    def emit(self, *messages: str) -> None:
        for message in messages:
            self.output.handle(record(message))

    def fill(self) -> list[str]:
        """Log until standard error takes no more and the backlog is used up. Returns the lines."""
        lines = [f"line {number} {'x' * 990}" for number in range(3 * MAX_WAITING // 1000)]
        self.emit(*lines)
        return lines

    def read_lines(self) -> list[str]:
        """Read what there is, and what the output writes once it is flushed, until that is all."""
        received = b""
        while True:
            more = read_now(self.reader)
            self.output.flush()
            if not more:
                return received.decode().splitlines()
            received += more

    def test_line_is_written_at_once(self) -> None:
        self.emit("one", "two\nthree")

        self.assertEqual(b"one\ntwo\nthree\n", read_now(self.reader))

    def test_reader_that_reads_nothing_is_waited_for_once(self) -> None:
        with mock.patch.object(logs, "_is_ready", wraps=logs._is_ready) as wait:
            self.fill()

        self.assertEqual(1, wait.call_count)

    def test_lines_beyond_the_limit_are_dropped_and_counted_and_others_stay_in_order(self) -> None:
        lines = self.fill()

        received = self.read_lines()

        kept = len(received) - 1
        self.assertEqual(lines[:kept], received[:-1])
        told = DROPPED.fullmatch(received[-1])
        self.assertEqual(len(lines) - kept, told and int(told.group(1)))
        self.assertGreater(kept * 1000, MAX_WAITING - 2000)

    def test_lines_are_written_again_after_the_reader_has_read(self) -> None:
        self.fill()
        self.read_lines()

        self.emit("again")

        self.assertEqual(b"again\n", read_now(self.reader))

    def test_lines_that_wait_are_written_at_the_end_while_they_are_read(self) -> None:
        lines = self.fill()
        is_ready, received = logs._is_ready, bytearray()

        def read() -> None:
            while b"were dropped" not in received:
                received.extend(os.read(self.reader, 65536))

        reader = threading.Thread(target=read, daemon=True)
        # However long this machine keeps the reader waiting.
        with mock.patch.object(logs, "_is_ready", lambda descriptor: is_ready(descriptor, PATIENCE)):
            reader.start()
            self.output.finish()
        reader.join(PATIENCE)

        *kept, told = received.decode().splitlines()
        self.assertEqual(lines[: len(kept)], kept)
        self.assertEqual(f"{len(lines) - len(kept)} log lines were dropped: standard error was not read", told)

    def test_line_longer_than_an_atomic_write_is_written_whole(self) -> None:
        self.emit("x" * 10_000, "next")

        self.assertEqual(["x" * 10_000, "next"], self.read_lines())

    def test_standard_error_stays_blocking_for_other_processes(self) -> None:
        self.assertEqual(0, fcntl.fcntl(self.writer, fcntl.F_GETFL) & os.O_NONBLOCK)

    def test_forked_process_leaves_waiting_lines_to_its_parent(self) -> None:
        lines = self.fill()
        pid = os.fork()
        if not pid:
            read_now(self.reader)
            self.emit("of the child")
            os._exit(0)
        os.waitpid(pid, 0)

        received = self.read_lines()

        self.assertEqual("of the child", received[0])
        self.assertIn(received[1], lines)

    def test_broken_pipe_is_ignored(self) -> None:
        reader, writer = os.pipe()
        output = LogOutput(writer)
        os.close(reader)

        output.handle(record("without a reader"))

        output.close()
        os.close(writer)


class SocketTest(PipeTest):
    """The journal's."""

    def open(self) -> tuple[int, int]:
        # `LogOutput` leaves the socket that it sends by to its last reference.
        announce(r"ResourceWarning: unclosed <socket.socket fd=\d+, family=1, type=1, proto=0>")
        reader, writer = socket.socketpair()
        self.addCleanup(writer.close)
        self.addCleanup(reader.detach)
        return reader.fileno(), writer.fileno()


class NoStandardErrorTest(unittest.TestCase):
    def test_closed_standard_error_drops_lines(self) -> None:
        output = LogOutput(987_654)

        output.handle(record("without a reader"))

        output.close()


class UnreadDaemonTest(TempCase):
    def test_daemon_with_unread_standard_error_answers_every_request(self) -> None:
        arguments = ("--listen", "127.0.0.1:0", "--workers", "1", "--store", str(self.directory / "store"))
        command = [sys.executable, "-m", "filestoraged", *arguments]
        daemon = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stderr=subprocess.PIPE)
        self.addCleanup(daemon.wait)
        self.addCleanup(daemon.kill)
        assert daemon.stderr is not None
        self.addCleanup(daemon.stderr.close)
        port = 0
        while not port:
            found = re.search(rb"listening on 127.0.0.1:(\d+) ", daemon.stderr.readline())
            port = int(found.group(1)) if found else 0

        answered = 0
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
            # 3,000 lines of some 70 bytes are far more than a pipe takes.
            for _ in range(30):
                connection.sendall(HEALTH * 100)
                received = b""
                while received.count(b"}") < 100:
                    received += connection.recv(65536)
                answered += received.count(b"HTTP/1.1 200 ")
        # What waits is written when there is a reader again: here before the end, at which a worker gives up a reader
        # that this machine keeps waiting for a moment.
        logged = 0
        overdue = threading.Timer(PATIENCE, daemon.kill)
        overdue.start()
        while logged < 3000 and (line := daemon.stderr.readline()) and b"were dropped" not in line:
            logged += b"GET /-/health 200" in line
        overdue.cancel()
        daemon.terminate()
        rest = daemon.stderr.read()

        self.assertEqual((3000, 3000), (answered, logged))
        self.assertNotIn(b"GET /-/health", rest)
        self.assertEqual(0, daemon.wait(PATIENCE))
