"""Announced digests: parsed exactly or refused, so that no requested check is skipped."""

from __future__ import annotations

import base64
import hashlib
import unittest

from filestoraged.digest import Expected
from filestoraged.errors import BadRequest
from filestoraged.wire.expectations import expected_digests

TEA = b"tea"


def encoded(algorithm: str, data: bytes = TEA) -> str:
    return base64.b64encode(hashlib.new(algorithm, data).digest()).decode()


def expected(algorithm: str, data: bytes = TEA) -> Expected:
    return Expected(algorithm, hashlib.new(algorithm, data).hexdigest())


MD5, SHA256, SHA512 = encoded("md5"), encoded("sha256"), encoded("sha512")


class ExpectationsTest(unittest.TestCase):
    def parse(self, field: str) -> list[Expected]:
        """Parse the field as Content-Digest and as Repr-Digest, with the same result."""
        content, representation = expected_digests({"content-digest": field}), expected_digests({"repr-digest": field})
        self.assertEqual(content, representation)
        return content

    def assert_refused(self, **fields: str) -> None:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        with self.subTest(**{name: value[:80] for name, value in fields.items()}):
            self.assertRaises(BadRequest, expected_digests, named)

    def test_request_without_digests_expects_none(self) -> None:
        self.assertEqual([], expected_digests({}))
        self.assertEqual([], expected_digests({"content-type": "text/plain", "digest": "x", "etag": '"x"'}))

    def test_digests_of_the_contract_are_parsed(self) -> None:
        both = [expected("sha256"), expected("sha512")]
        for field, digests in {
            f"sha-256=:{SHA256}:": both[:1],
            f"sha-512=:{SHA512}:": both[1:],
            f"md5=:{MD5}:": [expected("md5")],
            # RFC 9530, appendix B.1.
            "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:": [expected("sha256", b'{"hello": "world"}\n')],
            **{f"sha-256=:{SHA256}:{comma}sha-512=:{SHA512}:": both for comma in (",", ", ", " ,", "\t, \t")},
            # An empty dictionary: RFC 8941, section 3.2.
            "": [],
        }.items():
            with self.subTest(field=field):
                self.assertEqual(digests, self.parse(field))
        self.assertEqual([expected("md5")], expected_digests({"content-md5": MD5}))

    def test_all_fields_are_parsed(self) -> None:
        fields = {"repr-digest": f"sha-512=:{SHA512}:", "content-digest": f"sha-256=:{SHA256}:", "content-md5": MD5}

        self.assertCountEqual([expected("md5"), expected("sha256"), expected("sha512")], expected_digests(fields))

    def test_other_algorithms_are_ignored(self) -> None:
        # RFC 9530, section 2.
        for other in ("sha-384=:AA==:", "unixsum=:AAA=:", "crc32c=:AAAAAA==:", "x=::", "*=:AA==:", "a_b-c.d*=:AA==:"):
            with self.subTest(other=other):
                self.assertEqual([], self.parse(other))
                self.assertEqual([expected("sha256")], self.parse(f"{other}, sha-256=:{SHA256}:"))
                self.assertEqual([expected("sha256")], self.parse(f"sha-256=:{SHA256}:, {other}"))

    def test_parameters_are_ignored(self) -> None:
        # RFC 8941, section 3.1.2: parameters with values of any type.
        for parameters in (
            ";a", ";a;b", "; a=1", ";a=?0;b=token", ";a=-1.5", ";a=:AA==:", ';a="text"', ';a="a, b; c\\""',
        ):  # fmt: skip
            with self.subTest(parameters=parameters):
                self.assertEqual([expected("sha256")], self.parse(f"sha-256=:{SHA256}:{parameters}"))
                self.assertEqual(
                    [expected("sha256"), expected("md5")], self.parse(f"sha-256=:{SHA256}:{parameters}, md5=:{MD5}:")
                )

    def test_malformed_dictionary_is_refused(self) -> None:
        fields = (
            "sha-256", "sha-256=", f"sha-256={SHA256}", f'sha-256="{SHA256}"', f"sha-256=:{SHA256}",
            f"sha-256={SHA256}:", f"sha-256:{SHA256}:", f"sha-256 =:{SHA256}:", f"sha-256= :{SHA256}:", f"=:{SHA256}:",
            f":{SHA256}:", f"SHA-256=:{SHA256}:", f"-sha=:{SHA256}:", f"sha-256=:{SHA256}:,", f",sha-256=:{SHA256}:",
            f"sha-256=:{SHA256}:,,md5=:{MD5}:", f"sha-256=:{SHA256}: md5=:{MD5}:", f"sha-256=:{SHA256}:;",
            f"sha-256=:{SHA256}:;A=1", f"sha-256=:{SHA256}:x", f"sha-256=:{SHA256[:20]} {SHA256[20:]}:",
            f"sha-256=:{SHA256[:-1]}*:", f"sha-256=:{SHA256.replace('=', '.')}:", "sha-256=?1", "sha-256=1",
            "sha-256=\u00e9", "\u00e9=:AA==:", ",",
        )  # fmt: skip
        for field in fields:
            self.assert_refused(content_digest=field)
            self.assert_refused(repr_digest=field)

    def test_invalid_base64_is_refused(self) -> None:
        for value in (
            "", "=", "====", "=AAA", "A", "AAAAA", "A=AA", "*", "not base64", MD5[:-2], MD5 + "=", MD5 + "\n", "-_-_",
            # Field values may contain other bytes than ASCII, which are decoded as Latin-1.
            "\u00e9", MD5[:-1] + "\u00ff", "\u00a0" + MD5,
            # Of another length. Two fields are joined to one list.
            SHA256, "AA==", f"{MD5}, {MD5}",
        ):  # fmt: skip
            self.assert_refused(content_md5=value)
        for value in ("=", "A", "A=AA", "=AAA", SHA256[:-1], SHA512, ""):
            self.assert_refused(content_digest=f"sha-256=:{value}:")
        self.assert_refused(content_digest=f"sha-512=:{SHA256}:")
        self.assert_refused(content_digest=f"md5=:{SHA256}:")

    def test_long_malformed_field_is_refused(self) -> None:
        # As long as a head may be.
        hostile = (
            "a=::;a=" + " " * 30000 + '"', "a=::" + ";a=    " * 4000 + '"', "a=::" + " " * 30000 + "x",
            "a=::;" + " " * 30000 + "=", "a=::" + ";a" * 15000 + "=,", "a" * 30000, "a=:" + "A" * 30000,
            "a=::," * 6000, "a=::;a=" + "x" * 30000 + '"',
        )  # fmt: skip
        for field in hostile:
            self.assert_refused(content_digest=field)
