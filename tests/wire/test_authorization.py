"""Credentials in the Authorization field."""

from __future__ import annotations

import base64
import unittest

from filestoraged.wire.authorization import parse_basic, parse_token


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


class AuthorizationTest(unittest.TestCase):
    def test_user_and_password_of_basic_credentials_are_parsed(self) -> None:
        for field, user, password in (
            (basic("alice:secret"), "alice", "secret"),
            (basic("alice:a:b"), "alice", "a:b"),
            (basic(":secret"), "", "secret"),
            (basic("alice"), "alice", ""),
            (basic("Zoë:Käse"), "Zoë", "Käse"),
            (basic("alice:secret").replace("Basic ", "BASIC   "), "alice", "secret"),
        ):
            with self.subTest(field=field):
                self.assertEqual((user, password), parse_basic(field))
                self.assertEqual(password, parse_token(field))

    def test_malformed_credentials_have_no_user_and_no_password(self) -> None:
        for field in ("", "Basic", "Basic %%%", "Basic eA", basic(b"\xff:x"), "Bearer x", "Digest " + basic("a:b")[6:]):
            with self.subTest(field=field):
                self.assertEqual(("", ""), parse_basic(field))
