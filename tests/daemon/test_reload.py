"""SIGHUP to a real daemon. Only real processes show who accepts on a shared socket, and that no client is refused.

`test_master.py` has what a reload reads, refuses and reports; `tests/web/test_server.py` what a worker that drains does
with its connections.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from pathlib import Path

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import TempCase, free_port, read_answer

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class ReloadTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "filestoraged.conf"
        self.configure()

    def configure(self, *lines: str) -> None:
        store = f"store = {self.directory / 'store'}"
        self.file.write_text("\n".join(["[filestoraged]", store, "workers = 2", *lines, ""]))

    def daemon(self) -> contextlib.AbstractContextManager[Daemon]:
        return running("--config", str(self.file))

    def end_of(self, pid: int) -> int:
        """A descriptor that is readable when the process has ended."""
        descriptor = os.pidfd_open(pid)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def test_connections_that_former_workers_do_not_accept_are_answered_by_new_ones(self) -> None:
        with self.daemon() as daemon, contextlib.ExitStack() as stack:
            former = daemon.workers()
            for pid in former:
                os.kill(pid, signal.SIGSTOP)
            self.wait_until("all threads have stopped", lambda: all(map(has_stopped, former)))
            address = ("127.0.0.1", daemon.ports[0])
            clients = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(20)]
            for client in clients:
                client.sendall(HEALTH)

            daemon.process.send_signal(signal.SIGHUP)
            statuses = [read_answer(client).status for client in clients]
            for pid in former:
                os.kill(pid, signal.SIGCONT)
            self.assertIn("RELOADING=1\n", daemon.next_message())
            self.assertIn("STATUS=Serving on ", daemon.next_message())

        self.assertEqual([200] * 20, statuses)

    def test_new_configuration_serves_on_the_same_port_and_a_former_worker_finishes_its_request(self) -> None:
        port = free_port()
        self.configure(f"admin-listen = 127.0.0.1:{port}")
        with self.daemon() as daemon, socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as upload:
            former = daemon.workers()
            upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            self.assertEqual(100, read_answer(upload).status)

            self.configure("max-size = 3")
            ends = [self.end_of(pid) for pid in former]
            self.assertIn("STATUS=Serving on ", daemon.reload())
            refused = requests.post(daemon.url, data=b"four", timeout=PATIENCE)
            upload.sendall(b"four")

            self.assertEqual((413, 200), (refused.status_code, read_answer(upload).status))
            upload.close()
            for end in ends:
                self.assertTrue(select.select([end], [], [], PATIENCE)[0])
            self.assertEqual(2, len(set(daemon.workers()) - set(former)))
            self.assertRaises(ConnectionRefusedError, socket.create_connection, ("127.0.0.1", port))


def has_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return {(thread / "stat").read_text().rpartition(")")[2].split()[0] for thread in threads} == {"T"}
