"""Resumable uploads to a daemon of several processes: kills, cuts, and the clients that people use."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from typing import Any
from urllib.parse import urlsplit

import requests
from tusclient.client import TusClient

from filestoraged.store import layout
from tests.cutting_proxy import CuttingProxy
from tests.daemon.process import fork_command, running
from tests.support import PATIENCE, TempCase, ago
from tests.test_lfs_daemon import GitCase
from tests.tus import OCTETS, VERSION, UploadsCase

MIB = 1024 * 1024
TEA = hashlib.sha256(b"tea").hexdigest()


class DaemonCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "store"

    def ask(self, method: str, url: str, **fields: Any) -> requests.Response:
        data = fields.pop("data", None)
        named = {"Tus-Resumable": VERSION, **{name.replace("_", "-"): value for name, value in fields.items()}}
        return requests.request(method, url, data=data, headers=named, timeout=PATIENCE)

    def created(self, url: str, length: int, **fields: str) -> str:
        answer = self.ask("POST", f"{url}/uploads", Upload_Length=str(length), **fields)
        self.assertEqual(201, answer.status_code, answer.text)
        return str(answer.headers["Location"])

    def append(self, url: str, offset: int, data: bytes) -> requests.Response:
        return self.ask("PATCH", url, Upload_Offset=str(offset), Content_Type=OCTETS, data=data)

    def offset(self, url: str) -> int:
        return int(self.ask("HEAD", url).headers["Upload-Offset"])

    def begin(self, port: int, path: str, data: bytes, length: int) -> socket.socket:
        """Send a part of a piece, and wait until the daemon has written it."""
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.addCleanup(connection.close)
        connection.sendall(
            f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: {VERSION}\r\nContent-Type: {OCTETS}\r\n"
            f"Upload-Offset: 0\r\nContent-Length: {length}\r\n\r\n".encode()
            + data
        )
        file = self.store / path[1:]
        self.wait_until("the bytes are written", lambda: file.exists() and file.stat().st_size == len(data))
        return connection


class KilledTest(DaemonCase):
    def test_kill_keeps_the_bytes_that_were_answered_and_no_others_and_uploads_go_on(self) -> None:
        data = os.urandom(3 * MIB)
        options = ("--store", str(self.store), "--workers", "2")
        with running(*options) as daemon:
            path = self.created(daemon.url, len(data))
            self.append(daemon.url + path, 0, data[:MIB])
            interrupted = self.created(daemon.url, 12)
            self.begin(daemon.ports[0], interrupted, b"tea", 12)
            daemon.kill()

        with running(*options) as daemon:
            offsets = [self.offset(daemon.url + each) for each in (path, interrupted)]
            last = self.append(daemon.url + path, MIB, data[MIB:])
            other = self.append(daemon.url + interrupted, 0, b"tea and milk")
            stored = requests.get(daemon.url + last.headers["Content-Location"], timeout=PATIENCE).content

        self.assertEqual(([MIB, 0], 204, 204), (offsets, last.status_code, other.status_code))
        self.assertEqual(data, stored)

    def test_all_bytes_without_an_object_become_one_by_the_next_request(self) -> None:
        """As a kill between the last record and the commit leaves it."""
        self.announce(r"answering 500: NotADirectoryError: \[Errno 20\] '/.*/[0-9a-f]{2}' is not a directory")
        data = os.urandom(MIB)
        digest = hashlib.sha256(data).hexdigest()
        with running("--store", str(self.store)) as daemon:
            path = self.created(daemon.url, len(data))
            shard = self.store / layout.shard(digest)
            # A file in place of the directory.
            shard.touch()
            refused = self.append(daemon.url + path, 0, data)
            still = self.ask("HEAD", daemon.url + path)
            shard.unlink()
            found = self.ask("HEAD", daemon.url + path)
            stored = requests.get(f"{daemon.url}/{digest}", timeout=PATIENCE).content

        self.assertEqual((500, 500), (refused.status_code, still.status_code))
        self.assertEqual((200, f"/{digest}"), (found.status_code, found.headers["Content-Location"]))
        self.assertEqual(data, stored)

    def test_check_finds_bytes_without_a_row_and_rows_without_bytes(self) -> None:
        with running("--store", str(self.store)) as daemon:
            path = self.created(daemon.url, 12)
            self.append(daemon.url + path, 0, b"tea")
            self.assertEqual(0, fork_command("check", "--store", str(self.store), cwd=self.directory)[0])
            (self.store / path[1:]).rename(self.store / "uploads" / ("0" * 32))

            status, output, _ = fork_command("check", "--store", str(self.store), "--json", cwd=self.directory)
            lost = self.ask("HEAD", daemon.url + path).status_code

        found = {(each["kind"], each["path"]) for each in json.loads(output)["findings"]}
        self.assertEqual({("orphaned", f"uploads/{'0' * 32}"), ("missing", path[1:])}, found)
        self.assertEqual((1, 404), (status, lost))


class TwoDaemonsTest(DaemonCase):
    def test_silent_request_to_one_daemon_is_taken_over_by_another_on_the_same_store(self) -> None:
        with running("--store", str(self.store)) as one, running("--store", str(self.store)) as other:
            path = self.created(one.url, 12)
            silent = self.begin(one.ports[0], path, b"tea and", 12)
            self.assertEqual(423, self.ask("HEAD", other.url + path).status_code)
            past = ago(6)
            os.utime(self.store / (path[1:] + layout.UPLOAD_LOCK_SUFFIX), (past, past))

            # The first one may still have the file locked in which the bytes are already.
            self.wait_until("it is taken over", lambda: self.ask("HEAD", other.url + path).status_code == 200)
            offset = self.offset(other.url + path)
            last = self.append(other.url + path, offset, b" milk")
            silent.sendall(b" lies")
            answer = silent.recv(65536)

        self.assertEqual((7, 204), (offset, last.status_code))
        self.assertIn(b" 423 Locked", answer)
        digest = last.headers["Content-Location"][1:]
        self.assertEqual(b"tea and milk", (self.store / layout.shard(digest) / digest).read_bytes())


class TuspyTest(DaemonCase):
    """`tests.pages.test_tus_clients` has the clients of browsers."""

    def test_tuspy_uploads_through_a_proxy_that_cuts_connections_and_sends_little_twice(self) -> None:
        # tuspy does not close it.
        self.announce("ResourceWarning: unclosed file .*/film.mp4'")
        data = os.urandom(12 * MIB)
        file = self.directory / "film.mp4"
        file.write_bytes(data)
        with running("--store", str(self.store), "--workers", "2") as daemon:
            with CuttingProxy(daemon.ports[0], every=5 * MIB, cuts=2) as proxy:
                uploader = TusClient(f"{proxy.url}/uploads").uploader(
                    str(file), chunk_size=4 * MIB, metadata={"filename": "film.mp4"}, retries=100, retry_delay=1
                )
                uploader.upload()
            answer = requests.get(uploader.url.replace(proxy.url, daemon.url), timeout=PATIENCE).json()

        self.assertEqual({"hash": hashlib.sha256(data).hexdigest(), "size": len(data)}, answer)
        self.assertEqual(2, proxy.cuts)
        # From the start again at each cut it would be 1.8 times. A cut costs more on a busy machine, where
        # the client goes on before the daemon has read what was sent; the proof of uploads measures that.
        self.assertLess(proxy.sent, 1.5 * len(data))


class GitLfsTest(GitCase):
    def test_push_by_tus_goes_on_where_it_was_cut(self) -> None:
        data = os.urandom(12 * MIB)
        with running("--store", str(self.store), "--workers", "2") as daemon:
            with CuttingProxy(daemon.ports[0], every=5 * MIB, cuts=1) as proxy:
                first = self.first(f"{proxy.url}/data/game")
                first.git("config", "lfs.tustransfers", "true")
                first.git("config", "lfs.concurrenttransfers", "1")
                first.commit(film=data, small=b"tea", empty=b"")
                while True:
                    try:
                        first.git("push", "--quiet", "origin", "main")
                        break
                    except Exception:
                        self.assertLess(proxy.cuts, 3)
            second = self.first_clone(daemon.url)
            patched = daemon.lines_with(" PATCH /uploads/*** 204 ")
            lines = daemon.lines()

        self.assertEqual((data, b"tea"), (second.read("film"), second.read("small")))
        self.assertTrue(patched)
        self.assertFalse([line for line in lines if " PUT /data/game" in line])
        self.assertLess(proxy.sent, 1.3 * len(data))

    def first_clone(self, url: str) -> Any:
        clone = self.user("any")
        clone.git("-c", f"lfs.url={url}/data/game", "clone", "--quiet", str(self.remote), "second")
        return type(clone)(self.directory / "second", clone._home)


class BatchTest(UploadsCase):
    def batch(self, user: str, *transfers: str) -> dict[str, Any]:
        body: dict[str, Any] = {"operation": "upload", "objects": [{"oid": TEA, "size": 3}]}
        if transfers:
            body["transfers"] = transfers
        basic = base64.b64encode(f"{user}:".encode()).decode()
        answer = self.post("/data/game/objects/batch", json.dumps(body), Authorization=f"Basic {basic}")
        told: dict[str, Any] = json.loads(answer.body)
        return told

    def path(self, user: str, *transfers: str) -> str:
        told = self.batch(user, *transfers)
        self.assertEqual("tus", told["transfer"])
        return urlsplit(str(told["objects"][0]["actions"]["upload"]["href"])).path

    def test_batch_by_tus_returns_one_upload_for_each_owner_and_object(self) -> None:
        anns, again, bobs = self.path("ann", "basic", "tus"), self.path("ann", "tus"), self.path("bob", "tus", "basic")
        found = [self.offset(anns), self.append(anns, 0, b"t").status, self.offset(bobs)]
        done = self.append(bobs, 0, b"tea")
        wrong = self.append(anns, 1, b"oa")

        self.assertEqual(anns, again)
        self.assertNotEqual(anns, bobs)
        self.assertEqual([0, 204, 0], found)
        self.assertEqual((204, 460, b"tea"), (done.status, wrong.status, self.get(f"/data/game/{TEA}").body))
        self.assertEqual("basic", self.batch("ann")["transfer"])
