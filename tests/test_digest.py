"""Digests: their syntax, the algorithms, and the check of announced digests."""

from __future__ import annotations

import hashlib
import unittest

from filestoraged.digest import ALGORITHMS, Expected, Hasher, digest_length, new_hash, parse_digest
from filestoraged.errors import DigestMismatch

TEA = b"tea"


def digest_of(algorithm: str, data: bytes = TEA) -> str:
    return hashlib.new(algorithm, data).hexdigest()


class ParseTest(unittest.TestCase):
    def test_digest_of_every_algorithm_is_accepted(self) -> None:
        for algorithm in ALGORITHMS:
            with self.subTest(algorithm=algorithm):
                self.assertEqual(digest_of(algorithm), parse_digest(digest_of(algorithm)))

    def test_upper_case_is_converted_to_lower_case(self) -> None:
        self.assertEqual("ab" * 32, parse_digest("AB" * 32))
        self.assertEqual("ab" * 32, parse_digest("aB" * 32))

    def test_other_text_returns_none(self) -> None:
        texts = (
            "",
            "ab",
            "ab" * 15,
            "ab" * 65,
            "a" * 33,
            "a" * 63,
            "g" * 64,
            "ab" * 31 + "a ",
            " " + "ab" * 32,
            "ab" * 32 + "\n",
            "ab" * 32 + "\x00",
            "0x" + "ab" * 31,
            "../" + "ab" * 32,
            "ab/" + "ab" * 31 + "a",
            "ab" * 16 + "/" + "ab" * 16,
            "\u0661" * 64,
            "\uff41" * 64,
            "\u00e9" * 64,
            "ab" * 100_000,
        )
        for text in texts:
            with self.subTest(text=text[:70]):
                self.assertIsNone(parse_digest(text))


class AlgorithmsTest(unittest.TestCase):
    def test_algorithms_are_those_of_the_contract(self) -> None:
        contract = "md5 sha1 sha224 sha256 sha384 sha512 blake2b blake2s sha3_256"

        self.assertCountEqual(contract.split(), ALGORITHMS)

    def test_empty_file_has_the_published_digests(self) -> None:
        # Digests of the empty file begin so, by FIPS 180-4, FIPS 202, RFC 1321 and RFC 7693.
        beginnings = {
            "md5": "d41d8cd98f00b204",
            "sha1": "da39a3ee5e6b4b0d",
            "sha224": "d14a028c2a3a2bc9",
            "sha256": "e3b0c44298fc1c14",
            "sha384": "38b060a751ac9638",
            "sha512": "cf83e1357eefb8bd",
            "blake2b": "786a02f742015903",
            "blake2s": "69217a3079908094",
            "sha3_256": "a7ffc6f8bf1ed766",
        }
        for algorithm, beginning in beginnings.items():
            with self.subTest(algorithm=algorithm):
                self.assertEqual(beginning, new_hash(algorithm).hexdigest()[:16])

    def test_digest_length_counts_hex_digits(self) -> None:
        for algorithm in ALGORITHMS:
            with self.subTest(algorithm=algorithm):
                self.assertEqual(len(digest_of(algorithm)), digest_length(algorithm))


class HasherTest(unittest.TestCase):
    def test_pieces_of_any_type_are_hashed(self) -> None:
        for algorithm in ALGORITHMS:
            hasher = Hasher(algorithm)

            for piece in (b"t", bytearray(b"e"), memoryview(b"-a-")[1:2], b""):
                hasher.update(piece)

            with self.subTest(algorithm=algorithm):
                self.assertEqual(digest_of(algorithm), hasher.digest())

    def test_digest_is_available_between_updates(self) -> None:
        hasher = Hasher("sha256")
        hasher.update(b"t")

        first = hasher.digest()
        hasher.update(b"ea")

        self.assertEqual(digest_of("sha256", b"t"), first)
        self.assertEqual(digest_of("sha256"), hasher.digest())

    def test_check_without_expected_digests_passes(self) -> None:
        Hasher("sha256").check()

        self.assertEqual((), tuple(Hasher("sha256").expected))

    def test_check_with_correct_digests_passes(self) -> None:
        expected = [Expected(algorithm, digest_of(algorithm)) for algorithm in ("sha256", "md5", "sha512", "sha256")]
        hasher = Hasher("sha256", expected)
        hasher.update(TEA)

        hasher.check()

        self.assertEqual(digest_of("sha256"), hasher.digest())

    def test_check_with_wrong_digest_raises_with_both_digests(self) -> None:
        for algorithm in ("sha256", "md5"):
            hasher = Hasher("sha256", [Expected(algorithm, digest_of(algorithm))])
            hasher.update(b"coffee")

            with self.subTest(algorithm=algorithm):
                with self.assertRaises(DigestMismatch) as caught:
                    hasher.check()

                self.assertEqual(400, caught.exception.status)
                self.assertEqual(algorithm, caught.exception.algorithm)
                self.assertEqual(digest_of(algorithm), caught.exception.expected)
                self.assertEqual(digest_of(algorithm, b"coffee"), caught.exception.actual)

    def test_check_with_one_wrong_digest_among_several_raises(self) -> None:
        good, wrong = Expected("sha256", digest_of("sha256")), Expected("sha256", digest_of("sha256", b"coffee"))
        for expected in ([good, wrong], [wrong, good], [Expected("md5", digest_of("md5")), wrong]):
            hasher = Hasher("sha256", expected)
            hasher.update(TEA)

            with self.subTest(expected=expected):
                self.assertRaises(DigestMismatch, hasher.check)

    def test_check_of_no_bytes_raises(self) -> None:
        hasher = Hasher("sha256", [Expected("sha256", digest_of("sha256"))])

        self.assertRaises(DigestMismatch, hasher.check)
