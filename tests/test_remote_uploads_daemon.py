"""Resumable uploads to daemons on one S3 store and one database, each with a directory of its own, that are killed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket

import requests

from tests.daemon.process import Daemon, running
from tests.postgresql import PostgresCase
from tests.runner.marks import long
from tests.store.s3.servers import Rclone, shared
from tests.support import PATIENCE
from tests.tus import OCTETS, VERSION, metadata

MIB = 1024 * 1024


class MachinesTest(PostgresCase):
    def setUp(self) -> None:
        super().setUp()
        self.bucket = shared(Rclone).make_bucket()
        self._started = 0

    def daemon(self) -> contextlib.AbstractContextManager[Daemon]:
        """A daemon on a machine without a history."""
        self._started += 1
        store = str(self.directory / f"machine{self._started}")
        options = ("--store", store, "--workers", "1", "--s3", self.bucket.url, "--database", self.url)
        return running(*options, environment=self.bucket.server.environment)

    def ask(self, method: str, url: str, data: bytes = b"", **fields: str) -> requests.Response:
        named = {"Tus-Resumable": VERSION, **{name.replace("_", "-"): value for name, value in fields.items()}}
        return requests.request(method, url, data=data, headers=named, timeout=PATIENCE)

    def created(self, daemon: Daemon, length: int, **fields: str) -> str:
        answer = self.ask("POST", f"{daemon.url}/uploads", b"", Upload_Length=str(length), **fields)
        self.assertEqual(201, answer.status_code, answer.text)
        return str(answer.headers["Location"])

    def append(self, url: str, offset: int, data: bytes) -> requests.Response:
        return self.ask("PATCH", url, data, Upload_Offset=str(offset), Content_Type=OCTETS)

    def free_offset(self, url: str) -> int:
        """The offset, once PostgreSQL has noticed the end of the session that held the upload."""
        self.wait_until("it is free", lambda: self.ask("HEAD", url).status_code == 200)
        return int(self.ask("HEAD", url).headers["Upload-Offset"])

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

    def test_upload_outlives_the_machine_that_received_its_first_bytes(self) -> None:
        data = os.urandom(5 * MIB)
        digest = hashlib.sha256(data).hexdigest()
        with self.daemon() as first:
            path = self.created(first, len(data), Upload_Metadata=metadata(hash=digest))
            told = self.append(first.url + path, 0, data[: 3 * MIB]).headers["Upload-Offset"]
            self.begin(first, path, 3 * MIB, data[3 * MIB : 4 * MIB], MIB + 1)
            held = "SELECT 1 FROM upload_holds WHERE holder IS NOT NULL"
            self.wait_until("it is held", lambda: bool(self.query(held)))
            first.kill()

        with self.daemon() as second:
            found = self.free_offset(second.url + path)
            last = self.append(second.url + path, found, data[found:])
            stored = requests.get(second.url + last.headers["Content-Location"], timeout=PATIENCE).content

        self.assertEqual(("3145728", 204), (told, last.status_code))
        # On a busy machine, the first one may have recorded more: after 5 s.
        self.assertIn(found, (3 * MIB, 4 * MIB))
        self.assertEqual(data, stored)
        self.assertEqual([f"{digest[:2]}/{digest}"], self.bucket.keys())

    @long("a storm of kills")
    def test_kills_at_any_moment_never_take_back_an_acknowledged_offset(self) -> None:
        data = random.Random(7).randbytes(3 * MIB)
        told = 0
        path = ""
        chance = random.Random(11)
        for _ in range(3):
            with self.daemon() as daemon:
                path = path or self.created(daemon, len(data))
                found = self.free_offset(daemon.url + path)
                self.assertGreaterEqual(found, told)
                end = found + chance.randrange(MIB // 2)
                told = int(self.append(daemon.url + path, found, data[found:end]).headers["Upload-Offset"])
                # It is killed between any two bytes, or between the last one and the answer.
                with contextlib.suppress(OSError):
                    self.begin(daemon, path, told, data[told : told + chance.randrange(1, MIB // 4)], MIB // 4)
        with self.daemon() as daemon:
            found = self.free_offset(daemon.url + path)
            self.assertGreaterEqual(found, told)
            last = self.append(daemon.url + path, found, data[found:])
            stored = requests.get(daemon.url + last.headers["Content-Location"], timeout=PATIENCE).content

        self.assertEqual(data, stored)
        self.assertEqual(1, len(self.bucket.keys()))
