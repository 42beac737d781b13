"""Common HTTP clients against a daemon, each used as its manual says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from typing import Any

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import TempCase, find_program


class ClientCase(TempCase):
    """A file, its hash, and a daemon that serves `files` and `repositories` to all tests of a class."""

    daemon: Daemon

    @classmethod
    def setUpClass(cls) -> None:
        store = tempfile.TemporaryDirectory(prefix="filestoraged-")
        cls.addClassCleanup(store.cleanup)
        cls.daemon = cls.enterClassContext(running("--store", store.name))

    def setUp(self) -> None:
        super().setUp()
        self.url = self.daemon.url
        self.data = os.urandom(5_000_000)
        self.hash = hashlib.sha256(self.data).hexdigest()
        self.file = self.directory / "cat.jpg"
        self.file.write_bytes(self.data)

    def run_client(self, *command: str, **settings: Any) -> bytes:
        """Run a client, which must succeed, and return what it prints."""
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        settings = {"capture_output": True, "timeout": PATIENCE, "env": environment, "cwd": self.directory, **settings}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(
            [find_program(command[0]), *command[1:]], check=False, **settings
        )
        self.assertEqual(0, done.returncode, done.stderr.decode(errors="replace"))
        return done.stdout

    def upload(self) -> str:
        """Upload the file by other means, and return its URL."""
        requests.post(self.url, data=self.data, timeout=PATIENCE)
        return f"{self.url}/{self.hash}"

    def assert_got(self, name: str = "got") -> None:
        self.assertTrue((self.directory / name).read_bytes() == self.data)


class CurlTest(ClientCase):
    def test_file_is_uploaded_in_each_way(self) -> None:
        for name, path, options in (
            ("hash", "/", ("--data-binary", "@cat.jpg")),
            ("hash", "/", ("-F", "note=hello", "-F", "file=@cat.jpg")),
            ("oid", "/data/pets", ("-T", "cat.jpg")),
            ("oid", "/data/pets", ("-T", "-")),
        ):
            with self.subTest(options=options):
                answer = self.run_client("curl", "-sS", *options, self.url + path, input=self.data)

                self.assertEqual({name: self.hash, "size": 5_000_000}, json.loads(answer))

    def test_download_and_delete_succeed(self) -> None:
        url = self.upload()

        self.run_client("curl", "-sSf", "-o", "got", f"{self.url}/?hash={self.hash}")
        self.run_client("curl", "-sSfOJ", f"{self.url}/?hash={self.hash}&name=pet.jpg")
        self.run_client("curl", "-sSf", "-X", "DELETE", f"{self.url}/?hash={self.hash}")
        status = self.run_client("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url)

        self.assert_got()
        self.assert_got("pet.jpg")
        self.assertEqual(b"404", status)

    def test_current_file_is_not_downloaded_again(self) -> None:
        fetch = ("curl", "-sS", "--etag-save", "tag", "--etag-compare", "tag", "-o", "got", "-w", "%{http_code}")
        url = self.upload()

        codes = [self.run_client(*fetch, url) for _ in range(2)]

        self.assertEqual([b"200", b"304"], codes)

    def test_refused_upload_sends_no_bytes_of_its_body(self) -> None:
        what = "%{http_code} %{size_upload}"

        sent = self.run_client("curl", "-sS", "-o", "/dev/null", "-w", what, "-T", "cat.jpg", self.url + "/data/a%20b")

        self.assertEqual(b"400 0", sent)


class DownloadersTest(ClientCase):
    def test_broken_download_is_resumed(self) -> None:
        for command in (("curl", "-sSf", "-C", "-", "-o", "got"), ("wget", "-q", "-c", "-O", "got")):
            with self.subTest(command[0]):
                (self.directory / "got").write_bytes(self.data[:1_234_567])

                self.run_client(*command, self.upload())

                self.assert_got()

    def test_wget_uploads_and_downloads(self) -> None:
        answer = self.run_client("wget", "-q", "-O", "-", "--post-file=cat.jpg", self.url + "/")

        self.run_client("wget", "-q", "-O", "got", f"{self.url}/?hash={self.hash}")

        self.assertEqual(self.hash, json.loads(answer)["hash"])
        self.assert_got()

    def test_aria2_downloads_ranges_at_a_time(self) -> None:
        self.run_client("aria2c", "-q", "-x4", "-s4", "-k1M", "-o", "got", self.upload())

        self.assert_got()
        self.assertGreater(len(self.daemon.lines_with(f"GET /{self.hash} 206", count=2)), 1)


class RequestsTest(ClientCase):
    def test_raw_chunked_and_form_uploads_succeed(self) -> None:
        with requests.Session() as session, self.file.open("rb") as stream:
            answers = [
                session.post(self.url, data=self.data, timeout=PATIENCE),
                session.post(self.url, data=iter([self.data]), timeout=PATIENCE),
                session.post(self.url, files={"file": ("cäfé.jpg", stream)}, data={"a": "b"}, timeout=PATIENCE),
                session.put(self.url + "/data/pets", data=self.data, timeout=PATIENCE),
            ]

        self.assertEqual([200, 200, 200, 201], [answer.status_code for answer in answers])
        self.assertEqual({self.hash}, {answer.json().get("hash") or answer.json()["oid"] for answer in answers})
        self.assertTrue(requests.get(self.url, params={"hash": self.hash}, timeout=PATIENCE).content == self.data)

    def test_large_refused_upload_receives_its_response(self) -> None:
        answer = requests.put(self.url, data=b"x" * 50_000_000, timeout=PATIENCE)

        self.assertEqual(405, answer.status_code)
