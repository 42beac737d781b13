"""The pages behind a real nginx, below a prefix that it removes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.bench.servers import wait_until_listening
from tests.daemon.process import PATIENCE
from tests.pages.case import DROPS, PagesCase
from tests.support import find_program, free_port

_CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
{user}
events {{ }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
  fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
  server {{
    listen 127.0.0.1:{port};
    location /some/where/ {{
      proxy_pass {upstream}/;
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""


class BelowPrefixTest(PagesCase):
    def test_files_and_drops_are_shared_through_nginx(self) -> None:
        with running_nginx(self.directory, self.daemon.url) as url:
            self.url = url
            self.expected = ("status of 410",)
            tab = self.tab("/some/where/")
            tab.choose("#file", self.file("cat.jpg", b"meow"))
            link = self.link_of(tab, "cat.jpg")
            self.assertTrue(link.startswith(f"{url}/some/where/"), link)
            tab.click("#stored a")
            self.assertEqual(b"meow", self.downloaded(tab, "cat.jpg"))

            tab.open(f"{url}/some/where{DROPS}/")
            tab.choose("#file", self.file("secret.txt", b"psst"))
            tab.open(self.link_of(tab, "secret.txt"))
            tab.click("#fetch button")
            tab.wait_for_text("The link is used up.")
            self.assertEqual(b"psst", self.downloaded(tab, "secret.txt"))


@contextlib.contextmanager
def running_nginx(directory: Path, upstream: str) -> Iterator[str]:
    port = free_port()
    user = "user root;" if os.getuid() == 0 else ""
    path = directory / "nginx.conf"
    path.write_text(_CONFIGURATION.format(directory=directory, user=user, port=port, upstream=upstream))
    process = subprocess.Popen([find_program("nginx"), "-c", str(path), "-p", str(directory)])
    try:
        wait_until_listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)
