"""The page that makes drops and the landing page of their links, in a browser."""

from __future__ import annotations

import os
import subprocess

import requests

from tests.pages.browser import DESKTOP, PHONE, Tab
from tests.pages.case import DROPS, NOTE_COPIED, PagesCase
from tests.support import find_program

_GONE = "The file was fetched. The link is used up."


class DropPageTest(PagesCase):
    def setUp(self) -> None:
        super().setUp()
        # By this the page knows that the file has arrived.
        self.expected = ("status of 410",)

    def drop(self, data: bytes, password: str = "", *, name: str = "report.xls") -> str:
        """Make a drop as a program does. Returns the link to its landing page."""
        form = {"password": password} if password else None
        answer = requests.put(f"{self.url}{DROPS}/file", files={"file": (name, data)}, data=form)
        return str(answer.json()["url"]).replace("/file/", "/drop/")

    def test_file_is_shared_with_a_generated_password_and_fetched_once(self) -> None:
        for size, scheme in ((DESKTOP, "dark"), (PHONE, "light")):
            data = os.urandom(200_000)
            sender = self.tab(f"{DROPS}/", size=size, scheme=scheme)
            sender.click("#generate")
            name = f"Käse {scheme}.bin"
            sender.choose("#file", self.file(name, data))
            link = self.link_of(sender, name)
            password = self.of_row(sender, name, "row.querySelector('dd').textContent")
            self.assertRegex(password, "^([a-z2-9]{6}-){3}[a-z2-9]{6}$")
            self.assertIn("/drop/", link)

            receiver = self.tab(link, size=size, scheme=scheme)
            self.type_password(receiver, password)
            receiver.click("#fetch button")

            receiver.wait_for_text(_GONE)
            self.assertEqual(data, self.downloaded(receiver, name))
            self.assertNotIn(password, " ".join(receiver.requested))
            self.assertEqual([], sender.overflowing() + receiver.overflowing())
            receiver.open(link)
            receiver.wait_for_text("Already fetched")

    def test_link_is_not_kept_by_the_browser(self) -> None:
        tab = self.tab(DROPS)
        tab.choose("#file", self.file("secret"))
        self.link_of(tab, "secret")

        self.assertEqual(0, tab.evaluate("localStorage.length + sessionStorage.length"))

    def test_wrong_password_is_said_and_the_right_one_works_after_it(self) -> None:
        self.expected += ("status of 401",)
        tab = self.tab(self.drop(b"tea", "open"))
        tab.watch_challenges()

        self.type_password(tab, "wrong")
        tab.press("Enter")
        tab.wait_for_text("The password is wrong.")
        # A form that is sent before the script has loaded is answered with the file all the same, and says nothing.
        tab.wait_for("document.readyState === 'complete'")
        tab.click("#password")
        tab.type("open")
        tab.press("Enter")

        tab.wait_for_text(_GONE)
        self.assertEqual(b"tea", self.downloaded(tab, "report.xls"))
        self.assertEqual([], tab.challenged)

    def test_locked_drop_counts_down(self) -> None:
        self.expected = ("status of 429",)
        link = self.drop(b"tea", "open")
        for _ in range(10):
            requests.post(link, data={"password": "wrong"})

        tab = self.tab(link)

        tab.wait_for_text("Locked for now")
        first, *_ = tab.wait_for("document.body.innerText.match(/Try again in (\\d+) s/)?.slice(1)")
        tab.wait_for(f"+document.body.innerText.match(/in (\\d+) s/)?.[1] < {first}")

    def test_unknown_link_is_said(self) -> None:
        self.expected = ("status of 404",)

        tab = self.tab(f"{DROPS}/drop/{'0' * 32}")

        tab.wait_for_text("There is no file behind this link.")

    def test_forms_without_scripts_share_and_fetch(self) -> None:
        sender = self.tab(f"{DROPS}/", scripts=False)
        sender.choose("#file", self.file("plain.txt", b"no script"))
        sender.click("#password")
        sender.type("open sesame")
        sender.click("noscript button")
        sender.wait_for_text("This link is shown once.")
        link = sender.evaluate("document.getElementById('link').value")

        self.expected += ("status of 401",)
        receiver = self.tab(link, scripts=False)
        receiver.click("#password")
        receiver.type("wrong")
        receiver.press("Enter")
        receiver.wait_for_text("The password is wrong.")
        receiver.click("#password")
        receiver.type("open sesame")
        receiver.press("Enter")

        self.assertEqual(b"no script", self.downloaded(receiver, "plain.txt"))

    def test_keyboard_alone_shares_and_fetches(self) -> None:
        sender = self.tab(f"{DROPS}/")
        sender.send("Page.setInterceptFileChooserDialog", enabled=True)
        sender.tab_to("#file")
        sender.press("Enter")
        sender.wait_for_file_chooser(self.file("by keyboard"))
        link = self.link_of(sender, "by keyboard")
        sender.tab_to(".copy")
        sender.evaluate(NOTE_COPIED)
        sender.press("Enter")
        sender.wait_for("copied && copied === document.activeElement")

        receiver = self.tab(link)
        receiver.tab_to("#fetch button")
        receiver.press(" ")

        receiver.wait_for_text(_GONE)
        self.assertEqual(b"tea", self.downloaded(receiver, "by keyboard"))

    def test_file_that_is_too_large_is_refused_before_it_is_sent(self) -> None:
        tab = self.tab(DROPS)

        tab.choose("#file", self.large_file("large", 17 << 20))

        self.wait_for_text(tab, "large", "this server takes 16 MiB at most")

    def test_name_is_shown_as_text(self) -> None:
        name = "<script>alert(1)</script>&lt;.txt"
        tab = self.tab(self.drop(b"tea", name=name.replace("/", ":")))

        self.assertEqual(name.replace("/", ":"), tab.evaluate("document.querySelector('h1').textContent"))
        self.assertEqual([], tab.dialogs)

    def test_programs_that_follow_the_link_take_nothing(self) -> None:
        link = self.drop(b"tea")
        for program in (
            ["curl", "-sL", "-o", str(self.directory / "page")],
            ["wget", "-qO", str(self.directory / "page")],
        ):
            subprocess.run([find_program(program[0]), *program[1:], link], check=True)
            self.assertIn(b"Fetch the file", (self.directory / "page").read_bytes())
        tab = self.tab()
        tab.evaluate(f"fetch({link!r}, {{mode: 'no-cors'}}).then(answer => answer.text())")

        self.assertEqual(b"tea", requests.post(link).content)

    def test_frame_of_another_site_shows_nothing(self) -> None:
        link = self.drop(b"tea")
        outer = Tab(self.browser)
        self.addCleanup(outer.close)
        outer.open("about:blank")
        outer.evaluate(f"document.body.append(Object.assign(document.createElement('iframe'), {{src: {link!r}}}))")

        outer.wait_for_condition("refused", lambda: "chrome-error:" in str(outer.send("Page.getFrameTree")))
        self.assertEqual(b"tea", requests.post(link).content)
