"""A real nginx with a configuration of the test's."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.servers import wait_until_listening
from tests.support import PATIENCE, find_program

_AROUND = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
{user}
events {{ worker_connections 1024; }}
http {{
  access_log {directory}/access.log;
  client_body_temp_path {directory}/bodies;
  proxy_temp_path {directory}/proxied;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  {configuration}
}}
"""


def make_certificate(directory: Path) -> Path:
    """Make `certificate.pem` for 127.0.0.1, which is its own authority, and `key.pem`."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subject = ["-subj", "/CN=nginx", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = [find_program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*command, *subject, *files], check=True, capture_output=True)
    return certificate


@contextlib.contextmanager
def running_nginx(directory: Path, port: int, configuration: str) -> Iterator[None]:
    """nginx, for the length of a block. `configuration` is that of its context `http`, and listens on `port`."""
    user = "user root;" if os.getuid() == 0 else ""
    path = directory / "nginx.conf"
    path.write_text(_AROUND.format(directory=directory, user=user, configuration=configuration))
    process = subprocess.Popen([find_program("nginx"), "-c", str(path), "-p", str(directory)])
    try:
        wait_until_listening(port)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)
