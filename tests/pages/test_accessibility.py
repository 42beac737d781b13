"""What axe finds on the pages: in light and dark, on a phone and a desktop, in each state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import axe_core_python
import requests

from tests.pages.browser import DESKTOP, PHONE, Tab
from tests.pages.case import DROPS, PagesCase

_AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
_FINDINGS = """axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}).then(({violations}) =>
    violations.map(({id, nodes}) => `${id}: ${nodes.map(({html}) => html).join(" ")}`))"""


class AccessibilityTest(PagesCase):
    def test_axe_finds_nothing_on_any_page(self) -> None:
        self.expected = ("status of 4",)
        # Colours depend on the scheme, and layout on the size: not on both.
        for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
            tab = self.tab(size=size, scheme=scheme)
            self.assert_accessible(tab, "upload")
            tab.choose("#file", self.file("cat.jpg"), self.large_file("large", 1 << 20))
            self.wait_for_state(tab, "cat.jpg", "done")
            tab.evaluate("document.getElementById('token')?.removeAttribute('hidden')")
            self.assert_accessible(tab, "uploaded")
            # A page that is left during an upload would ask its user.
            self.wait_for_state(tab, "large", "done")
            tab.open(f"{self.url}{DROPS}/")
            tab.choose("#file", self.file("secret"), self.large_file("too large", 17 << 20))
            link = self.link_of(tab, "secret")
            self.assert_accessible(tab, "drops")
            for page in (link, self.locked(), f"{link[:-1]}x"):
                tab.open(page)
                self.assert_accessible(tab, page)

    def test_page_that_axe_must_find_fault_with_is_noticed(self) -> None:
        tab = self.tab()
        tab.evaluate("document.documentElement.removeAttribute('lang')")

        self.assertIn("html-has-lang", str(self.findings(tab)))

    def locked(self) -> str:
        url = f"{self.url}{DROPS}/file"
        answer = requests.put(url, files={"file": ("a", b"tea")}, data={"password": "open"})
        return str(answer.json()["url"]).replace("/file/", "/drop/")

    def assert_accessible(self, tab: Tab, page: str) -> None:
        self.assertEqual([], self.findings(tab), page)

    def findings(self, tab: Tab) -> Any:
        tab.evaluate(_AXE)
        return tab.evaluate(_FINDINGS)
