"""The pages behind a real nginx, below a prefix that it removes."""

from __future__ import annotations

from tests.nginx import running_nginx
from tests.pages.case import DROPS, PagesCase
from tests.support import free_port

_CONFIGURATION = """
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port};
    location /some/where/ {{
      proxy_pass {upstream}/;
      proxy_set_header Host $http_host;
    }}
  }}
"""


class BelowPrefixTest(PagesCase):
    def test_files_and_drops_are_shared_through_nginx(self) -> None:
        port = free_port()
        configuration = _CONFIGURATION.format(port=port, upstream=self.daemon.url)
        with running_nginx(self.directory, port, configuration):
            self.url = url = f"http://127.0.0.1:{port}"
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
