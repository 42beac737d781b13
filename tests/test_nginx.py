"""A real nginx in front, configured as the README shows it: it sends the bytes, which clients cannot reach directly."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import requests

from tests.daemon.process import ROOT, running
from tests.nginx import running_nginx
from tests.support import TempCase, free_port


@contextlib.contextmanager
def running_as_shipped(
    directory: Path, upstream: str, store: Path, *, certificate: Path | None = None
) -> Iterator[str]:
    """nginx with systemd/nginx.conf in front of a daemon at `upstream`, for the length of a block. Yields its URL.

    With a `certificate`, beside whose file is `key.pem`, it speaks TLS.
    """
    port = free_port()
    tls = (
        ""
        if certificate is None
        else f"ssl_certificate {certificate}; ssl_certificate_key {certificate.parent}/key.pem;"
    )
    configuration = (ROOT / "systemd" / "nginx.conf").read_text()
    for shown, here in (
        ("server 127.0.0.1:8080;", f"server {upstream};"),
        ("listen 80;", f"listen 127.0.0.1:{port} {'ssl' if tls else ''}; {tls}"),
        ("listen [::]:80;", ""),
        ("access_log /var/log/nginx/filestoraged.log", f"access_log {directory}/filestoraged.log"),
        ("alias /var/lib/filestoraged/;", f"alias {store}/;"),
    ):
        assert configuration.count(shown) == 1, shown
        configuration = configuration.replace(shown, here)
    with running_nginx(directory, port, configuration):
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"


class NginxTest(TempCase):
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

    def put_drop(self, url: str, data: bytes, **password: str) -> str:
        answer = requests.put(f"{url}/vimeo/api/v1.0/file", files={"file": ("Käse.xls", data)}, data=password)
        self.assertEqual(201, answer.status_code, answer.text)
        return str(answer.json()["url"])

    def test_files_through_nginx_are_identical_and_not_sent_by_the_daemon(self) -> None:
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
            (line,) = self.daemon.lines_with(f"GET /{digest}")
            self.assertRegex(line, r" 200 0 ")
        oid = requests.put(f"{self.url}/data/pets", data=b"cat").json()["oid"]
        self.assertEqual(b"cat", requests.get(f"{self.url}/data/pets/{oid}").content)

    def test_conditions_and_origins_are_answered_as_by_the_daemon(self) -> None:
        data = os.urandom(100_000)
        digest = requests.post(self.url, data=data).json()["hash"]
        for status, fields in (
            (206, {"Range": "bytes=10-19"}),
            (304, {"If-None-Match": f'"{digest}"'}),
            (412, {"If-Match": '"other"'}),
            (416, {"Range": "bytes=200000-"}),
        ):
            with self.subTest(fields=fields):
                answer = requests.get(f"{self.url}/{digest}", headers=fields)

                self.assertEqual(status, answer.status_code)
                self.assertNotIn("Access-Control-Allow-Origin", answer.headers)
                self.assertTrue(status != 206 or answer.content == data[10:20])
        self.assertEqual(404, requests.get(f"{self.url}/{'0' * 64}").status_code)

        answer = requests.get(f"{self.url}/{digest}", headers={"Origin": "https://app.example"})

        self.assertEqual("https://app.example", answer.headers["Access-Control-Allow-Origin"])
        self.assertIn("ETag", answer.headers["Access-Control-Expose-Headers"])
        self.assertEqual("Origin", answer.headers["Vary"])

    def test_drop_through_nginx_is_sent_once_whole_whatever_part_or_condition_is_requested(self) -> None:
        data = os.urandom(100_000)
        long_ago, soon = "Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
        for fields in (
            {},
            *({"Range": each} for each in ("bytes=0-9", "bytes=200000-", "bytes=-5", "bytes=0-0,5-9", "bytes=x")),
            *({"If-Match": each} for each in ("*", '"other"')),
            *({"If-None-Match": each} for each in ("*", '"other"')),
            *({name: date} for name in ("If-Modified-Since", "If-Unmodified-Since") for date in (long_ago, soon)),
            *({"Range": "bytes=0-9", "If-Range": each} for each in (long_ago, soon, '"other"')),
        ):
            with self.subTest(fields=fields):
                # Not by nginx, which would have enough of us.
                link = self.put_drop(self.daemon.url, data)

                answer = requests.get(link.replace(self.daemon.url, self.url), headers=fields)

                self.assertEqual(200, answer.status_code)
                self.assertTrue(answer.content == data)
                self.assertIn("filename*=UTF-8''K%C3%A4se.xls", answer.headers["Content-Disposition"])
                self.assertEqual("no-store", answer.headers["Cache-Control"])
                self.assertEqual("sandbox", answer.headers["Content-Security-Policy"])
                self.assertEqual(410, requests.get(link).status_code)

    def test_internal_location_is_closed_to_clients(self) -> None:
        digest = requests.post(self.url, data=b"tea").json()["hash"]
        id_ = self.put_drop(self.url, b"secret").rpartition("/")[2]
        paths = (f"{digest[:2]}/{digest}", f"drops/{id_[:2]}/{id_}", "", "drops.sqlite")

        self.assertEqual([404] * 4, [requests.get(f"{self.url}/stored/{path}").status_code for path in paths])

    def test_no_log_has_a_secret(self) -> None:
        links = [self.put_drop(self.url, b"tea", password="open sesame") for _ in range(2)]
        self.assertTrue(links[0].startswith(f"{self.url}/vimeo/api/v1.0/file/"))

        statuses = [requests.get(links[0], params={"password": each}).status_code for each in ("wrong sesame", "")]
        statuses += [requests.get(links[1], params={"password": "open sesame"}).status_code for _ in range(2)]

        self.assertEqual([401, 401, 200, 410], statuses)
        logs = "".join((self.directory / name).read_text() for name in ("access.log", "error.log", "filestoraged.log"))
        for secret in ("sesame", *[link.rpartition("/")[2] for link in links]):
            self.assertNotIn(secret, "\n".join(self.daemon.lines()))
            self.assertNotIn(secret, re.sub(r".*\[info\].*", "", logs))
