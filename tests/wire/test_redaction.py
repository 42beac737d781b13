"""Redaction: no password, token or drop id is logged, in any encoding."""

from __future__ import annotations

import unittest

from filestoraged.wire.redaction import may_show, redact_target, redact_text

ID = "0123456789abcdef0123456789ABCDEF"
ENCODED_ID = "".join(f"%{ord(digit):02x}" for digit in ID)
TWICE_ENCODED_ID = ENCODED_ID.replace("%", "%25")
SHA256 = "0123456789abcdef" * 4


class TargetTest(unittest.TestCase):
    def test_drop_id_is_hidden_in_any_encoding_and_place(self) -> None:
        for target, shown in (
            (f"/vimeo/api/v1.0/file/{ID}", "/vimeo/api/v1.0/file/***"),
            (f"//vimeo/api/v1.0/file/{ID}", "//vimeo/api/v1.0/file/***"),
            (f"/%76imeo/api/v1.0/file/{ID}", "/%76imeo/api/v1.0/file/***"),
            (f"/elsewhere/{ID}/", "/elsewhere/***/"),
            (f"/{ID}", "/***"),
            (f"/file/{ENCODED_ID}", "/file/***"),
            (f"/file/{TWICE_ENCODED_ID}", "/file/***"),
            (f"/file%2F{ID}%0Ax", "/***"),
            (f"/file/{ID}.", "/file/***."),
            (f"/file/{ID[:-1]}", "/file/***"),
            (f"/file/{ID}a", "/file/***"),
            (f"/{ID}/{ID}?id={ID}", "/***/***?id=***"),
            (f"/?link=http%3A%2F%2Fx%2F{ID}", "/?***"),
        ):
            with self.subTest(target=target):
                self.assertEqual(shown, redact_target(target))

    def test_password_and_token_are_hidden_in_any_encoding_and_place(self) -> None:
        for target, shown in (
            ("/a?password=s3cret", "/a?password=***"),
            ("/a?PassWord=s3cret", "/a?password=***"),
            ("/a?pass%77ord=s3cret", "/a?password=***"),
            ("/a?pass%2577ord=s3cret", "/a?password=***"),
            ("/a?%70assword%3Ds3cret", "/a?password=***"),
            ("/a?x=y&token=s3cret&z=1", "/a?x=y&token=***&z=1"),
            ("/a?x=y;password=s3cret", "/a?x=y;password=***"),
            ("/a;password=s3cret", "/a;password=***"),
            ("/a;password=s3cret/s3cret?s3cret", "/a;password=***"),
            ("/a%3Fpassword=s3cret", "/password=***"),
            ("/a&password=s3cret", "/a&password=***"),
            ("/a?password=s3cret;s3cret&b=c", "/a?password=***&b=c"),
            ("/a?password=s3cret&s3cret&b=c", "/a?password=***&b=c"),
            ("/a?password=s3c%26ret", "/a?password=***"),
            ("/a?access_token=s3cret", "/a?token=***"),
            ("/a?password[]=s3cret", "/a?password=***"),
            ("/a?url=http%3A//x/%3Fpassword%3Ds3cret", "/a?url=http%3A//x/password=***"),
            ("/a?password=s3cret&password=s3cret", "/a?password=***&password=***"),
        ):
            with self.subTest(target=target):
                self.assertEqual(shown, redact_target(target))

    def test_target_without_secrets_is_unchanged(self) -> None:
        for target in (
            "/", f"/{SHA256}", f"/?hash={SHA256}&name=a%20b.jpg", "/data/pets/" + "a" * 40, "/kv/password",
            "/?name=password.txt", "/?name=token", "/kv/a%0Ab", "*", "/%", "",
        ):  # fmt: skip
            with self.subTest(target=target):
                self.assertEqual(target, redact_target(target))


class TextTest(unittest.TestCase):
    def test_drop_id_in_a_path_is_hidden(self) -> None:
        text = redact_text(f"[Errno 13] Permission denied: '/store/drops/01/{ID}'")

        self.assertEqual("[Errno 13] Permission denied: '/store/drops/01/***'", text)


class SecretTest(unittest.TestCase):
    def test_query_with_a_password_or_a_token_may_not_be_shown(self) -> None:
        for query in ("password=x", "a=b&pass%77ord=x", "a=b;token=x", "%74oken=x"):
            self.assertFalse(may_show(f"?{query}"), query)
        for query in ("", "a=b", "name=password", f"hash={ID * 2}"):
            self.assertTrue(may_show(f"?{query}"), query)

    def test_what_would_be_hidden_may_not_be_shown(self) -> None:
        for text in (f"http://x/drop/{ID}", f"/%{ord(ID[0]):x}{ID[1:]}", "/?password=x", "a=b; token=x", f"x\n{ID}\ny"):
            self.assertFalse(may_show(text), text)
        for text in ("", "/", "http://x/a%20b?c=d", "Mozilla/5.0 (X11; Linux)", f'"{ID}{ID}"', "the token is secret"):
            self.assertTrue(may_show(text), text)
