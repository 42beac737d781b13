"""The client limit: connections counted by client, over all workers."""

from __future__ import annotations

import ipaddress
import os
import random
import unittest

from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.trusted_proxies import IPAddress


def address(text: str) -> IPAddress:
    return ipaddress.ip_address(text)


def some_keys(number: int) -> list[int]:
    """As well spread as those of addresses, and the same each time: those of one process in 350 fill a bucket."""
    spread = random.Random(1)
    return [spread.getrandbits(60) for _ in range(number)]


class ClientsTest(unittest.TestCase):
    def test_excess_over_the_limit_is_returned(self) -> None:
        clients = ClientLimit(2, 100)
        key = clients.key(address("203.0.113.9"))

        self.assertEqual([-1, 0, 1], [clients.enter(key) for _ in range(3)])
        clients.leave(key)
        clients.leave(key)
        self.assertEqual(0, clients.enter(key))

    def test_ipv4_address_or_ipv6_network_of_64_bits_is_one_client(self) -> None:
        clients = ClientLimit(2, 100)

        self.assertNotEqual(clients.key(address("203.0.113.9")), clients.key(address("203.0.113.10")))
        self.assertEqual(clients.key(address("2001:db8::1")), clients.key(address("2001:db8::ffff:2")))
        self.assertNotEqual(clients.key(address("2001:db8::1")), clients.key(address("2001:db8:0:1::1")))

    def test_all_workers_count_against_one_limit(self) -> None:
        clients = ClientLimit(3, 100, workers=2)
        key = clients.key(address("203.0.113.9"))
        pid = os.fork()
        if not pid:
            clients.take_slot(1)
            clients.enter(key)
            clients.enter(key)
            os._exit(0)
        os.waitpid(pid, 0)
        clients.take_slot(0)

        self.assertEqual([0, 1], [clients.enter(key), clients.enter(key)])

    def test_counts_of_a_dead_worker_are_reset_with_its_slot(self) -> None:
        clients = ClientLimit(3, 100, workers=2)
        keys = some_keys(100)
        for slot in (0, 1):
            clients.take_slot(slot)
            for key in keys:
                clients.enter(key)

        clients.take_slot(1)

        self.assertEqual({1}, {clients.count(key) for key in keys})

    def test_all_clients_up_to_the_capacity_are_counted(self) -> None:
        clients = ClientLimit(1, 10_000)
        keys = some_keys(10_000)

        self.assertEqual({0}, {clients.enter(key) for key in keys})
        self.assertEqual({1}, {clients.enter(key) for key in keys})

    def test_entries_without_connections_are_reused(self) -> None:
        clients = ClientLimit(1, 4)
        for number in range(10_000):
            key = clients.key(ipaddress.IPv4Address(number))

            self.assertEqual(0, clients.enter(key))
            clients.leave(key)
