"""Values of options: what is understood, and what is refused because no request could ever match it."""

from __future__ import annotations

import ipaddress
import unittest

from filestoraged.command_errors import UsageError
from filestoraged.daemon.values import parse_allowed_origin, parse_host_name, parse_proxy, parse_public_url
from filestoraged.web.cross_site import Origins
from tests.web.test_cross_site import request


class AllowedOriginTest(unittest.TestCase):
    def test_origin_that_no_browser_sends_is_refused_with_one_sentence(self) -> None:
        for text in (
            "https://*.example",
            "https://*",
            "https://.example",
            "https://a..example",
            "https://b\u00fccher.example",
            "https://user@a.example",
            "https://a.example/",
            "https://a.example/below",
            "https://a.example?x",
            "http://127.1",
            "http://[::0:1]",
            "http://[::ffff:127.0.0.1]",
            "http://[:::]",
            "file://a.example",
            "wss://a.example",
        ):
            with self.subTest(text=text):
                with self.assertRaises(UsageError) as raised:
                    parse_allowed_origin(text)
                self.assertTrue(str(raised.exception).startswith(f"invalid origin {text!r}: expected "))

    def test_origin_in_another_spelling_matches_what_browsers_send(self) -> None:
        for text, sent in (
            ("HTTPS://A.Example", "https://a.example"),
            ("https://a.example:443", "https://a.example"),
            ("http://a.example:", "http://a.example"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[::ffff:7f00:1]", "http://[::ffff:7f00:1]"),
            ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
            ("capacitor://localhost", "capacitor://localhost"),
        ):
            with self.subTest(text=text):
                origins = Origins(allowed=[parse_allowed_origin(text)])

                self.assertIsNone(origins.judge(request("Host: files.lan", f"Origin: {sent}"), "POST").fault)


class HostNameTest(unittest.TestCase):
    def test_host_that_no_request_names_is_refused(self) -> None:
        for text in (
            "a.example:80",
            "https://a.example",
            "*.example",
            ".example",
            "a..example",
            "a/b",
            "[1:2]",
            "b\u00fccher.example",
        ):
            with self.subTest(text=text), self.assertRaises(UsageError):
                parse_host_name(text)

    def test_name_address_and_star_are_accepted(self) -> None:
        for text in ("Files.Example.org", "files.example.org.", "my_host", "127.0.0.1", "[::1]", "*"):
            with self.subTest(text=text):
                self.assertEqual(text, parse_host_name(text))


class PublicUrlTest(unittest.TestCase):
    def test_url_that_begins_no_link_or_names_no_origin_is_refused(self) -> None:
        for text in (
            "https://a.example?x=1",
            "https://a.example/?",
            "https://a.example/#",
            "https://*.example",
            "https://b\u00fccher.example",
            "https://a.example/b\u00fccher",
            "http://127.1",
            "https://user@a.example",
        ):
            with self.subTest(text=text), self.assertRaises(UsageError):
                parse_public_url(text)

    def test_url_with_a_port_and_a_path_is_accepted(self) -> None:
        for text, url in (
            ("https://Files.example.org/below/", "https://Files.example.org/below"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ):
            with self.subTest(text=text):
                self.assertEqual(url, parse_public_url(text))


class ProxyTest(unittest.TestCase):
    def test_host_bits_of_a_network_are_cleared(self) -> None:
        for text in ("10.0.0.7/8", "::ffff:10.0.0.7/104"):
            with self.subTest(text=text):
                self.assertEqual(ipaddress.ip_network("10.0.0.0/8"), parse_proxy(text))

    def test_ipv4_network_in_an_ipv6_address_with_bits_of_ipv4_is_refused(self) -> None:
        # Clients are known by their IPv4 address, which is in no IPv6 network.
        with self.assertRaises(UsageError):
            parse_proxy("::ffff:10.0.0.7/8")
