"""A test case with a browser, and a daemon for all tests of a class."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, ClassVar

from tests.daemon.process import Daemon, running
from tests.pages.browser import Browser, Tab
from tests.support import TempCase

DROPS = "/vimeo/api/v1.0"

# Of uploads, in bytes a second: slow enough that a progress can be seen.
SLOW = 24 << 20

# A test that types into a page may be faster than the browser, which then notes that it leaves the focus there.
_TYPED_EARLY = "Autofocus processing was blocked because a document already has a focused element."

# Makes one element of the list of uploads be found by the name of its file.
_ROW = "[...document.querySelectorAll('#list li')].find(row => row.querySelector('.name').textContent === %r)"

# Keeps the button that has said that it has copied: it says so for 2 s, which a busy machine may miss.
NOTE_COPIED = """
window.copied = null;
new MutationObserver(records => {
  for (const {target} of records)
    if (target.localName === "button" && target.textContent === "Copied") window.copied = target;
}).observe(document, {subtree: true, childList: true});
"""


class PagesCase(TempCase):
    """Each tab must leave the console empty, and ask for nothing elsewhere. `expected` are problems that may be."""

    options: ClassVar[tuple[str, ...]] = ()
    browser: ClassVar[Browser]
    daemon: ClassVar[Daemon]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        store = stack.enter_context(temporary_directory())
        cls.daemon = stack.enter_context(running("--store", str(store), "--workers", "1", *cls.options))
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self) -> None:
        super().setUp()
        self.expected: tuple[str, ...] = ()
        self.url = self.daemon.url
        self.downloads = self.directory / "downloads"
        self.downloads.mkdir()

    def tab(self, path: str = "/", **settings: Any) -> Tab:
        """Open a path of the daemon in a tab, which is checked and closed after the test."""
        tab = Tab(self.browser, downloads=self.downloads, **settings)
        self.addCleanup(tab.close)
        self.addCleanup(self.check, tab)
        tab.open(path if ":" in path else self.url + path)
        return tab

    def check(self, tab: Tab) -> None:
        unexpected = [each for each in tab.problems if not any(text in each for text in (_TYPED_EARLY, *self.expected))]
        self.assertEqual([], unexpected)
        elsewhere = [url for url in tab.requested if not url.startswith((self.url + "/", "blob:"))]
        self.assertEqual([], elsewhere)

    def file(self, name: str, data: bytes = b"tea") -> Path:
        path = self.directory / name
        path.write_bytes(data)
        return path

    def large_file(self, name: str, size: int) -> Path:
        return self.file(name, os.urandom(1 << 20) * (size >> 20))

    def slow_down(self, tab: Tab, rate: int = SLOW) -> None:
        limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": rate}
        tab.send("Network.emulateNetworkConditions", offline=False, **limits)

    def type_password(self, tab: Tab, password: str) -> None:
        """Type into the field that the page focuses by itself: with its first frame, maybe after it is loaded."""
        tab.wait_for("document.activeElement.id === 'password'")
        tab.type(password)

    def wait_for_state(self, tab: Tab, name: str, state: str) -> None:
        tab.wait_for(f"{_ROW % name}?.dataset.state === {state!r}")

    def of_row(self, tab: Tab, name: str, expression: str) -> Any:
        """The value of an expression in which `row` is the upload of a file."""
        return tab.evaluate(f"(row => {expression})({_ROW % name})")

    def wait_for_text(self, tab: Tab, name: str, text: str) -> None:
        tab.wait_for(f"{_ROW % name}?.querySelector('.state').textContent.includes({text!r})")

    def link_of(self, tab: Tab, name: str) -> str:
        self.wait_for_state(tab, name, "done")
        return str(self.of_row(tab, name, "row.querySelector('.link').value"))

    def downloaded(self, tab: Tab, name: str) -> bytes:
        """The bytes of a download of the browser, once it is complete: until then it has another name."""
        path = self.downloads / name
        tab.wait_for_condition(f"downloaded {name}", path.exists)
        return path.read_bytes()


@contextlib.contextmanager
def temporary_directory() -> Any:
    case = TempCase()
    case.setUp()
    try:
        yield case.directory
    finally:
        case.doCleanups()
