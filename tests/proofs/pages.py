"""The pages in Chromium: the first paint, and 1 GiB beside curl: `python -m tests.proofs.pages`."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import requests

from tests.bench.command import run
from tests.bench.contest import Bench, timed, write_new
from tests.bench.figures import Figure, Goal, median
from tests.bench.machine import MIB
from tests.daemon.process import Daemon, running
from tests.pages.browser import Browser, Tab
from tests.support import find_program

SIZE = 1024 * MIB
# Seconds that an upload of SIZE takes at most.
LIMIT = 120.0


def paint(bench: Bench) -> list[Figure]:
    """The time to the first paint, with nothing in the browser's cache."""
    first = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"

    def load() -> float:
        tab = Tab(browser)
        tab.open(daemon.url)
        try:
            return float(tab.wait_for(first))
        finally:
            tab.close()

    with running("--store", str(bench.directory / "store")) as daemon, contextlib.closing(Browser()) as browser:
        samples = bench.take_turns({"page": load})
    goal = Goal("ms", median(samples["page"]), 500.0, at_most=True)
    return [Figure("first paint", "ms", samples, [goal])]


def upload(bench: Bench) -> list[Figure]:
    """1 GiB by curl, which does not hash, and by the page, each time other bytes."""
    path, size = bench.directory / "large", bench.part_of(SIZE)

    def rate(work: Callable[[], object], place: str) -> float:
        write_new(path, size)
        seconds = timed(work)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        requests.delete(f"{daemon.url}/{place}{digest}").raise_for_status()
        return size / MIB / seconds

    options = ("--store", str(bench.directory / "store"), "--workers", "1")
    with running(*options) as daemon, contextlib.closing(Browser()) as browser:
        # To a repository: with -T, curl would append the name of the file to the path of `files`.
        curl = (find_program("curl"), "-sf", "-T", str(path), "-o", "/dev/null", f"{daemon.url}/data/pages")
        contenders = {
            "page": partial(rate, lambda: by_page(browser, daemon, path, hashes=False), ""),
            "page with hash": partial(rate, lambda: by_page(browser, daemon, path, hashes=True), ""),
            "curl": partial(rate, lambda: subprocess.run(curl, check=True), "data/pages/"),
        }
        return [bench.compare("upload of 1 GiB", "MiB/s", contenders, {"curl": 0.15})]


def by_page(browser: Browser, daemon: Daemon, path: Path, *, hashes: bool) -> None:
    """Choose the file, and wait until it is stored, and both hashes are compared."""
    tab = Tab(browser)
    tab.open(daemon.url)
    tab.evaluate(f"document.getElementById('hashing').checked = {str(hashes).lower()}")
    done = "Both hashes are equal" if hashes else "Stored"
    tab.choose("#file", path)
    tab.wait_for(
        f"document.querySelector('.state')?.textContent.startsWith('Stored') && "
        f"document.querySelector('.state').textContent.includes({done!r})",
        patience=LIMIT,
    )
    tab.close()


if __name__ == "__main__":
    sys.exit(run("tests.proofs.pages", {"paint": paint, "upload": upload}))
