"""Each part is killed, hangs or is cut off under load. What was acknowledged stays, and all recover by themselves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.runner.judge import announce
from tests.scale.checks import FaultCase
from tests.scale.program import run, wait_until
from tests.scale.requests import KINDS
from tests.support import find_program

# HAProxy's own: no daemon can be reached, or the one that had the request is gone.
_PROXY = (502, 503)

# A drop was sent, and its end cannot be written.
_BROKEN_OFF = "connection of client 127.0.0.1 broke off: DatabaseFailure: "

_OBJECTS = ("files put", "files get", "repositories put")

# One client makes them in turn, and repeats each until it succeeds: only one of them meets a fault.
_CHANGES = ("kv set", "kv commit")


class DaemonTest(FaultCase):
    def test_killed_daemon_costs_its_requests_in_flight_alone(self) -> None:
        one = self.service.daemons[0]
        with self.load():
            with broken(one.kill, one.start):
                self.wait_until_served(KINDS)
                wait_until("HAProxy has noticed", lambda: self.service.haproxy.status(one) == "DOWN")
            self.wait_until_up()

        # A download that had begun breaks off.
        self.assert_refused_clearly((0, *_PROXY))

    def test_daemon_that_hangs_ends_its_requests_and_gets_no_others(self) -> None:
        two = self.service.daemons[1]
        with self.load():
            with broken(two.hang, two.wake):
                wait_until("HAProxy has noticed", lambda: self.service.haproxy.status(two) == "DOWN")
                self.wait_until_served(KINDS)
            self.wait_until_up()

        self.assert_refused_clearly((0, *_PROXY))

    def test_daemon_that_is_drained_and_replaced_fails_no_request(self) -> None:
        three = self.service.daemons[2]
        with self.load():
            self.service.haproxy.command("set server filestoraged/three state drain")
            wait_until("it is idle", lambda: self.service.haproxy.statistics()["three"]["scur"] == "0")
            three.daemon.stop()
            three.start()
            self.service.haproxy.command("set server filestoraged/three state ready")
            self.wait_until_up()

        self.assert_all_served(KINDS)

    def test_daemon_that_is_stopped_without_a_drain_fails_no_request(self) -> None:
        one = self.service.daemons[0]
        with self.load():
            one.daemon.stop()
            self.wait_until_served(KINDS)
            one.start()
            self.wait_until_up()

        self.assert_all_served(KINDS)


class StoreTest(FaultCase):
    def test_killed_osd_fails_objects_alone(self) -> None:
        with self.load():
            with broken(self.service.ceph.osd.kill, self.service.ceph.osd.start):
                self.wait_until_refused(_OBJECTS, (503,))
            self.service.ceph.wait_for_osd()

        self.assert_all_served(self.without_s3())
        self.assert_refused_clearly()

    def test_killed_gateway_fails_objects_alone(self) -> None:
        self.assert_fails_objects_alone(broken(self.service.gateway.kill, self.service.gateway.start))

    def test_gateway_that_hangs_fails_objects_alone(self) -> None:
        self.assert_fails_objects_alone(broken(self.service.gateway.hang, self.service.gateway.wake))

    def test_network_to_the_gateway_that_drops_packets_fails_objects_alone(self) -> None:
        self.assert_fails_objects_alone(dropped(self.service.gateway.port))

    def assert_fails_objects_alone(self, fault: AbstractContextManager[None]) -> None:
        with self.load(), fault:
            self.wait_until_refused(_OBJECTS, (503,))

        self.assert_all_served(self.without_s3())
        self.assert_refused_clearly()

    def test_killed_monitor_fails_nothing(self) -> None:
        with self.load(), broken(self.service.ceph.monitor.kill, self.service.ceph.monitor.start):
            self.wait_until_served(KINDS)

        self.assert_all_served(KINDS)

    def test_full_bucket_refuses_uploads_alone(self) -> None:
        limit = self.service.ceph.limit_buckets
        with self.load(), broken(lambda: limit(1), lambda: limit(0)):
            self.wait_until_refused(("files put", "repositories put", "drops put"), (507,))
            self.wait_until_served(("files get", "kv commit", "health"))

        self.assert_all_served(("files get", "drops get", *self.without_s3()))
        self.assert_refused_clearly((503, 507))


class DatabaseTest(FaultCase):
    def test_standby_takes_over_from_a_killed_primary(self) -> None:
        with self.load():
            self.service.database.primary.kill()
            # Not a set: the one who writes keys repeats what was refused, which may be the commit.
            self.wait_until_refused(("kv get", "drops put"), (503,))
            self.service.database.promote()
            self.wait_until_served(KINDS)
            self.service.database.restore()

        self.assert_all_served(self.without_database())
        self.assert_refused_clearly((0, 503))

    def test_network_to_the_primary_that_drops_packets_fails_keys_and_drops_alone(self) -> None:
        self.assert_fails_keys_and_drops_alone(dropped(self.service.database.primary.port))

    def test_commit_waits_for_a_standby_that_hangs_and_is_refused(self) -> None:
        signal_all = self.service.database.standby.signal_all
        hanging = broken(lambda: signal_all(signal.SIGSTOP), lambda: signal_all(signal.SIGCONT))
        self.assert_fails_keys_and_drops_alone(hanging)

    def assert_fails_keys_and_drops_alone(self, fault: AbstractContextManager[None]) -> None:
        announce(_BROKEN_OFF)
        with self.load(), fault:
            self.wait_until_refused(("drops put",), (503,))
            self.wait_until_one_refused(_CHANGES, (503,))

        self.assert_all_served(self.without_database())
        self.assert_refused_clearly((0, 503))


class ProxyTest(FaultCase):
    def test_requests_that_need_neither_go_on_without_store_and_database(self) -> None:
        announce(_BROKEN_OFF)
        with self.load(), dropped(self.service.gateway.port), dropped(self.service.database.primary.port):
            self.wait_until_refused(("files put", "kv get", "drops put"), (503,))
            wait_until("no daemon is ready", lambda: set(self.service.haproxy.statuses()) == {"NOLB"})
            self.wait_until_served(("health",))

        self.assert_all_served(("health",))
        self.assert_refused_clearly((0, 503))


@contextlib.contextmanager
def broken(break_: Callable[[], object], mend: Callable[[], object]) -> Iterator[None]:
    """Break a part for the length of a block."""
    break_()
    try:
        yield
    finally:
        mend()


@contextlib.contextmanager
def dropped(port: int) -> Iterator[None]:
    """Drop the packets to a server's port for the length of a block. Only in a network namespace of its own."""
    rule = ("INPUT", "--protocol", "tcp", "--dport", str(port), "--jump", "DROP")
    run(find_program("iptables"), "--append", *rule)
    try:
        yield
    finally:
        run(find_program("iptables"), "--delete", *rule)
