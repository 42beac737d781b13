"""The pages in Chromium: their bytes, the first paint, 1 GiB beside curl, and requests made up by schemathesis.

python3 -m tests.proofs.pages [PART...]

The parts are `paint`, `upload` and `description`; the last takes a minute.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests

from tests.daemon.process import ROOT, Daemon, clean_environment, running
from tests.pages.browser import Browser, Tab
from tests.support import find_program

SIZE = 1 << 30
# Seconds that an upload of SIZE takes at most.
LIMIT = 120.0
ROUNDS = 3
REPOSITORY = "pages"
PAINTS = 7


def main(parts: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="pages-") as directory:
        for part in parts or list(PARTS):
            with running("--store", f"{directory}/store", "--workers", "1") as daemon:
                PARTS[part](daemon, Path(directory))


def paint(daemon: Daemon, _: Path) -> None:
    """Measure the time to the first paint, with nothing in the browser's cache."""
    first = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    page = requests.get(daemon.url, headers={"Accept": "text/html"}).content
    assets = [path for path in (ROOT / "filestoraged" / "pages").iterdir() if path.suffix != ".html"]
    print(
        f"upload page: {len(page)} bytes, with all that it loads {len(page) + sum(map(size_of, assets))} bytes at most"
    )
    with_browser(lambda browser: print(f"first paint: {statistics.median(paints(browser, daemon, first)):.0f} ms"))


def paints(browser: Browser, daemon: Daemon, expression: str) -> list[float]:
    times = []
    for _ in range(PAINTS):
        tab = Tab(browser)
        tab.open(daemon.url)
        times.append(float(tab.wait_for(expression)))
        tab.close()
    return times


def upload(daemon: Daemon, directory: Path) -> None:
    """Upload 1 GiB by curl and by the page, in turns, each time other bytes. curl does not hash."""
    path = directory / "large"
    times: dict[str, list[float]] = {"curl": [], "page": [], "page with hash": []}

    def measure(browser: Browser) -> None:
        for _ in range(ROUNDS):
            for name, seconds in times.items():
                write(path)
                if name == "curl":
                    seconds.append(by_curl(daemon, path))
                else:
                    seconds.append(by_page(browser, daemon, path, hashes=name != "page"))
                digest = hashlib.file_digest(path.open("rb"), "sha256").hexdigest()
                place = f"data/{REPOSITORY}/{digest}" if name == "curl" else digest
                requests.delete(f"{daemon.url}/{place}").raise_for_status()

    with_browser(measure)
    curl = statistics.median(times["curl"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        each = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"1 GiB by {name}: {SIZE / median / 1e6:.0f} MB/s, {curl / median:.2f} of curl's rate; seconds: {each}")


def by_curl(daemon: Daemon, path: Path) -> float:
    begun = time.monotonic()
    # To a repository: with -T, curl would append the name of the file to the path of `files`.
    command = [find_program("curl"), "-sf", "-T", path, "-o", "/dev/null", f"{daemon.url}/data/{REPOSITORY}"]
    subprocess.run(command, check=True)
    return time.monotonic() - begun


def by_page(browser: Browser, daemon: Daemon, path: Path, *, hashes: bool) -> float:
    """Return the seconds from the choice of the file until it is stored, and both hashes are compared."""
    tab = Tab(browser)
    tab.open(daemon.url)
    tab.evaluate(f"document.getElementById('hashing').checked = {str(hashes).lower()}")
    values = "window.bars = new Set(); new MutationObserver(records => records.forEach(({target}) =>"
    values += " bars.add(target.value))).observe(document, {subtree: true, attributeFilter: ['value']})"
    tab.evaluate(f"{values}; 1")
    done = "Both hashes are equal" if hashes else "Stored"
    begun = time.monotonic()
    tab.choose("#file", path)
    tab.wait_for(
        f"document.querySelector('.state')?.textContent.startsWith('Stored') && "
        f"document.querySelector('.state').textContent.includes({done!r})",
        patience=LIMIT,
    )
    seconds = time.monotonic() - begun
    print(f"  the bar had {tab.evaluate('bars.size')} values")
    tab.close()
    return seconds


def write(path: Path) -> None:
    """Write SIZE bytes that no file had before."""
    piece = os.urandom(1 << 20)
    with path.open("wb") as stream:
        for number in range(SIZE >> 20):
            stream.write(number.to_bytes(8, "big") + piece[8:])
    os.sync()


def description(daemon: Daemon, _: Path) -> None:
    """Send thousands of requests that schemathesis makes up from the document."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    checks += "response_schema_conformance,allow_header_conformance,use_after_free"
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{daemon.url}/-/openapi.json"]
    options = ["--url", daemon.url, "--checks", checks, "--max-examples", "150", "--warnings", "off", "--no-color"]
    environment = {**clean_environment(), "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks"}
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, cwd="/tmp", env=environment
    )
    print("\n".join(done.stdout.splitlines()[-12:]))


def with_browser(work: Callable[[Browser], None]) -> None:
    browser = Browser()
    try:
        work(browser)
    finally:
        browser.close()


def size_of(path: Path) -> int:
    return path.stat().st_size


PARTS: dict[str, Callable[[Daemon, Path], None]] = {"paint": paint, "upload": upload, "description": description}

if __name__ == "__main__":
    main(sys.argv[1:])
