"""tus-js-client and Uppy in a browser, on a page of another site, through a proxy that cuts connections."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import requests

from tests.cutting_proxy import CuttingProxy
from tests.daemon.process import clean_environment, running
from tests.pages.browser import Browser, Tab
from tests.support import PATIENCE, TempCase

MIB = 1 << 20

_PAGE = '<!doctype html><title>clients</title><input type="file" id="file"><script src="clients.js"></script>'


class TusClientsTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.site = self.directory / "site"
        self.site.mkdir()
        (self.site / "index.html").write_text(_PAGE)
        bundle(Path(__file__).with_name("tus_clients.mjs"), self.site / "clients.js")
        self.browser = Browser()
        self.addCleanup(self.browser.close)

    def test_clients_on_a_page_of_an_allowed_origin_upload_through_cuts(self) -> None:
        with served(self.site) as origin:
            for client in ("tus-js-client", "uppy"):
                with self.subTest(client=client):
                    self.assert_uploads(client, origin)

    def assert_uploads(self, client: str, origin: str) -> None:
        data = os.urandom(12 * MIB)
        film = self.directory / f"film of {client}"
        film.write_bytes(data)
        store = self.directory / f"store of {client}"
        with (
            running("--store", str(store), "--workers", "2", "--allow-origin", origin) as daemon,
            CuttingProxy(daemon.ports[0], every=5 * MIB, cuts=2) as proxy,
        ):
            tab = Tab(self.browser)
            self.addCleanup(tab.close)
            tab.open(origin)
            tab.choose("#file", film)
            settings = {"endpoint": f"{proxy.url}/uploads", "chunkSize": 2 * MIB}
            # Asked for again and again: the browser's answer to one question would be waited for too briefly.
            tab.evaluate(
                f"uploadBy[{client!r}]({json.dumps(settings)})"
                ".then(url => { window.uploaded = url; }, fault => { window.uploaded = `${fault}`; }); 1"
            )

            url = str(tab.wait_for("window.uploaded"))

            self.assertTrue(url.startswith(f"{proxy.url}/uploads/"), url)
            answer = requests.get(url.replace(proxy.url, daemon.url), timeout=PATIENCE).json()
            stored = requests.get(f"{daemon.url}/{answer['hash']}", timeout=PATIENCE).content
        self.assertEqual(hashlib.sha256(data).hexdigest(), answer["hash"])
        self.assertEqual(data, stored)
        self.assertEqual(2, proxy.cuts)
        # From the start again at each cut it would be 1.8 times. A cut costs two pieces at most: Chromium repeats a
        # request by itself where it has used the connection before.
        self.assertLess(proxy.sent, 1.75 * len(data))


def bundle(source: Path, target: Path) -> None:
    """Make one script of a module and the packages that it imports."""
    # Where bin/test has installed what tests/package.json lists.
    directory = Path(sys.prefix) / "node"
    esbuild = str(directory / "node_modules" / ".bin" / "esbuild")
    done = subprocess.run(
        [esbuild, "--bundle", "--format=iife", f"--outfile={target}"],
        cwd=directory,
        env=clean_environment(),
        input=source.read_bytes(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory to browsers. Yields its origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_QuietHandler, directory=str(directory)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
