"""Common HTTP clients against a daemon, each used as its manual says."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
from pathlib import Path

import requests

from tests.daemon.process import PATIENCE, Daemon
from tests.support import TempCase, find_program, in_threads


class ClientCase(TempCase):
    """A file, its hash, and a daemon that serves `files` and `repositories`."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon = Daemon("--listen", "127.0.0.1:0", "--store", str(self.directory / "store")).wait_until_listening()
        self.addCleanup(self.daemon.kill)
        self.url = self.daemon.url
        self.data = os.urandom(5_000_000)
        self.hash = hashlib.sha256(self.data).hexdigest()
        self.file = self.directory / "cat.jpg"
        self.file.write_bytes(self.data)
        self.got = self.directory / "got"

    def run_client(self, *command: str, **settings: object) -> bytes:
        """Run a client, which must succeed, and return what it prints."""
        program = find_program(command[0])
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(
            [program, *command[1:]],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env=environment,
            cwd=self.directory,
            **settings,  # type: ignore[call-overload]
        )
        self.assertEqual(0, done.returncode, done.stderr.decode(errors="replace"))
        return bytes(done.stdout)

    def uploaded(self, answer: bytes) -> dict[str, object]:
        value = json.loads(answer)
        assert isinstance(value, dict)
        return value


class CurlTest(ClientCase):
    def test_data_binary_uploads_a_file(self) -> None:
        answer = self.run_client("curl", "-sS", "--data-binary", "@cat.jpg", self.url + "/")

        self.assertEqual({"hash": self.hash, "size": 5_000_000}, self.uploaded(answer))

    def test_form_uploads_a_file(self) -> None:
        answer = self.run_client("curl", "-sS", "-F", "note=hello", "-F", "file=@cat.jpg", self.url + "/")

        self.assertEqual({"hash": self.hash, "size": 5_000_000}, self.uploaded(answer))

    def test_upload_to_a_repository_answers_its_oid(self) -> None:
        answer = self.run_client("curl", "-sS", "-T", "cat.jpg", self.url + "/data/pets")

        self.assertEqual({"oid": self.hash, "size": 5_000_000}, self.uploaded(answer))

    def test_upload_from_a_pipe_is_stored(self) -> None:
        answer = self.run_client("curl", "-sS", "-T", "-", self.url + "/data/pets", input=self.data)

        self.assertEqual({"oid": self.hash, "size": 5_000_000}, self.uploaded(answer))

    def test_download_and_delete_succeed(self) -> None:
        self.run_client("curl", "-sS", "--data-binary", "@cat.jpg", self.url + "/")

        self.run_client("curl", "-sSf", "-o", "got", f"{self.url}/?hash={self.hash}")
        self.run_client("curl", "-sSf", "-X", "DELETE", f"{self.url}/?hash={self.hash}")
        status = self.run_client("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"{self.url}/{self.hash}")

        self.assertEqual(self.data, self.got.read_bytes())
        self.assertEqual(b"404", status)

    def test_broken_download_is_resumed(self) -> None:
        self.run_client("curl", "-sS", "--data-binary", "@cat.jpg", self.url + "/")
        self.got.write_bytes(self.data[:1_234_567])

        self.run_client("curl", "-sSf", "-C", "-", "-o", "got", f"{self.url}/{self.hash}")

        self.assertEqual(self.data, self.got.read_bytes())

    def test_download_is_saved_under_its_name(self) -> None:
        self.run_client("curl", "-sS", "--data-binary", "@cat.jpg", self.url + "/")

        self.run_client("curl", "-sSfOJ", f"{self.url}/?hash={self.hash}&name=pet.jpg")

        self.assertEqual(self.data, (self.directory / "pet.jpg").read_bytes())

    def test_current_file_is_not_downloaded_again(self) -> None:
        self.run_client("curl", "-sS", "--data-binary", "@cat.jpg", self.url + "/")
        fetch = ("curl", "-sS", "--etag-save", "tag", "--etag-compare", "tag", "-o", "got", "-w", "%{http_code}")

        codes = [self.run_client(*fetch, f"{self.url}/{self.hash}") for _ in range(2)]

        self.assertEqual([b"200", b"304"], codes)

    def test_refused_upload_sends_no_bytes_of_its_body(self) -> None:
        what = "%{http_code} %{size_upload}"

        sent = self.run_client("curl", "-sS", "-o", "/dev/null", "-w", what, "-T", "cat.jpg", self.url + "/data/a%20b")

        self.assertEqual(b"400 0", sent)


class WgetTest(ClientCase):
    def test_upload_and_download_succeed(self) -> None:
        answer = self.run_client("wget", "-q", "-O", "-", "--post-file=cat.jpg", self.url + "/")

        self.run_client("wget", "-q", "-O", "got", f"{self.url}/?hash={self.hash}")

        self.assertEqual(self.hash, self.uploaded(answer)["hash"])
        self.assertEqual(self.data, self.got.read_bytes())

    def test_broken_download_is_continued(self) -> None:
        requests.post(self.url, data=self.data, timeout=PATIENCE)
        self.got.write_bytes(self.data[:1_234_567])

        self.run_client("wget", "-q", "-c", "-O", "got", f"{self.url}/{self.hash}")

        self.assertEqual(self.data, self.got.read_bytes())


class Aria2Test(ClientCase):
    def test_file_is_downloaded_in_ranges(self) -> None:
        requests.post(self.url, data=self.data, timeout=PATIENCE)

        self.run_client("aria2c", "-q", "-x4", "-s4", "-k1M", "-o", "got", f"{self.url}/{self.hash}")

        self.assertEqual(self.data, self.got.read_bytes())
        partial = self.daemon.lines_with(f"GET /{self.hash} 206", count=2)
        self.assertGreater(len(partial), 1)


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

    def test_download_succeeds(self) -> None:
        requests.post(self.url, data=self.data, timeout=PATIENCE)

        answer = requests.get(self.url, params={"hash": self.hash}, timeout=PATIENCE)

        self.assertEqual(self.data, answer.content)

    def test_large_refused_upload_receives_its_response(self) -> None:
        answer = requests.put(self.url, data=b"x" * 50_000_000, timeout=PATIENCE)

        self.assertEqual(405, answer.status_code)


class HttpClientTest(ClientCase):
    def test_one_connection_serves_all_requests(self) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self.daemon.ports[0], timeout=PATIENCE)
        self.addCleanup(client.close)

        with self.file.open("rb") as stream:
            client.request("POST", "/", body=stream)
        uploaded = self.uploaded(client.getresponse().read())
        client.request("GET", f"/{self.hash}")
        downloaded = client.getresponse().read()
        client.request("DELETE", f"/{self.hash}")
        removed = client.getresponse().read()

        self.assertEqual(self.hash, uploaded["hash"])
        self.assertEqual(self.data, downloaded)
        self.assertEqual({"hash": self.hash}, json.loads(removed))


class BrowserTest(ClientCase):
    def test_form_post_of_a_browser_is_stored(self) -> None:
        # As Chromium sends it, UTF-8 name and all.
        boundary = "----WebKitFormBoundaryePkpFF7tjBAqx29L"
        head = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="comment"\r\n\r\nHällo\r\n'
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="Käse %22alt%22.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        )
        body = head.encode() + self.data + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        accept = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"

        answer = requests.post(self.url, data=body, headers={"Content-Type": kind, "Accept": accept}, timeout=PATIENCE)

        self.assertEqual({"hash": self.hash, "size": 5_000_000}, answer.json())


class ManySmallFilesTest(ClientCase):
    def test_small_files_of_32_concurrent_clients_come_back(self) -> None:
        def client(number: int) -> int:
            with requests.Session() as session:
                for step in range(20):
                    data = f"{number} {step}".encode()
                    digest = session.post(self.url, data=data, timeout=PATIENCE).json()["hash"]
                    if session.get(f"{self.url}/{digest}", timeout=PATIENCE).content != data:
                        return 0
            return 20

        self.assertEqual(640, sum(in_threads(32, client)))
        self.assertEqual(640, len(self.files_below(Path(self.directory, "store"))))
