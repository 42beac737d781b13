"""A real nginx in front, configured as the README shows it: it sends the bytes, which clients cannot reach directly."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.daemon.process import ROOT, Daemon, running
from tests.nginx import running_nginx
from tests.support import TempCase, free_port, in_threads


@contextlib.contextmanager
def running_as_shipped(directory: Path, upstream: str, store: Path) -> Iterator[str]:
    """nginx with systemd/nginx.conf in front of a daemon at `upstream`, for the length of a block. Yields its URL."""
    port = free_port()
    configuration = (ROOT / "systemd" / "nginx.conf").read_text()
    for shown, here in (
        ("server 127.0.0.1:8080;", f"server {upstream};"),
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("listen [::]:80;", ""),
        ("access_log /var/log/nginx/filestoraged.log", f"access_log {directory}/filestoraged.log"),
        ("alias /var/lib/filestoraged/;", f"alias {store}/;"),
    ):
        assert configuration.count(shown) == 1, shown
        configuration = configuration.replace(shown, here)
    with running_nginx(directory, port, configuration):
        yield f"http://127.0.0.1:{port}"


class NginxTest(TempCase):
    daemon: Daemon
    url: str

    def setUp(self) -> None:
        super().setUp()
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        self.store = self.directory / "store"
        self.daemon = stack.enter_context(
            running("--accel", "/stored", "--allow-origin", "https://app.example", "--store", str(self.store))
        )
        upstream = f"127.0.0.1:{self.daemon.ports[0]}"
        self.url = stack.enter_context(running_as_shipped(self.directory, upstream, self.store))

    def put_drop(self, data: bytes, **password: str) -> str:
        answer = requests.put(f"{self.url}/vimeo/api/v1.0/file", files={"file": ("Käse.xls", data)}, data=password)
        self.assertEqual(201, answer.status_code, answer.text)
        return str(answer.json()["url"])

    def test_files_through_nginx_are_identical(self) -> None:
        for size in (0, 1, 100_000, 40_000_000):
            data = os.urandom(size)
            digest = requests.post(self.url, data=data).json()["hash"]

            answer = requests.get(f"{self.url}/{digest}", params={"name": "cat.jpg"})

            self.assertTrue(answer.content == data)
            self.assertEqual("image/jpeg", answer.headers["Content-Type"])
            self.assertEqual('attachment; filename="cat.jpg"', answer.headers["Content-Disposition"])
            self.assertEqual(f'"{digest}"', answer.headers["ETag"])
            self.assertEqual("nosniff", answer.headers["X-Content-Type-Options"])
            self.assertEqual("sandbox", answer.headers["Content-Security-Policy"])
            self.assertIn("immutable", answer.headers["Cache-Control"])
            self.assertNotIn("X-Accel-Redirect", answer.headers)

    def test_nginx_sends_downloads_without_the_daemon(self) -> None:
        digest = requests.post(self.url, data=b"tea" * 1000).json()["hash"]
        requests.get(f"{self.url}/{digest}")

        (line,) = self.daemon.lines_with(f"GET /{digest}")

        self.assertRegex(line, r" 200 0 ")

    def test_ranges_and_conditions_are_answered_by_nginx(self) -> None:
        data = os.urandom(100_000)
        digest = requests.post(self.url, data=data).json()["hash"]
        path = f"{self.url}/{digest}"

        part = requests.get(path, headers={"Range": "bytes=10-19"})

        self.assertEqual((206, data[10:20]), (part.status_code, part.content))
        self.assertEqual(304, requests.get(path, headers={"If-None-Match": f'"{digest}"'}).status_code)
        self.assertEqual(412, requests.get(path, headers={"If-Match": '"other"'}).status_code)
        self.assertEqual(416, requests.get(path, headers={"Range": "bytes=200000-"}).status_code)
        self.assertEqual(404, requests.get(f"{self.url}/{'0' * 64}").status_code)

    def test_download_through_nginx_has_the_cors_headers_of_an_allowed_origin(self) -> None:
        digest = requests.post(self.url, data=b"tea").json()["hash"]

        answer = requests.get(f"{self.url}/{digest}", headers={"Origin": "https://app.example"})
        other = requests.get(f"{self.url}/{digest}")

        self.assertEqual("https://app.example", answer.headers["Access-Control-Allow-Origin"])
        self.assertIn("ETag", answer.headers["Access-Control-Expose-Headers"])
        self.assertEqual("Origin", answer.headers["Vary"])
        self.assertNotIn("Access-Control-Allow-Origin", other.headers)

    def test_objects_of_repositories_through_nginx_are_identical(self) -> None:
        oid = requests.put(f"{self.url}/data/pets", data=b"cat").json()["oid"]

        self.assertEqual(b"cat", requests.get(f"{self.url}/data/pets/{oid}").content)

    def test_drop_through_nginx_is_sent_once(self) -> None:
        data = os.urandom(10_000_000)
        link = self.put_drop(data, password="hello world")

        self.assertTrue(link.startswith(f"{self.url}/vimeo/api/v1.0/file/"))
        self.assertEqual(401, requests.get(link).status_code)
        answer = requests.get(link, params={"password": "hello world"})
        self.assertTrue(answer.content == data)
        self.assertIn("filename*=UTF-8''K%C3%A4se.xls", answer.headers["Content-Disposition"])
        self.assertEqual("no-store", answer.headers["Cache-Control"])
        self.assertEqual("sandbox", answer.headers["Content-Security-Policy"])
        self.assertEqual(410, requests.get(link, params={"password": "hello world"}).status_code)

    def test_drop_requested_with_a_range_or_a_condition_is_sent_whole_and_once(self) -> None:
        data = os.urandom(100_000)
        long_ago, soon = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
        for fields in (
            *({"Range": each} for each in ("bytes=0-9", "bytes=200000-", "bytes=-5", "bytes=0-0,5-9", "bytes=x")),
            *({"If-Match": each} for each in ("*", '"other"')),
            *({"If-None-Match": each} for each in ("*", '"other"')),
            *({name: date} for name in ("If-Modified-Since", "If-Unmodified-Since") for date in (long_ago, soon)),
            *({"Range": "bytes=0-9", "If-Range": each} for each in (long_ago, soon, '"other"')),
        ):
            with self.subTest(fields=fields):
                # Not by nginx, which would have enough of us.
                path = f"{self.daemon.url}/vimeo/api/v1.0/file"
                link = requests.put(path, files={"file": ("x", data)}).json()["url"]

                answer = requests.get(link.replace(self.daemon.url, self.url), headers=fields)

                self.assertEqual(200, answer.status_code)
                self.assertTrue(answer.content == data)
                self.assertEqual(410, requests.get(link).status_code)

    def test_one_of_many_clients_gets_a_drop(self) -> None:
        link = self.put_drop(b"tea")

        answers = in_threads(16, lambda _: requests.get(link))

        self.assertEqual([200] + [410] * 15, sorted(answer.status_code for answer in answers))

    def test_internal_location_is_closed_to_clients(self) -> None:
        digest = requests.post(self.url, data=b"tea").json()["hash"]
        id_ = self.put_drop(b"secret").rpartition("/")[2]

        for path in (
            f"/stored/{digest[:2]}/{digest}",
            f"/stored/drops/{id_[:2]}/{id_}",
            "/stored/",
            "/stored/drops.sqlite",
        ):
            with self.subTest(path=path):
                self.assertEqual(404, requests.get(self.url + path).status_code)

    def test_refused_upload_gets_its_response(self) -> None:
        answer = requests.put(f"{self.url}/vimeo/api/v1.0/file", files={"file": ("x", bytes(16 * 1024 * 1024 + 1))})

        self.assertEqual(413, answer.status_code)
        self.assertEqual("Request Entity Too Large", answer.json()["error"])

    def test_guesses_are_limited_and_no_log_has_a_secret(self) -> None:
        links = [self.put_drop(b"tea", password="open sesame") for _ in range(12)]

        statuses = [requests.get(link, params={"password": "wrong sesame"}).status_code for link in links]
        # Without one, which takes no hashing, so that they come fast enough to be slowed down: nginx lets 40 pass at
        # once, and ten more for each second that they take.
        with requests.Session() as session:
            statuses += [session.get(link, params={"password": ""}).status_code for link in links * 40]

        self.assertIn(429, statuses)
        logs = "".join((self.directory / name).read_text() for name in ("access.log", "error.log", "filestoraged.log"))
        for secret in ("sesame", *[link.rpartition("/")[2] for link in links]):
            self.assertNotIn(secret, "\n".join(self.daemon.lines()))
            self.assertNotIn(secret, re.sub(r".*\[info\].*", "", logs))
