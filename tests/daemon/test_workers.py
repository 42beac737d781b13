"""Several workers under one master: all serve, the dead are replaced, and none outlives the master.

Only real processes show that they share sockets, a store and the connection limit, that a killed one leaves stagings
which the next one sweeps, that the end of the master ends them, and that no signal to their group is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import requests

from tests.daemon.process import KILLED_WORKER, PATIENCE, Daemon, running
from tests.support import TempCase, in_threads, read_answer


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def status_of(client: socket.socket, method: str, digest: str) -> int:
    client.sendall(f"{method} /{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return read_answer(client).status


class WorkersTest(TempCase):
    def daemon(self) -> contextlib.AbstractContextManager[Daemon]:
        return running("--workers", "3", "--store", str(self.directory / "store"))

    def test_object_stored_by_one_worker_is_served_by_the_configured_number(self) -> None:
        with self.daemon() as daemon:
            digest = requests.post(daemon.url, data=b"tea", timeout=PATIENCE).json()["hash"]

            bodies = in_threads(30, lambda _: requests.get(f"{daemon.url}/{digest}", timeout=PATIENCE).content)

            self.assertEqual([b"tea"] * 30, bodies)
            self.assertEqual(3, len(daemon.workers()))
            self.assertTrue(any("with 3 workers" in line for line in daemon.lines()))

    def test_object_removed_by_one_worker_is_not_served_from_the_memory_of_another(self) -> None:
        with self.daemon() as daemon, contextlib.ExitStack() as stack:
            address = ("127.0.0.1", daemon.ports[0])
            clients = [stack.enter_context(socket.create_connection(address)) for _ in range(12)]
            for number in range(20):
                digest = requests.post(daemon.url, data=b"tea %d" % number, timeout=PATIENCE).json()["hash"]
                before = [status_of(client, "GET", digest) for client in clients * 2]

                removed = status_of(clients[number % 12], "DELETE", digest)

                self.assertEqual(([200] * 24, 200), (before, removed))
                self.assertEqual([404] * 12, [status_of(client, "GET", digest) for client in clients])

    def test_connection_limit_holds_for_all_workers_together(self) -> None:
        where = ("--store", str(self.directory / "store"), "--max-connections", "7")
        with running("--workers", "3", *where) as daemon, contextlib.ExitStack() as stack:
            address = ("127.0.0.1", daemon.ports[0])
            uploads = [stack.enter_context(socket.create_connection(address)) for _ in range(7)]
            for upload in uploads:
                upload.sendall(
                    b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
                )
            begun = [read_answer(upload).status for upload in uploads]
            others = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
            refused = [read_answer(other).status for other in others]

        self.assertEqual(([100] * 7, [503] * 3), (begun, refused))

    def test_killed_worker_is_replaced_and_its_stagings_are_swept(self) -> None:
        self.announce(KILLED_WORKER)
        with self.daemon() as daemon, socket.create_connection(("127.0.0.1", daemon.ports[0])) as upload:
            upload.sendall(
                b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999\r\n\r\n"
            )
            self.assertEqual(100, read_answer(upload).status)
            staging = self.directory / "store" / "staging"
            self.assertEqual(1, len(self.files_below(staging)))
            first = daemon.workers()

            for pid in first:
                os.kill(pid, signal.SIGKILL)

            self.wait_until("three others", lambda: len(set(daemon.workers()) - set(first)) == 3)
            self.assertEqual(200, requests.get(f"{daemon.url}/-/health", timeout=PATIENCE).status_code)
            self.wait_until("swept", lambda: not self.files_below(staging))
            self.assertEqual(3, sum("died after" in line and "SIGKILL" in line for line in daemon.lines()))

    def test_workers_exit_when_the_master_is_killed(self) -> None:
        with self.daemon() as daemon:
            workers = daemon.workers()

            daemon.process.kill()

            self.wait_until("all gone", lambda: not any(is_running(pid) for pid in workers))

    def test_signal_to_the_whole_group_finishes_requests_in_flight(self) -> None:
        with self.daemon() as daemon, socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as upload:
            upload.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
            self.assertEqual(100, read_answer(upload).status)

            for pid in [*daemon.workers(), daemon.process.pid]:
                os.kill(pid, signal.SIGINT)
            daemon.lines_with("draining")
            upload.sendall(b"tea")
            answer = read_answer(upload)

            self.assertEqual((200, "close"), (answer.status, answer.fields["connection"]))
            upload.close()
            self.assertEqual(0, daemon.process.wait(PATIENCE))
            self.assertRaises(OSError, socket.create_connection, ("127.0.0.1", daemon.ports[0]))
