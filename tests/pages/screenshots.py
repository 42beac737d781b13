"""Makes the screenshots of docs/pages.md: `python3 -m tests.pages.screenshots`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.daemon.process import ROOT, running
from tests.pages.browser import PHONE, Browser, Tab
from tests.pages.case import DROPS

_DESKTOP = (960, 700)
_EQUAL = "document.querySelector('.state')?.textContent.includes('equal')"
_HALF = "document.querySelector('progress')?.value > 0.4"
_LINK = "document.querySelector('.link')?.value"


def main() -> None:
    browser = Browser()
    with tempfile.TemporaryDirectory() as directory:
        report, film = Path(directory, "report.pdf"), Path(directory, "Holiday.mp4")
        report.write_bytes(bytes(3_000_000))
        film.write_bytes(bytes(150_000_000))
        with running("--store", f"{directory}/store", "--workers", "1") as daemon:
            url = f"http://localhost:{daemon.ports[0]}"
            upload(browser, url, report, film)
            share(browser, url, report)
    browser.close()


def upload(browser: Browser, url: str, report: Path, film: Path) -> None:
    tab = Tab(browser, size=_DESKTOP)
    tab.open(url)
    tab.choose("#file", report)
    tab.wait_for(_EQUAL)
    tab.send("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=3e7)
    tab.choose("#file", film)
    tab.wait_for(_HALF)
    save(tab, "upload")


def share(browser: Browser, url: str, file: Path) -> None:
    tab = Tab(browser, size=_DESKTOP, scheme="dark")
    tab.open(f"{url}{DROPS}/")
    tab.click("#generate")
    tab.choose("#file", file)
    link = tab.wait_for(_LINK)
    save(tab, "drop")
    tab = Tab(browser, size=(PHONE[0], 520))
    tab.open(link)
    save(tab, "landing")


def save(tab: Tab, name: str) -> None:
    # Fonts, and the transitions of colours.
    tab.evaluate("Promise.all([document.fonts.ready, ...document.getAnimations().map(each => each.finished)])")
    tab.screenshot(ROOT / "docs" / f"pages-{name}.png")


if __name__ == "__main__":
    main()
