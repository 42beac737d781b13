"""Names in daemons of their own, which share PostgreSQL and an S3 store, and are killed."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

from filestoraged.store.disk.store import DiskStore
from filestoraged.store.name_collection import Collector
from filestoraged.store.names import Names
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.store import S3Store
from filestoraged.store.s3.url import parse_url
from tests.clock import VirtualClock
from tests.daemon.hasty import run_hasty_daemon
from tests.daemon.process import Daemon, running
from tests.proofs.powercut.load import Client, Connection
from tests.proofs.powercut.names import SPACE, NameClient, SwappingClient, compare_names, list_names
from tests.proofs.powercut.record import Record
from tests.runner.marks import long
from tests.store.postgresql.opened import OpenedCase
from tests.store.s3.servers import Rclone, shared
from tests.support import free_port

# Seconds between two kills.
_INTERVAL = 4.0
_KILLS = 4

_DAY = 25 * 3600.0


@long("a storm of clients, janitors and kills takes half a minute")
class NamesStormTest(OpenedCase):
    def setUp(self) -> None:
        super().setUp()
        self.bucket = shared(Rclone).make_bucket()
        self.ports = [free_port(), free_port()]
        self.clock = VirtualClock()

    def running(self, number: int) -> contextlib.AbstractContextManager[Daemon]:
        """A daemon on a machine of its own."""
        where = ("--listen", f"127.0.0.1:{self.ports[number]}", "--store", str(self.directory / f"machine{number}"))
        options = ("--workers", "2", "--s3", self.bucket.url, "--database", self.url)
        return running(*where, *options, environment=self.bucket.server.environment, main=run_hasty_daemon)

    def test_changes_that_were_answered_hold_and_nothing_else_stays_whatever_is_killed(self) -> None:
        record = Record()
        with self.running(0) as lasting:
            with self.load(record):
                for _ in range(_KILLS):
                    with self.running(1):
                        threading.Event().wait(_INTERVAL)
            connection = Connection(lasting.ports)
            self.addCleanup(connection.close)
            errors = list(compare_names(connection.ask, record))
            expected = set(list_names(connection.ask).values())
        self.collect()

        self.assertEqual([], errors)
        self.assertEqual(expected, {key.rpartition("/")[2] for key in self.bucket.keys(f"names/{SPACE}/")})
        # Requests to the daemon that is killed fail in between.
        self.assertEqual([], [error for error in record.unexpected if "status" in error])
        self.assertLess(100, record.counts["names by PUT"])
        self.assertLess(10, record.counts["swaps"])

    def collect(self) -> None:
        """What no name leads to, long after the end of all daemons."""
        names = Names(self.open_transactions(), self.clock)
        area = DiskStore(self.directory / "machine").volume.staging_area
        store = S3Store(
            S3Client(parse_url(self.bucket.url), CredentialSource(None, self.bucket.server.environment)), area
        )
        collector = Collector(names, store.namespace("names"), clock=self.clock)
        self.clock.advance(_DAY)
        self.pass_time()
        while collector.scan():
            pass
        self.pass_time()
        while collector.collect():
            pass
        store.close()

    def pass_time(self) -> None:
        """Make all times in the database a day older."""
        with contextlib.closing(self.server.connect(self.database)) as connection:
            connection.execute("UPDATE filestoraged.stored SET since = since - %s", (_DAY,))
            connection.execute("UPDATE filestoraged.collections SET scanned = scanned - %s", (_DAY,))

    @contextlib.contextmanager
    def load(self, record: Record) -> Iterator[None]:
        stop = threading.Event()
        kinds: list[type[Client]] = [*(4 * [NameClient]), *(3 * [SwappingClient])]
        threads = []
        for number, kind in enumerate(kinds):
            client = kind(self.ports, record, f"storm.{number}", random.Random(number))
            threads.append(threading.Thread(target=client.run, args=(stop,)))
            threads[-1].start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
