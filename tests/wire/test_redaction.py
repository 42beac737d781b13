"""No password, token or link of a drop gets into a log, however it is written."""

from __future__ import annotations

import unittest

from filestoraged.wire.redaction import has_secret, redact_target, redact_text

ID = "0123456789abcdef0123456789ABCDEF"
ENCODED_ID = "".join(f"%{ord(digit):02x}" for digit in ID)
TWICE_ENCODED_ID = ENCODED_ID.replace("%", "%25")
SHA256 = "0123456789abcdef" * 4


class TargetTest(unittest.TestCase):
    def test_an_id_is_hidden_in_every_spelling_and_place(self) -> None:
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

    def test_a_secret_is_hidden_in_every_spelling_and_place(self) -> None:
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

    def test_all_else_is_shown_as_it_came(self) -> None:
        for target in (
            "/",
            f"/{SHA256}",
            f"/?hash={SHA256}&name=a%20b.jpg",
            "/data/pets/" + "a" * 40,
            "/kv/password",
            "/?name=password.txt",
            "/?name=token",
            "/kv/a%0Ab",
            "*",
            "/%",
            "",
        ):
            with self.subTest(target=target):
                self.assertEqual(target, redact_target(target))


class TextTest(unittest.TestCase):
    def test_the_path_of_a_drop_does_not_name_it(self) -> None:
        text = redact_text(f"[Errno 13] Permission denied: '/store/drops/01/{ID}'")

        self.assertEqual("[Errno 13] Permission denied: '/store/drops/01/***'", text)


class SecretTest(unittest.TestCase):
    def test_a_query_with_a_secret_is_told_from_others(self) -> None:
        for query in ("password=x", "a=b&pass%77ord=x", "a=b;token=x", "%74oken=x"):
            self.assertTrue(has_secret(query), query)
        for query in ("", "a=b", "name=password", f"hash={ID}"):
            self.assertFalse(has_secret(query), query)
