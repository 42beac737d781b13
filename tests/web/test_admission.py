"""Admission: limits by client, reserved places for operations, and workers that share the connection limit."""

from __future__ import annotations

import copy
import errno
import ipaddress
import logging
import os
import re
import socket
import subprocess
import sys
from typing import Any

from filestoraged.web.admission import _MAX_RESERVED
from filestoraged.web.client_limit import ClientLimit
from filestoraged.web.connection_limit import ConnectionLimit
from filestoraged.web.server import Server
from filestoraged.web.trusted_proxies import TrustedProxies
from tests.daemon.process import PATIENCE, Daemon, running
from tests.support import TempCase, find_program, read_all, read_answer, split_answer
from tests.web.simulation import Client, SimulatedCase

HEALTH = b"GET /-/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
READY = b"GET /-/ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\nExpect: 100-continue\r\n\r\n"


class ClientLimitTest(SimulatedCase):
    limit = 3
    address_of_clients = "203.0.113.9"

    def make_server(self, **options: Any) -> Server:
        return super().make_server(clients=ClientLimit(self.limit, 1000), **options)

    def connect(self, address: str = "") -> Client:
        return super().connect(address or self.address_of_clients)

    def test_one_client_gets_503_with_retry_after_for_more_than_its_limit(self) -> None:
        guests = self.greeted(self.limit)

        answer, rest = split_answer(read_all(self.connect()))

        self.assertEqual((503, b""), (answer.status, rest))
        self.assertEqual("close", answer.fields["connection"])
        self.assertGreater(int(answer.fields["retry-after"]), 0)
        self.assertIn("This client has 3 connections already.", answer.body.decode())
        for guest in guests:
            guest.sendall(HEALTH)
            self.assertEqual(200, read_answer(guest).status)

    def test_client_at_its_limit_delays_no_other_client(self) -> None:
        self.greeted(self.limit)
        self.address_of_clients = "203.0.113.10"

        self.greeted(self.limit)

    def test_closed_connection_admits_another_of_its_client(self) -> None:
        guests = self.greeted(self.limit)
        guests[0].close()

        self.greeted(1)

    def test_loopback_and_trusted_proxies_have_no_limit(self) -> None:
        self.context.admission.proxies = TrustedProxies([ipaddress.ip_network("203.0.113.8")])
        for self.address_of_clients in ("127.0.0.1", "::1", "203.0.113.8"):
            self.greeted(self.limit + 1)

    def test_refused_connections_of_one_client_take_no_places_and_all_get_503(self) -> None:
        self.greeted(self.limit)

        crowd = [self.connect() for _ in range(200)]
        told = sum(b" 503 " in read_all(connection) for connection in crowd)

        self.assertEqual(200, told)
        self.assertEqual(self.limit, self.connection_limit.count)


class ProxiedClientTest(SimulatedCase):
    interfaces = ("files", "kv")
    limit = 2

    def make_server(self, **options: Any) -> Server:
        proxies = TrustedProxies([ipaddress.ip_network("127.0.0.0/8")])
        return super().make_server(clients=ClientLimit(self.limit, 1000), proxies=proxies, **options)

    def begin(self, client: str) -> Client:
        """Begin an upload of a client behind the proxy."""
        connection = self.connect()
        connection.sendall(UPLOAD[:-2] + f"X-Forwarded-For: {client}\r\n\r\n".encode())
        return connection

    def test_requests_in_flight_by_a_proxy_count_for_the_client_that_it_names(self) -> None:
        uploads = [self.begin("203.0.113.9") for _ in range(2)]
        begun = [read_answer(upload).status for upload in uploads]

        refused = read_answer(self.begin("203.0.113.9"))
        other = read_answer(self.begin("203.0.113.10")).status

        self.assertEqual([100, 100], begun)
        self.assertEqual((503, 100), (refused.status, other))
        self.assertGreater(int(refused.fields["retry-after"]), 0)

    def test_small_bodies_that_the_loop_receives_count_too(self) -> None:
        head = b"POST /kv/set HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
        begun = [self.connect() for _ in range(2)]
        for connection in begun:
            connection.sendall(head + b"{")
        third = self.connect()
        third.sendall(head + b"{")
        refused = read_answer(third).status
        for connection in begun:
            connection.sendall(b'"key": 1}')

        self.assertEqual((503, [201, 201]), (refused, [read_answer(connection).status for connection in begun]))

    def test_completed_request_does_not_count(self) -> None:
        uploads = [self.begin("203.0.113.9") for _ in range(2)]
        for upload in uploads:
            read_answer(upload)
        uploads[0].sendall(b"complete")
        self.assertEqual(200, read_answer(uploads[0]).status)
        uploads[1].close()

        self.assertEqual([100, 100], [read_answer(self.begin("203.0.113.9")).status for _ in range(2)])


