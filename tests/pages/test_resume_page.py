"""The page that uploads files goes on where an upload stopped, in a browser."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import requests

from filestoraged.web.auth import hashed
from tests.cutting_proxy import CuttingProxy
from tests.daemon.process import Daemon
from tests.pages.browser import Tab
from tests.pages.case import PagesCase, temporary_directory
from tests.support import PATIENCE
from tests.tus import VERSION

MIB = 1 << 20

# Of the file, and of uploads that must not be complete before the test is.
SIZE = 12 * MIB
SLOW = MIB

# Records each text that the state of an upload has.
_RECORD = """
window.said = [];
new MutationObserver(records => {
  for (const {target} of records) if (target.className?.startsWith("state")) said.push(target.textContent);
}).observe(document, {subtree: true, childList: true});
"""

_IS_GOING = "document.querySelector('#list progress')?.value > %f"
# The first piece is acknowledged: more of the file than that is sent.
_FIRST = 0.05
_PREFIX = "'filestoraged upload /uploads/ '"
_KEPT = "Object.keys(localStorage).filter(key => key.startsWith('filestoraged upload'))"


class ResumeCase(PagesCase):
    options: ClassVar[tuple[str, ...]] = ("--chunk-hint", "512K")

    def setUp(self) -> None:
        super().setUp()
        # A request that was cut holds the upload until the daemon knows. Chromium repeats some of them by itself, at an
        # offset that is wrong by then. A page that is left would ask its user.
        self.expected = ("net::ERR_", "status of 423", "status of 409", "beforeunload")
        self.data = os.urandom(MIB) * (SIZE // MIB)
        self.digest = hashlib.sha256(self.data).hexdigest()
        self.film = self.file("film", self.data)
        self.addCleanup(self.remove_object)

    def remove_object(self) -> None:
        """Remove what the next test uploads again."""
        with contextlib.suppress(requests.ConnectionError):
            requests.delete(f"{self.daemon.url}/{self.digest}", timeout=PATIENCE)

    def recording_tab(self, **settings: Any) -> Tab:
        tab = self.tab(**settings)
        tab.evaluate(_RECORD)
        return tab

    @contextlib.contextmanager
    def counting(self, daemon: Daemon, *, every: int = SIZE, cuts: int = 0) -> Iterator[CuttingProxy]:
        """Let the browser reach a daemon through a proxy that counts the bytes, and cuts connections."""
        with CuttingProxy(daemon.ports[0], every=every, cuts=cuts) as proxy:
            self.url = proxy.url
            yield proxy

    def leave_unfinished(self, tab: Tab) -> None:
        """Send a part of the file, and load the page anew."""
        self.slow_down(tab, SLOW)
        tab.choose("#file", self.film)
        tab.wait_for(_IS_GOING % _FIRST)
        tab.open(self.url + "/")
        self.slow_down(tab, -1)
        tab.evaluate(_RECORD)

    def assert_stored(self, tab: Tab, name: str = "film") -> None:
        self.wait_for_text(tab, name, "Both hashes are equal.")
        link = self.link_of(tab, name)
        self.assertEqual(self.data, requests.get(link, timeout=PATIENCE).content)
        self.assertEqual([], tab.evaluate(_KEPT))

    def assert_resumed(self, tab: Tab) -> None:
        self.assertTrue([each for each in tab.evaluate("said") if each.startswith("Goes on at ")], tab.evaluate("said"))

    def uploads_of(self, tab: Tab) -> set[str]:
        """The ids of all uploads that a tab has asked for."""
        last = {url.rpartition("/uploads/")[2] for url in tab.requested if "/uploads/" in url}
        return {each for each in last if each}


class ResumeTest(ResumeCase):
    def test_upload_through_lost_connections_sends_little_twice(self) -> None:
        with self.counting(self.daemon, every=11 * MIB // 2, cuts=2) as proxy:
            tab = self.tab()

            tab.choose("#file", self.film)

            self.assert_stored(tab)
            self.assertEqual(1, len(self.uploads_of(tab)))
        self.assertEqual(2, proxy.cuts)
        # From the start again at each cut it would be 1.9 times. A cut costs two pieces at most: Chromium repeats a
        # request by itself where it has used the connection before.
        self.assertLess(proxy.sent, 1.75 * SIZE)

    def test_same_file_chosen_after_a_reload_goes_on(self) -> None:
        with self.counting(self.daemon) as proxy:
            tab = self.recording_tab()
            self.leave_unfinished(tab)
            self.wait_for_text(tab, "film", "Choose this file again: it goes on at ")

            tab.choose("#file", self.film)

            self.assert_stored(tab)
            self.assert_resumed(tab)
            self.assertEqual(1, tab.evaluate("document.querySelectorAll('#list li').length"))
        self.assertLess(proxy.sent, 1.5 * SIZE)

    def test_other_file_of_the_same_name_is_sent_from_its_beginning(self) -> None:
        tab = self.recording_tab()
        self.leave_unfinished(tab)
        self.wait_for_text(tab, "film", "Choose this file again")
        other_time = self.directory / "time" / "film"
        other_size = self.directory / "size" / "film"
        for path, data in ((other_time, self.data[::-1]), (other_size, self.data[MIB:])):
            path.parent.mkdir()
            path.write_bytes(data)
        os.utime(other_time, (1, 1))

        for path in (other_time, other_size):
            with self.subTest(path=path.parent.name):
                tab.choose("#file", path)
                link = self.link_of(tab, "film")
                self.assertIn(hashlib.sha256(path.read_bytes()).hexdigest(), link)
                tab.click("#clear")

        self.assertEqual([], [each for each in tab.evaluate("said") if each.startswith("Goes on at ")])
        self.assertEqual(1, len(tab.evaluate(_KEPT)))

    def test_cancelled_upload_is_removed_and_forgotten(self) -> None:
        tab = self.recording_tab()
        self.slow_down(tab, SLOW)
        tab.choose("#file", self.film)
        tab.wait_for(_IS_GOING % _FIRST)

        self.of_row(tab, "film", "row.querySelector('.cancel').click()")

        self.assertEqual([], tab.evaluate(_KEPT))
        (id_,) = self.uploads_of(tab)
        self.wait_until("the upload is removed", lambda: self.status_of(id_) in (404, 410))
        self.slow_down(tab, -1)
        self.of_row(tab, "film", "row.querySelector('.retry').click()")
        self.assert_stored(tab)

    def test_unfinished_upload_can_be_cancelled_without_its_file(self) -> None:
        tab = self.recording_tab()
        self.leave_unfinished(tab)
        self.wait_for_text(tab, "film", "Choose this file again")
        (id_,) = self.uploads_of(tab)

        tab.click("#list .cancel")

        self.wait_until("the upload is removed", lambda: self.status_of(id_) in (404, 410))
        self.assertEqual([[], 0], [tab.evaluate(_KEPT), tab.evaluate("document.querySelectorAll('#list li').length")])

    def test_upload_that_the_server_has_removed_begins_anew(self) -> None:
        self.expected += ("status of 404", "status of 410")
        tab = self.recording_tab()
        self.leave_unfinished(tab)
        self.wait_for_text(tab, "film", "Choose this file again")
        (id_,) = self.uploads_of(tab)
        requests.delete(f"{self.url}/uploads/{id_}", headers={"Tus-Resumable": VERSION}, timeout=PATIENCE)

        tab.choose("#file", self.film)

        self.assert_stored(tab)
        self.assertEqual(2, len(self.uploads_of(tab)))

    def test_same_file_in_two_tabs_is_stored_by_both(self) -> None:
        first = self.recording_tab()
        self.slow_down(first, SLOW)
        first.choose("#file", self.film)
        first.wait_for(_IS_GOING % _FIRST)
        second = self.tab(beside=first)

        second.choose("#file", self.film)
        self.slow_down(first, -1)

        # Until both are done, one may note anew what the other has forgotten.
        for tab in (first, second):
            self.wait_for_text(tab, "film", "Both hashes are equal.")
        for tab in (first, second):
            self.assert_stored(tab)

    def test_full_storage_does_not_stop_an_upload(self) -> None:
        # The quota is 5 MiB of UTF-16 for an origin.
        self.assert_goes_on_with(
            "for (let size = 1 << 22; size;) try { localStorage.setItem(localStorage.length, 'x'.repeat(size)); }"
            " catch { size >>= 1; }"
        )

    def test_missing_storage_does_not_stop_an_upload(self) -> None:
        self.assert_goes_on_with(
            "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
        )

    def test_offsets_that_make_no_sense_end_an_upload(self) -> None:
        self.expected += ("status of 400",)
        for offset in ("0", "-1", "tea", str(SIZE + 1)):
            with self.subTest(offset):
                tab = self.tab()
                tab.evaluate(
                    "XMLHttpRequest.prototype.getResponseHeader = (real => function (name) {"
                    f" return name === 'Upload-Offset' ? '{offset}' : real.call(this, name); }})"
                    "(XMLHttpRequest.prototype.getResponseHeader)"
                )

                tab.choose("#file", self.film)

                self.wait_for_state(tab, "film", "failed")
                tab.evaluate("localStorage.clear()")

    def test_items_of_other_pages_do_not_hide_an_unfinished_upload(self) -> None:
        with self.counting(self.daemon):
            tab = self.recording_tab()
            self.leave_unfinished(tab)
            tab.evaluate(f"for (const text of ['', 'null', '[', '0']) localStorage.setItem({_PREFIX} + text, '[')")
            tab.open(self.url + "/")

            self.wait_for_text(tab, "film", "Choose this file again: it goes on at ")

            self.assertEqual(1, len(tab.evaluate(_KEPT)))

    def assert_goes_on_with(self, script: str) -> None:
        """Upload through a lost connection where a script has run before those of the page."""
        with self.counting(self.daemon, every=4 * MIB, cuts=1) as proxy:
            tab = self.tab()
            tab.send("Page.addScriptToEvaluateOnNewDocument", source=script)
            tab.open(self.url + "/")

            tab.choose("#file", self.film)

            self.wait_for_text(tab, "film", "Both hashes are equal.")
        self.assertEqual((1, 1), (proxy.cuts, len(self.uploads_of(tab))))

    def test_files_are_sent_in_pieces_of_the_hinted_size_and_small_ones_at_once(self) -> None:
        tab = self.tab()
        patched, posted = (len(self.daemon.lines_with(text, count=0)) for text in (" PATCH /uploads/", " POST / "))

        tab.choose("#file", self.film, self.file("small", os.urandom(MIB // 2)))

        for name in ("film", "small"):
            self.wait_for_state(tab, name, "done")
        self.assertEqual(patched + 24, len(self.daemon.lines_with(" PATCH /uploads/", patched + 24)))
        self.assertEqual(posted + 1, len(self.daemon.lines_with(" POST / ", posted + 1)))

    def test_file_is_sent_by_one_request_where_a_proxy_does_not_pass_pieces(self) -> None:
        for pattern, status in (("*/uploads/", 404), ("*/uploads/?*", 405)):
            with self.subTest(pattern=pattern):
                self.expected += (f"status of {status}",)
                tab = self.tab()
                tab.answer_instead(pattern, status)

                tab.choose("#file", self.film)

                self.wait_for_text(tab, "film", "Both hashes are equal.")
                self.remove_object()

    def status_of(self, id_: str) -> int:
        fields = {"Tus-Resumable": VERSION}
        return int(requests.head(f"{self.daemon.url}/uploads/{id_}", headers=fields, timeout=PATIENCE).status_code)


class WholeTest(ResumeCase):
    options = ("--chunk-hint", "0")

    def test_whole_file_in_one_request_goes_on_too(self) -> None:
        with self.counting(self.daemon, every=6 * MIB, cuts=1) as proxy:
            tab = self.tab()

            tab.choose("#file", self.film)

            self.assert_stored(tab)
        self.assertEqual((1, 1), (proxy.cuts, len(self.uploads_of(tab))))

    def test_tab_that_waits_for_another_one_leaves_the_upload_when_it_is_cancelled(self) -> None:
        first = self.recording_tab()
        self.slow_down(first, SLOW)
        first.choose("#file", self.film)
        first.wait_for(_IS_GOING % 0.1)
        second = self.tab(beside=first)
        second.choose("#file", self.film)
        self.wait_for_text(second, "film", "Another page is sending this file.")

        self.of_row(second, "film", "row.querySelector('.cancel').click()")
        self.slow_down(first, -1)

        self.assert_stored(first)
        self.assertEqual(1, len(self.uploads_of(first)))


class NotMountedTest(ResumeCase):
    options = ("--mount", "files=/")

    def test_files_are_sent_by_one_request_where_uploads_are_not_served(self) -> None:
        tab = self.tab()

        tab.choose("#file", self.film)

        self.assert_stored(tab)
        self.assertEqual(set(), self.uploads_of(tab))


class KilledTest(ResumeCase):
    def test_upload_goes_on_when_the_daemon_was_killed_and_started_again(self) -> None:
        arguments = ("--store", str(self.directory / "store"), "--workers", "1", *self.options)
        first = Daemon("--listen", "127.0.0.1:0", *arguments).wait_until_listening()
        self.addCleanup(first.log.close)
        try:
            with self.counting(first) as proxy:
                tab = self.recording_tab()
                self.slow_down(tab, SLOW)
                tab.choose("#file", self.film)
                tab.wait_for(_IS_GOING % _FIRST)

                first.kill()
                tab.wait_for_text("The connection to the server was lost. Trying again in")
                self.slow_down(tab, -1)
                second = Daemon("--listen", f"127.0.0.1:{first.ports[0]}", *arguments)
                self.addCleanup(second.log.close)
                self.addCleanup(second.kill)
                second.wait_until_listening()

                self.assert_stored(tab)
                self.assert_resumed(tab)
                self.assertEqual(1, len(self.uploads_of(tab)))
            self.assertLess(proxy.sent, 1.5 * SIZE)
        finally:
            first.kill()


class TokenTest(ResumeCase):
    tokens: ClassVar[Path]

    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        cls.tokens = stack.enter_context(temporary_directory()) / "tokens"
        cls.admit("first")
        cls.options = (*ResumeCase.options, "--tokens", str(cls.tokens))
        super().setUpClass()

    @classmethod
    def admit(cls, token: str) -> None:
        """Let this token do everything, and no other."""
        cls.tokens.write_text(f"user read,write,delete {hashed(token).hex()}\n")

    def give(self, tab: Tab, token: str) -> None:
        tab.click("#token-value")
        tab.type(token)
        tab.press("Enter")

    def test_token_that_is_revoked_meanwhile_is_asked_for_and_the_upload_goes_on(self) -> None:
        self.expected += ("status of 401",)
        tab = self.recording_tab()
        self.give(tab, "first")
        self.slow_down(tab, SLOW)
        tab.choose("#file", self.film)
        tab.wait_for(_IS_GOING % _FIRST)

        self.admit("second")
        self.daemon.process.send_signal(signal.SIGHUP)
        tab.wait_for_text("A token is required, or this one is unknown.")
        self.slow_down(tab, -1)
        self.give(tab, "second")

        self.wait_for_text(tab, "film", "Both hashes are equal.")
        self.assert_resumed(tab)
        self.assertEqual(1, len(self.uploads_of(tab)))
        self.assertNotIn("second", json.dumps(tab.evaluate("({...localStorage})")))
