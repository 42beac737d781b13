"""The client through a real nginx: TLS, its own refusals, and a daemon that is away for a while."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

from filestoraged.client import Client, Retries
from filestoraged.client.refusals import ServerUnreachable
from filestoraged.errors import TooLarge, Unavailable
from tests.nginx import make_certificate, running_nginx
from tests.support import ServerCase, free_port

MIB = 1024 * 1024

# With a limit for bodies that a piece of a stream does not reach.
_CONFIGURATION = """
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/certificate.pem;
    ssl_certificate_key {directory}/key.pem;
    client_max_body_size 10m;
    location /away/ {{ proxy_pass http://127.0.0.1:{nothing}/; }}
    location / {{
      proxy_pass http://127.0.0.1:{daemon};
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_set_header Host $http_host;
    }}
  }}
"""


class NginxTest(ServerCase):
    def setUp(self) -> None:
        super().setUp()
        self.pauses: list[float] = []
        self.certificate = make_certificate(self.directory)
        self.url = self.start_nginx()

    def client(self, path: str = "", **settings: Any) -> Client:
        trusted = {"cacert": str(self.certificate), **settings}
        client = Client(self.url + path, retries=Retries(3, sleep=self.pauses.append), **trusted)
        self.addCleanup(client.close)
        return client

    def test_objects_go_up_and_down_by_tls(self) -> None:
        data = os.urandom(20 * MIB)
        client = self.client()

        # In pieces, which are below nginx's limit.
        stored = client.put(io.BytesIO(data))
        small = client.put(self.write(data[: 9 * MIB]), "kitchen")
        client.save(stored.digest, self.directory / "saved")

        self.assertEqual(hashlib.sha256(data).hexdigest(), stored.digest)
        self.assertEqual(hashlib.sha256(data[: 9 * MIB]).hexdigest(), small.digest)
        self.assertEqual(data, (self.directory / "saved").read_bytes())
        self.assertEqual(f"{self.url}/{stored.digest}", stored.url)

    def test_body_over_the_limit_of_nginx_is_refused_at_once(self) -> None:
        for size in (11 * MIB, 20 * MIB):
            with self.subTest(size), self.assertRaisesRegex(TooLarge, "the server answered 413"):
                self.client().put(self.write(bytes(size)))

        self.assertEqual([], self.pauses)

    def test_certificate_that_is_not_trusted_is_refused_at_once(self) -> None:
        with self.assertRaisesRegex(ServerUnreachable, "its certificate is not valid: .*--cacert"):
            self.client(cacert=None).put(b"tea")

        self.assertEqual([], self.pauses)

    def test_daemon_that_is_away_is_asked_again(self) -> None:
        with self.assertRaisesRegex(Unavailable, "the server answered 502"):
            self.client("/away").put(b"tea")

        self.assertEqual(3, len(self.pauses))

    def write(self, data: bytes) -> Path:
        path = self.directory / "file"
        path.write_bytes(data)
        return path

    def start_nginx(self) -> str:
        port = free_port()
        settings = {"directory": self.directory, "port": port, "nothing": free_port(), "daemon": self.bound.port}
        self.enterContext(running_nginx(self.directory, port, _CONFIGURATION.format(**settings)))
        return f"https://127.0.0.1:{port}"
