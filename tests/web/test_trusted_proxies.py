"""The address of a client: X-Forwarded-For counts from trusted proxies alone."""

from __future__ import annotations

import ipaddress
import unittest

from filestoraged.web.request import Request
from filestoraged.web.response import Answer
from filestoraged.web.trusted_proxies import UNIX, IPNetwork, TrustedProxies
from tests.web.simulation import SimulatedCase

TRUSTED = [ipaddress.ip_network(each) for each in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8:1::/48")]


class ProxiesTest(unittest.TestCase):
    def test_hosts_of_the_networks_alone_are_trusted(self) -> None:
        proxies = TrustedProxies(TRUSTED)

        for address in ("10.1.2.3", "192.0.2.7", "::ffff:10.1.2.3", "2001:db8:1::5"):
            self.assertTrue(proxies.trust(address), address)
        for address in ("192.0.2.8", "2001:db8:2::5", "127.0.0.1", "::1", UNIX, "fe80::1%eth0"):
            self.assertFalse(proxies.trust(address), address)

    def test_unix_sockets_are_trusted_if_configured(self) -> None:
        self.assertTrue(TrustedProxies([UNIX]).trust(UNIX))
        self.assertFalse(TrustedProxies([UNIX]).trust("127.0.0.1"))
        self.assertFalse(TrustedProxies().trust(UNIX))

    def test_client_is_the_last_address_that_is_no_trusted_proxy(self) -> None:
        proxies = TrustedProxies(TRUSTED)
        cases = {
            "203.0.113.9": "203.0.113.9",
            "1.1.1.1, 203.0.113.9": "203.0.113.9",
            "203.0.113.9, 10.1.1.1,192.0.2.7": "203.0.113.9",
            "nonsense, 203.0.113.9, 10.1.1.1": "203.0.113.9",
            "203.0.113.9:5678": "203.0.113.9",
            "[2001:db8:9::1]:5678": "2001:db8:9::1",
            "2001:DB8:9:0::1": "2001:db8:9::1",
            "fe80::1%x GET evil 200 \x9b31m": "fe80::1",
            "::ffff:203.0.113.9": "203.0.113.9",
            # The proxies themselves have asked.
            "10.1.1.1, 10.1.1.2": "10.1.1.1",
        }

        for forwarded, client in cases.items():
            with self.subTest(forwarded=forwarded):
                self.assertEqual(client, proxies.client(forwarded, "10.9.9.9"))

    def test_client_without_an_address_is_the_proxy(self) -> None:
        proxies = TrustedProxies(TRUSTED)

        for forwarded in (None, "", "unknown", "203.0.113.9, nonsense", "1.2.3", "1.2.3.4:x", "203.0.113.9,", "[::1"):
            with self.subTest(forwarded=forwarded):
                self.assertEqual("10.9.9.9", proxies.client(forwarded, "10.9.9.9"))

    def test_long_field_is_parsed_too(self) -> None:
        self.assertEqual("203.0.113.9", TrustedProxies(TRUSTED).client("203.0.113.9" + ", 10.1.1.1" * 100, "10.9.9.9"))


class ProxiedTest(SimulatedCase):
    def trust(self, *clients: IPNetwork | str) -> None:
        self.context.proxies = TrustedProxies(clients)

    def logged_clients(self) -> list[str]:
        return [line.split()[0] for line in self.access_lines()]

    def test_each_request_of_a_connection_is_logged_with_the_client_that_the_proxy_names_for_it(self) -> None:
        self.trust(ipaddress.ip_network("127.0.0.0/8"))
        head = b"GET /-/health HTTP/1.1\r\nHost: x\r\n"
        first, last = head + b"X-Forwarded-For: 203.0.113.9\r\n\r\n", head + b"X-Forwarded-For: ::5\r\n\r\n\0\r\n\r\n"

        self.raw(first + head + b"\r\n" + last, answers=4)

        self.assertEqual(["203.0.113.9", "127.0.0.1", "::5", "127.0.0.1"], self.logged_clients())

    def test_pages_get_the_client_that_the_proxy_names(self) -> None:
        self.trust(ipaddress.ip_network("127.0.0.0/8"))
        clients: list[str] = []
        answer = self.app.answer

        def note(request: Request) -> Answer:
            clients.append(request.client)
            return answer(request)

        self.app.answer = note  # type: ignore[method-assign]
        self.post("/", b"tea", X_Forwarded_For="203.0.113.9")

        self.assertEqual((["203.0.113.9"], ["203.0.113.9"]), (clients, self.logged_clients()))

    def test_untrusted_client_cannot_name_another(self) -> None:
        self.get("/-/health", X_Forwarded_For="203.0.113.9")

        self.assertEqual(["127.0.0.1"], self.logged_clients())

    def test_proxy_on_a_unix_socket_names_its_clients(self) -> None:
        self.trust(UNIX)

        for forwarded in (b"X-Forwarded-For: 203.0.113.9\r\n", b""):
            connection = self.connect("")
            connection.sendall(b"GET /-/health HTTP/1.1\r\nHost: x\r\n%b\r\n" % forwarded)

        self.assertEqual(["203.0.113.9", UNIX], self.logged_clients())
