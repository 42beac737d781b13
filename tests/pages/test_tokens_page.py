"""The pages where requests need a token, in a browser."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import requests

from filestoraged.web.auth import hashed
from tests.pages.case import DROPS, PagesCase, temporary_directory

TOKENS = {"all": "read,write,delete", "reader": "read"}


class TokensPageTest(PagesCase):
    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        directory: Path = stack.enter_context(temporary_directory())
        lines = [f"{name} {scopes} {hashed(f'token-of-{name}').hex()}\n" for name, scopes in TOKENS.items()]
        (directory / "tokens").write_text("".join(lines))
        cls.options = ("--tokens", str(directory / "tokens"))
        super().setUpClass()

    def give(self, tab: Any, token: str) -> None:
        tab.click("#token-value")
        tab.type(token)
        tab.press("Enter")

    def test_upload_asks_for_a_token_and_keeps_it_for_the_tab(self) -> None:
        self.expected = ("status of 401", "status of 403")
        tab = self.tab()
        tab.watch_challenges()
        tab.choose("#file", self.file("cat.jpg", b"meow"))
        self.assertEqual("waiting", self.of_row(tab, "cat.jpg", "row.dataset.state"))

        self.give(tab, "nonsense")
        tab.wait_for_text("A token is required, or this one is unknown.")
        self.give(tab, "token-of-all")

        link = self.link_of(tab, "cat.jpg")
        headers = {"Authorization": "Bearer token-of-all"}
        self.assertEqual(b"meow", requests.get(link, headers=headers).content)
        self.assertEqual([], tab.challenged)
        tab.open(self.url)
        tab.choose("#file", self.file("again", b"again"))
        self.wait_for_state(tab, "again", "done")
        self.assertNotIn("token-of-all", json.dumps(tab.evaluate("({...localStorage})")))
        other = self.tab()
        self.assertFalse(other.evaluate("document.getElementById('token').hidden"))

    def test_token_without_the_scope_is_said(self) -> None:
        self.expected = ("status of 403",)
        tab = self.tab()
        self.give(tab, "token-of-reader")

        tab.choose("#file", self.file("cat.jpg"))

        self.wait_for_text(tab, "cat.jpg", "This is not allowed with this token")

    def test_drop_is_shared_and_fetched_with_a_token(self) -> None:
        self.expected = ("status of 401", "status of 410")
        sender = self.tab(f"{DROPS}/")
        self.give(sender, "token-of-all")
        sender.click("#password")
        sender.type("open")
        sender.choose("#file", self.file("secret.txt", b"psst"))
        link = self.link_of(sender, "secret.txt")

        receiver = self.tab(link)
        receiver.watch_challenges()
        self.type_password(receiver, "wrong")
        receiver.press("Enter")
        self.give(receiver, "token-of-reader")
        receiver.wait_for_text("The password is missing or wrong.")
        receiver.click("#password")
        receiver.evaluate("document.getElementById('password').select()")
        receiver.type("open")
        receiver.press("Enter")

        receiver.wait_for_text("The file was fetched.")
        self.assertEqual(b"psst", self.downloaded(receiver, "secret.txt"))
        self.assertEqual([], receiver.challenged)

    def test_page_without_scripts_says_that_a_token_needs_them(self) -> None:
        tab = self.tab(scripts=False)

        tab.wait_for_text("This server asks for a token, which this page can send with JavaScript only.")