class ReservedPlacesTest(SimulatedCase):
    """All connections are to an admin listener, with places of its own."""

    connections = 1

    def make_server(self, **options: Any) -> Server:
        return super().make_server(reserved=self.listeners, **options)

    def test_connections_beyond_the_reserved_places_take_other_ones_or_get_503(self) -> None:
        uploads = [self.connect() for _ in range(_MAX_RESERVED + 1)]
        for upload in uploads:
            upload.sendall(UPLOAD)
            self.assertEqual(100, read_answer(upload).status)

        crowd = [self.connect() for _ in range(200)]

        self.assertEqual({503}, {split_answer(read_all(connection))[0].status for connection in crowd})
        self.assertEqual(1, self.connection_limit.count)


class WorkersTest(SimulatedCase):
    """Three workers that share a listener and the limit's memory. The first that is not ahead accepts a connection."""

    connections = 6

    def start_server(self) -> None:
        self.connection_limit = ConnectionLimit(self.connections, 3)
        self.addCleanup(self.connection_limit.close)
        shared = self.connection_limit
        for slot in range(3):
            self.connection_limit = copy.copy(shared)
            self.connection_limit.take_slot(slot)
            super().start_server()

    def ask(self, connection: Client) -> None:
        connection.sendall(HEALTH)
        self.assertEqual(200, read_answer(connection).status)
        # For the next one to be idle for less; more than the least interval of scans.
        self.pass_time(0.01)

    def of_worker(self, number: int, clients: list[Client]) -> list[Client]:
        server, _ = self.machine.workers[number]
        own: set[Any] = {each.transport.socket for each in server.context.poller.all()}
        return [client for client in clients if client.connection in own]

    def test_longest_idle_connection_of_the_worker_that_accepts_is_evicted(self) -> None:
        guests = self.greeted(6)
        by_idle_time = [guests[number] for number in (0, 2, 4, 5, 1, 3)]
        for guest in by_idle_time:
            self.ask(guest)
        # The first accepts all further ones.
        own = self.of_worker(0, by_idle_time)
        others = [each for each in guests if each not in own]

        for _ in range(10):
            own += self.greeted(1)

            self.assertEqual([True] + [False] * 3, [each.is_closed for each in own])
            del own[0]
        self.assertEqual([False] * 3, [each.is_closed for each in others])

    def begin_upload(self, connection: Client) -> None:
        connection.sendall(UPLOAD)
        self.assertEqual(100, read_answer(connection).status)

    def test_worker_without_an_idle_connection_leaves_a_new_one_to_a_worker_that_has_one(self) -> None:
        guests = self.greeted(6)
        for guest in self.of_worker(0, guests):
            self.begin_upload(guest)

        newcomers = self.greeted(2)

        self.assertEqual([False, False], [each.is_closed for each in newcomers])
        self.assertEqual(2, sum(each.is_closed for each in guests))

    def test_new_connection_is_served_when_one_becomes_idle_in_any_worker_and_else_gets_503(self) -> None:
        guests = self.greeted(6)
        for guest in guests:
            self.begin_upload(guest)
        for guest in guests:
            newcomer = self.connect()
            newcomer.sendall(HEALTH)
            self.pass_time(0.5)
            guest.sendall(b"complete")
            self.assertEqual(200, read_answer(guest).status)
            # More than the least interval between two scans for idle connections.
            self.pass_time(0.01)

            self.assertEqual((True, 200), (guest.is_closed, read_answer(newcomer).status))
            self.begin_upload(newcomer)
            # Each worker learns that none waits.
            self.pass_time(0.5)

        refused = self.connect()
        self.pass_time(0.5)
        before = bytes(refused.connection.output)
        self.pass_time(0.5)
        self.assertEqual((b"", 503), (before, split_answer(read_all(refused))[0].status))

    def test_connection_that_comes_while_a_worker_drains_is_accepted_by_another(self) -> None:
        for server, _ in self.machine.workers[:2]:
            server.begin_drain(30.0)

        (connection,) = self.greeted(1)

        self.assertFalse(connection.is_closed)

    def test_connections_are_shared_evenly(self) -> None:
        for server, _ in self.machine.workers:
            server._connection_limit.limit = 1000
        for _ in range(90):
            self.connect()

        shares = list(self.connection_limit._counts)

        self.assertEqual(90, sum(shares))
        self.assertGreaterEqual(min(shares), 20)


