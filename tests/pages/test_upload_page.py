"""The page that uploads files, in a browser."""

from __future__ import annotations

import hashlib
import json
import os

import requests

from tests.daemon.process import Daemon
from tests.pages.browser import DESKTOP, PHONE
from tests.pages.case import NOTE_COPIED, PagesCase, temporary_directory

# Records each value of each bar, and how many uploads were in flight at the same time.
_RECORD = """
window.seen = []; window.most = 0;
new MutationObserver(records => {
  for (const {target} of records) if (target.localName === "progress") seen.push(target.value);
  most = Math.max(most, document.querySelectorAll("[data-state=sending]").length);
}).observe(document, {subtree: true, attributes: true, attributeFilter: ["value", "data-state"]});
"""

_PASTE = """
(() => {
  const data = new DataTransfer();
  data.items.add(new File(["pasted tea"], "paste.txt"));
  document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
})()
"""


class UploadPageTest(PagesCase):
    def test_files_are_stored_by_choice_drop_and_paste_in_all_sizes_and_schemes(self) -> None:
        for number, (size, scheme) in enumerate(
            ((DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark"))
        ):
            chosen, dropped = os.urandom(100_000), os.urandom(100 + number)
            tab = self.tab(size=size, scheme=scheme)

            tab.choose("#file", self.file("chosen", chosen))
            tab.drop("#zone", self.file("dropped", dropped))
            tab.evaluate(_PASTE)

            for name, data in (("chosen", chosen), ("dropped", dropped), ("paste.txt", b"pasted tea")):
                link = self.link_of(tab, name)
                self.assertEqual(f"{self.url}/{hashlib.sha256(data).hexdigest()}?name={name}", link)
                self.assertTrue(requests.get(link).content == data)
            self.assertEqual([], tab.overflowing())

    def test_hash_of_the_browser_is_shown_beside_that_of_the_server(self) -> None:
        # The first is hashed by WebCrypto, the second by our own code in slices.
        tab = self.tab()
        for name, size in (("small", 5 << 20), ("large", 65 << 20)):
            path = self.large_file(name, size)

            tab.choose("#file", path)

            self.wait_for_text(tab, name, "Both hashes are equal.")
            shown = self.of_row(tab, name, "[...row.querySelectorAll('dd')].map(each => each.textContent)")
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.assertEqual([digest, digest], shown)

    def test_browser_without_webcrypto_computes_the_same_hash(self) -> None:
        tab = self.tab()
        script = requests.get(f"{self.url}/-/pages/sha256.js").text
        self.assertIn("self.crypto?.subtle", script)
        # WebCrypto is missing on plain HTTP outside of localhost. No policy forbids a changed script on this page.
        tab.open("about:blank")
        hidden = json.dumps(script.replace("self.crypto?.subtle", "false"))
        for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 1_000_003, (8 << 20) + 7):
            digest = tab.evaluate(
                f"new Promise(done => {{ const worker = new Worker(URL.createObjectURL(new Blob([{hidden}])));"
                " worker.onmessage = event => { worker.terminate(); done(event.data); };"
                f" worker.postMessage(new Blob([new Uint8Array({size}).fill(97)])); }})"
            )
            self.assertEqual(hashlib.sha256(b"a" * size).hexdigest(), digest)

    def test_bar_of_64_mib_moves(self) -> None:
        tab = self.tab()
        tab.evaluate(_RECORD)
        self.slow_down(tab, 8 << 20)

        tab.choose("#file", self.large_file("large", 64 << 20))

        shown = tab.wait_for("document.querySelector('.state')?.textContent.match(/.* left$/)?.[0]")
        self.assertRegex(shown, r"^[0-9.]+ \wiB of 64 MiB · [0-9.]+ \wiB/s · [0-9]+ .*left$")
        tab.wait_for("new Set(seen).size > 2")
        self.slow_down(tab, -1)
        self.wait_for_state(tab, "large", "done")
        values = tab.evaluate("seen")
        self.assertEqual(sorted(values), values)
        self.assertGreater(len(set(values)), 2)
        self.assertEqual(1, values[-1])

    def test_three_uploads_are_in_flight_and_one_can_be_cancelled_and_retried(self) -> None:
        tab = self.tab()
        tab.evaluate(_RECORD)
        # None of them ends before the test has seen three, and cancelled one.
        self.slow_down(tab, 1 << 20)
        names = [f"file {number}" for number in range(5)]

        tab.choose("#file", *(self.large_file(name, (4 + number) << 20) for number, name in enumerate(names)))
        tab.wait_for("document.querySelectorAll('[data-state=sending]').length === 3")
        self.of_row(tab, names[0], "row.querySelector('.cancel').click()")

        self.assertEqual("cancelled", self.of_row(tab, names[0], "row.dataset.state"))
        self.slow_down(tab)
        for name in names[1:]:
            self.wait_for_state(tab, name, "done")
        self.of_row(tab, names[0], "row.querySelector('.retry').click()")
        self.wait_for_state(tab, names[0], "done")
        self.assertEqual(3, tab.evaluate("most"))

    def test_name_is_shown_as_text(self) -> None:
        name = "<img src=x onerror=alert(1)>&amp;.txt"
        tab = self.tab()

        tab.choose("#file", self.file(name))

        self.wait_for_state(tab, name, "done")
        self.assertEqual(0, tab.evaluate("document.querySelectorAll('img').length"))
        self.assertEqual(name, tab.evaluate("document.querySelector('#stored .name').textContent"))
        self.assertEqual([], tab.dialogs)

    def test_list_of_this_browser_is_kept_and_can_be_removed(self) -> None:
        tab = self.tab()
        tab.choose("#file", self.file("first", b"1"), self.file("second", b"2"))
        self.wait_for_state(tab, "first", "done")
        self.wait_for_state(tab, "second", "done")

        tab.open(self.url + "/")
        names = "[...document.querySelectorAll('#stored .name')].map(each => each.textContent).sort().join()"
        tab.wait_for(f"{names} === 'first,second'")
        tab.click("#stored .remove")
        tab.wait_for("document.querySelectorAll('#stored li').length === 1")
        tab.click("#forget")

        tab.wait_for("document.getElementById('history').hidden")
        tab.open(self.url + "/")
        self.assertEqual("", tab.evaluate(names))

    def test_link_is_copied_by_keyboard_alone(self) -> None:
        tab = self.tab()
        tab.send("Page.setInterceptFileChooserDialog", enabled=True)
        tab.tab_to("#file")

        tab.press("Enter")
        tab.wait_for_file_chooser(self.file("by keyboard"))
        self.wait_for_state(tab, "by keyboard", "done")
        tab.tab_to(".copy")
        tab.evaluate(NOTE_COPIED)
        tab.press("Enter")

        tab.wait_for("copied && copied === document.activeElement")

    def test_form_without_scripts_uploads(self) -> None:
        # The answer is no page, and names no icon.
        self.expected = ("/favicon.ico",)
        tab = self.tab(scripts=False)

        tab.choose("#file", self.file("plain", b"no script"))
        tab.click("noscript button")

        tab.wait_for_text(hashlib.sha256(b"no script").hexdigest())

    def test_folder_and_vanished_file_are_said_to_be_unreadable(self) -> None:
        self.expected = ("ERR_FILE_NOT_FOUND", "net::ERR_", "Failed to load resource")
        tab = self.tab()
        # None of them ends before the file has vanished.
        self.slow_down(tab, 1 << 20)
        tab.choose("#file", *(self.large_file(f"busy {number}", 12 << 20) for number in range(3)))
        vanishing = self.file("vanishing")
        tab.choose("#file", vanishing)

        vanishing.unlink()
        self.slow_down(tab)

        self.wait_for_state(tab, "vanishing", "failed")
        self.assertIn("cannot be read", self.of_row(tab, "vanishing", "row.querySelector('.state').textContent"))


class OptionsTest(PagesCase):
    options = ("--max-size", "1M", "--host", "files.test")

    def test_plain_http_outside_of_localhost_hashes_and_copies_without_the_functions_for_safe_origins(self) -> None:
        self.url = self.url.replace("127.0.0.1", "files.test")
        tab = self.tab()
        self.assertFalse(tab.evaluate("isSecureContext || 'clipboard' in navigator || 'subtle' in crypto"))

        tab.choose("#file", self.file("cat.jpg", b"meow"))

        self.wait_for_text(tab, "cat.jpg", "Both hashes are equal.")
        tab.evaluate(NOTE_COPIED)
        tab.click("#list .copy")
        tab.wait_for("copied && copied === document.querySelector('#list .copy')")
        self.assertTrue(self.link_of(tab, "cat.jpg").startswith(self.url))

    def test_file_that_is_too_large_is_refused_before_it_is_sent(self) -> None:
        tab = self.tab()
        page = tab.requested.count(self.url + "/")

        tab.choose("#file", self.large_file("large", 2 << 20), self.file("small"))

        self.wait_for_state(tab, "small", "done")
        self.assertEqual("failed", self.of_row(tab, "large", "row.dataset.state"))
        self.assertIn("takes 1.0 MiB at most", self.of_row(tab, "large", "row.querySelector('.state').textContent"))
        self.assertEqual(page + 1, tab.requested.count(self.url + "/"))

    def test_refused_upload_says_why(self) -> None:
        self.expected = ("status of 413",)
        tab = self.tab(scripts=False)
        # As if the limit had been lowered since the page was loaded.
        tab.evaluate("document.getElementById('page').dataset.limit = ''")
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
        tab.evaluate(f"import({json.dumps(self.url)} + '/-/pages/upload.js')")

        tab.choose("#file", self.large_file("large", 2 << 20))

        self.wait_for_text(tab, "large", "too large for this server")
        self.assertEqual("failed", self.of_row(tab, "large", "row.dataset.state"))


class RestartTest(PagesCase):
    def test_upload_begins_anew_when_another_store_does_not_have_it(self) -> None:
        self.expected = ("net::ERR_", "status of 404")
        tab = self.tab()
        self.slow_down(tab, 4 << 20)
        port = str(self.daemon.ports[0])
        with temporary_directory() as store:
            tab.choose("#file", self.large_file("large", 32 << 20))
            tab.wait_for("document.querySelector('.state')?.textContent.includes('left')")

            self.daemon.kill()
            self.slow_down(tab)

            tab.wait_for_text("The connection to the server was lost. Trying again in")
            second = Daemon("--listen", f"127.0.0.1:{port}", "--store", str(store), "--workers", "1")
            try:
                second.wait_until_listening()
                link = self.link_of(tab, "large")
                self.assertEqual(32 << 20, len(requests.get(link).content))
            finally:
                second.kill()
                second.log.close()
