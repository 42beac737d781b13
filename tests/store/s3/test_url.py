from __future__ import annotations

import unittest

from filestoraged.store.s3.url import parse_url


class ParseUrlTest(unittest.TestCase):
    def test_parts_of_a_url_are_found(self) -> None:
        for url, authority, bucket, prefix in (
            ("https://s3.example.org/cats", "s3.example.org", "cats", ""),
            ("https://S3.example.org:443/cats/", "s3.example.org", "cats", ""),
            ("http://localhost:9000/my_Bucket/a/b", "localhost:9000", "my_Bucket", "a/b/"),
            ("http://[::1]:9000/cats/a", "[::1]:9000", "cats", "a/"),
        ):
            with self.subTest(url):
                location = parse_url(url)

                self.assertEqual(
                    (authority, bucket, prefix), (location.endpoint.authority, location.bucket, location.prefix)
                )

    def test_malformed_url_is_refused(self) -> None:
        for url in (
            "",
            "s3://cats",
            "https://host",
            "https://host/",
            "https://host:0/cats",
            "https://host:99999/cats",
            "https://user:secret@host/cats",
            "https://host/cats?x=1",
            "https://host/cats#x",
            "https://host/c",
            "https://host/cats//a",
            "https://host/cats/../a",
            "https://host/cats/a b",
            "https://ho st/cats",
        ):
            with self.subTest(url):
                self.assertRaises(ValueError, parse_url, url)

    def test_message_repeats_no_credentials(self) -> None:
        for url in (
            "https://user:secret@host/cats",
            "https://host/cats?X-Amz-Signature=secret",
            "s3://user:secret@cats",
        ):
            with self.subTest(url), self.assertRaises(ValueError) as caught:
                parse_url(url)

            self.assertNotIn("secret", str(caught.exception))

    def test_characters_of_a_path_are_encoded_once(self) -> None:
        location = parse_url("https://host/cats/a")

        self.assertEqual("/cats/a/b%20%2525~", location.path("b %25~"))
        self.assertEqual("/cats", location.path(""))

    def test_loopback_is_told_from_other_hosts(self) -> None:
        for host, is_loopback in (
            ("localhost", True),
            ("127.0.0.9", True),
            ("[::1]", True),
            ("s3.localhost", True),
            ("10.0.0.1", False),
            ("localhost.example.org", False),
        ):
            with self.subTest(host):
                self.assertIs(is_loopback, parse_url(f"http://{host}/cats").is_loopback)