class NoDescriptorsTest(SimulatedCase):
    """The system has no descriptor for a further connection."""

    def setUp(self) -> None:
        super().setUp()
        self.refusals = 0
        self.accept = self.listener.accept
        self.listener.accept = self.refuse

    def refuse(self) -> None:
        self.refusals += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def test_worker_tries_again_twice_a_second_and_logs_one_warning_in_ten_seconds(self) -> None:
        self.connect()
        refusals = []
        for _ in range(41):
            refusals.append(self.refusals)
            self.pass_time(0.5)

        warnings = self.log_lines(logging.WARNING)
        self.assertEqual(["cannot accept connections for now: Too many open files"] * 3, warnings)
        # It does not keep the loop busy.
        self.assertEqual(list(range(refusals[0], refusals[0] + 41)), refusals)

    def test_connection_that_waits_is_accepted_at_the_next_check_when_there_is_a_descriptor(self) -> None:
        connection = self.connect()
        connection.sendall(HEALTH)
        self.listener.accept = self.accept

        self.pass_time(0.5)

        self.assertEqual(200, read_answer(connection).status)


# Connects from this namespace's own address, and prints the status of each answer.
_CONNECT = """
import socket, sys
connections = []
for _ in range(int(sys.argv[2])):
    connection = socket.create_connection(("10.9.9.1", int(sys.argv[1])), 10)
    connection.sendall(b"GET /-/health HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    connections.append(connection)
    print(connection.recv(65536).split()[1].decode())
"""


class DaemonTest(TempCase):
    """Several workers, listeners and network namespaces: what only processes and the kernel show."""

    def arguments(self, *others: str) -> tuple[str, ...]:
        return ("--store", str(self.directory / "store"), *others)

    def test_two_workers_bound_the_connections_of_one_address_together(self) -> None:
        find_program("ip")
        network = "ip link set lo up && ip address add 10.9.9.1/32 dev lo"
        before = [find_program("unshare"), "--net", "--map-root-user", "sh", "-c", f'{network} && exec "$@"', "sh"]
        options = ("--workers", "2", "--max-connections-per-client", "5")
        daemon = Daemon("--listen", "10.9.9.1:0", *self.arguments(*options), before=before)
        self.addCleanup(daemon.kill)
        daemon.wait_until_listening()
        enter = [find_program("nsenter"), "--target", str(daemon.process.pid), "--user", "--preserve-credentials"]

        output = subprocess.run(
            [*enter, "--net", sys.executable, "-c", _CONNECT, str(daemon.ports[0]), "8"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

        self.assertEqual(["200"] * 5 + ["503"] * 3, output.split())

    def test_operations_are_answered_while_all_other_places_are_taken(self) -> None:
        options = ("--workers", "1", "--max-connections", "2", "--admin-listen", "127.0.0.1:0")
        with running(*self.arguments(*options)) as daemon:
            uploads = [socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) for _ in range(2)]
            for upload in uploads:
                self.addCleanup(upload.close)
                upload.sendall(UPLOAD)
                self.assertEqual(100, read_answer(upload).status)
            (admin,) = {int(port) for port in re.findall(r":(\d+) for operations", "\n".join(daemon.lines()))}
            statuses = []
            for port in (admin, daemon.ports[0], admin):
                # It stays open, and idle: for others that is no place.
                connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
                self.addCleanup(connection.close)
                connection.sendall(READY)
                statuses.append(read_answer(connection).status)
            for upload in uploads:
                upload.sendall(b"complete")
                self.assertEqual(200, read_answer(upload).status)

        self.assertEqual([200, 503, 200], statuses)

    def test_client_behind_a_trusted_proxy_is_logged(self) -> None:
        with running(*self.arguments("--trusted-proxy", "127.0.0.0/8", "--trusted-proxy", "unix")) as daemon:
            with socket.create_connection(("127.0.0.1", daemon.ports[0]), PATIENCE) as connection:
                connection.sendall(HEALTH[:-2] + b"X-Forwarded-For: 198.51.100.1, 203.0.113.9, 127.0.0.1\r\n\r\n")
                read_answer(connection)
            daemon.stop()
            lines = daemon.lines()

        self.assertEqual(1, sum(" 203.0.113.9 GET /-/health 200 " in line for line in lines))
