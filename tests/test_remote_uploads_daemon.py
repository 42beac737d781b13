"""Resumable uploads to daemons on one S3 store and one database, each with a directory of its own: kills and cuts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from tests.daemon.process import Daemon, running
from tests.postgresql import PostgresCase
from tests.runner.marks import long
from tests.store.s3.servers import Rclone, start_server
from tests.support import PATIENCE
from tests.tus import OCTETS, VERSION, metadata

MIB = 1024 * 1024


class RemoteDaemonCase(PostgresCase):
    def setUp(self) -> None:
        super().setUp()
        self.server_s3 = start_server(self, Rclone)
        self.bucket = self.server_s3.make_bucket()
        self._started = 0

    @contextlib.contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """A daemon on a machine without a history."""
        self._started += 1
        store = str(self.directory / f"machine{self._started}")
        options = ("--store", store, "--workers", "1", "--s3", self.bucket.url, "--database", self.url)
        with running(*options, environment=self.server_s3.environment) as daemon:
            yield daemon

    def ask(self, method: str, url: str, **fields: Any) -> requests.Response:
        data = fields.pop("data", None)
        named = {"Tus-Resumable": VERSION, **{name.replace("_", "-"): value for name, value in fields.items()}}
        # A request to a store that is gone may take longer than PATIENCE, up to 30 s.
        return requests.request(method, url, data=data, headers=named, timeout=3 * PATIENCE)

    def created(self, daemon: Daemon, length: int, **fields: str) -> str:
        answer = self.ask("POST", f"{daemon.url}/uploads", Upload_Length=str(length), **fields)
        self.assertEqual(201, answer.status_code, answer.text)
        return answer.headers["Location"]

    def append(self, url: str, offset: int, data: bytes, **fields: str) -> requests.Response:
        return self.ask("PATCH", url, Upload_Offset=str(offset), Content_Type=OCTETS, data=data, **fields)

    def offset(self, url: str) -> int:
        answer = self.ask("HEAD", url)
        self.assertEqual(200, answer.status_code, answer.headers)
        return int(answer.headers["Upload-Offset"])

    def begin(self, daemon: Daemon, path: str, offset: int, data: bytes, length: int) -> socket.socket:
        """Send a part of a piece."""
        connection = socket.create_connection(("127.0.0.1", daemon.ports[0]), timeout=PATIENCE)
        self.addCleanup(connection.close)
        connection.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: {VERSION}\r\nContent-Type: {OCTETS}\r\n"
            f"Upload-Offset: {offset}\r\nContent-Length: {length}\r\n\r\n".encode()
            + data
        )
        return connection

    def wait_until_held(self) -> None:
        self.wait_until("it is held", lambda: self.query("SELECT 1 FROM upload_holds WHERE holder IS NOT NULL"))

    def wait_until_received(self, daemon: Daemon, size: int) -> None:
        """Wait until the worker has so many bytes that are not recorded, or has recorded them for a silent client."""

        def is_received() -> bool:
            if self.query("SELECT 1 FROM upload_segments WHERE size = %s", size):
                return True
            for entry in Path(f"/proc/{daemon.worker}/fd").iterdir():
                # Another descriptor may be closed meanwhile.
                with contextlib.suppress(OSError):
                    # The file without a name.
                    if os.readlink(entry).endswith(" (deleted)") and entry.stat().st_size == size:
                        return True
            return False

        self.wait_until("it has the bytes", is_received)


class MachinesTest(RemoteDaemonCase):
    def test_upload_outlives_the_machine_that_received_its_first_bytes(self) -> None:
        data = os.urandom(5 * MIB)
        digest = hashlib.sha256(data).hexdigest()
        with self.daemon() as first:
            path = self.created(first, len(data), Upload_Metadata=metadata(hash=digest))
            told = self.append(first.url + path, 0, data[: 3 * MIB]).headers["Upload-Offset"]
            self.begin(first, path, 3 * MIB, data[3 * MIB : 4 * MIB], MIB + 1)
            self.wait_until_held()
            first.kill()

        with self.daemon() as second:
            # Until PostgreSQL has noticed the end of the session.
            self.wait_until("it is free", lambda: self.ask("HEAD", second.url + path).status_code == 200)
            found = self.offset(second.url + path)
            last = self.append(second.url + path, found, data[found:])
            stored = requests.get(second.url + last.headers["Content-Location"], timeout=PATIENCE).content

        self.assertEqual(("3145728", 204), (told, last.status_code))
        # On a busy machine, the first one may have recorded what a silent client had sent.
        self.assertIn(found, (3 * MIB, 4 * MIB))
        self.assertEqual(data, stored)
        self.assertEqual([f"{digest[:2]}/{digest}"], self.bucket.keys())

    def test_stopped_machine_is_taken_over_and_changes_nothing_when_it_wakes(self) -> None:
        with self.daemon() as first, self.daemon() as second:
            path = self.created(first, 12)
            self.append(first.url + path, 0, b"tea")
            late = self.begin(first, path, 3, b" and", 9)
            self.wait_until_received(first, len(b" and"))
            os.kill(first.worker, signal.SIGSTOP)
            try:
                late.sendall(b" lies")
                self.query("UPDATE upload_holds SET touched = touched - 6")
                found = self.offset(second.url + path)
                last = self.append(second.url + path, found, b"tea and milk"[found:])
            finally:
                os.kill(first.worker, signal.SIGCONT)
            answer = late.recv(65536)
            stored = requests.get(first.url + last.headers["Content-Location"], timeout=PATIENCE).content
            again = self.ask("HEAD", first.url + path)

        self.assertEqual(204, last.status_code)
        # On a busy machine, the first one may have recorded what a silent client had sent.
        self.assertIn(found, (3, 7))
        self.assertIn(b" 423 Locked", answer)
        self.assertEqual((b"tea and milk", "12"), (stored, again.headers["Upload-Offset"]))
        self.wait_until("late bytes are removed", lambda: len(self.bucket.keys()) == 1)

    @long("a storm of kills")
    def test_kills_at_any_moment_never_take_back_an_acknowledged_offset(self) -> None:
        data = random.Random(7).randbytes(3 * MIB)
        told = 0
        path = ""
        chance = random.Random(11)
        for _ in range(3):
            with self.daemon() as daemon:
                path = path or self.created(daemon, len(data))
                self.wait_until("it is free", lambda url=daemon.url + path: self.ask("HEAD", url).status_code == 200)
                found = self.offset(daemon.url + path)
                self.assertGreaterEqual(found, told)
                end = found + chance.randrange(MIB // 2)
                told = int(self.append(daemon.url + path, found, data[found:end]).headers["Upload-Offset"])
                # It is killed between any two bytes, or between the last one and the answer.
                with contextlib.suppress(OSError):
                    self.begin(daemon, path, told, data[told : told + chance.randrange(1, MIB // 4)], MIB // 4)
        with self.daemon() as daemon:
            self.wait_until("it is free", lambda: self.ask("HEAD", daemon.url + path).status_code == 200)
            found = self.offset(daemon.url + path)
            self.assertGreaterEqual(found, told)
            last = self.append(daemon.url + path, found, data[found:])
            stored = requests.get(daemon.url + last.headers["Content-Location"], timeout=PATIENCE).content

        self.assertEqual(data, stored)
        self.assertEqual(1, len(self.bucket.keys()))

    def test_upload_waits_for_a_store_that_is_gone_for_a_while(self) -> None:
        with self.daemon() as first, self.daemon() as second:
            path = self.created(first, 12)
            self.append(first.url + path, 0, b"tea")
            self.server_s3.kill()
            refused = self.append(first.url + path, 3, b" and")
            found = self.offset(second.url + path)
            incomplete = self.append(second.url + path, 3, b" and milk")
            self.server_s3.start()

            offset = self.offset(first.url + path)
            last = self.append(second.url + path, offset, b" and milk")

        self.assertEqual((503, 503), (refused.status_code, incomplete.status_code))
        self.assertIn("Retry-After", refused.headers)
        self.assertEqual((3, 3, 204), (found, offset, last.status_code))
        self.assertEqual(1, len(self.bucket.keys()))

    def test_drop_is_made_once_by_whichever_machine_gets_the_last_byte(self) -> None:
        with self.daemon() as first, self.daemon() as second:
            path = self.created(first, 12, Upload_Metadata=metadata(target="drops", filename="a.txt"))
            self.append(first.url + path, 0, b"tea and")
            last = self.append(second.url + path, 7, b" milk")
            drop = requests.get(first.url + last.headers["Content-Location"], timeout=PATIENCE)
            ended = self.ask("DELETE", first.url + path).status_code
            gone = self.ask("HEAD", second.url + path).status_code

        self.assertEqual((200, b"tea and milk", 204, 404), (drop.status_code, drop.content, ended, gone))
        self.assertEqual([], self.bucket.keys("uploads/"))
