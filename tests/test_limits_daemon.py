"""Limits of areas in daemons of their own: several that share a store, kills, and reloads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

import requests

from tests.daemon.process import PATIENCE, Daemon, fork_command, running
from tests.store.s3.servers import Rclone, shared
from tests.support import TempCase, in_threads
from tests.watch import wait_for_change

QUOTA = 300_000


class LimitsDaemonTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.store = self.directory / "store"
        self.objects = self.store / "repositories" / "pets"

    def running(self, *arguments: str) -> contextlib.AbstractContextManager[Daemon]:
        return running("--store", str(self.store), *arguments)

    def stored(self) -> int:
        """The bytes that are stored. While objects are added alone, at least as many as when the call began."""
        sizes = []
        for where, _, names in os.walk(self.objects):
            sizes += [(Path(where) / name).stat().st_size for name in names if re.fullmatch("[0-9a-f]{64}", name)]
        return sum(sizes)

    def counted(self, daemon: Daemon) -> int:
        text = requests.get(f"{daemon.url}/-/metrics", timeout=PATIENCE).text
        return int(re.findall(r'^filestoraged_area_bytes\{area="data/pets"\} (\d+)', text, re.M)[0])

    def test_storm_of_clients_workers_and_daemons_never_exceeds_the_quota(self) -> None:
        limits = ("--limit", f"data/*=quota:{QUOTA}", "--workers", "2")
        with self.running(*limits) as first, self.running(*limits) as second:
            most = self.fill(first, second)
            self.assertGreater(most, QUOTA - 70_000)
            self.assertEqual(self.stored(), self.counted(first))

            self.replace(first, second)

            # Of an object that was removed while it was uploaded again, the room is free after a while.
            self.assertLessEqual(self.stored(), self.counted(second))
            self.assertLessEqual(self.counted(second), QUOTA)
        status, output, _ = fork_command("usage", "--json", "--store", str(self.store), "data/pets", cwd=self.directory)
        self.assertEqual((0, self.stored()), (status, json.loads(output)["areas"][0]["bytes"]))

    def fill(self, *daemons: Daemon) -> int:
        """Upload from all sides until nothing fits any more. Returns the bytes that were stored at the end."""
        ended = threading.Event()
        seen: list[int] = []

        def watch() -> None:
            while not ended.is_set():
                seen.append(self.stored())

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            statuses = in_threads(12, lambda number: self.upload(daemons[number % 2], number))
        finally:
            ended.set()
            watching.join()
        self.assertEqual({201, 507}, {status for each in statuses for status in each})
        self.assertLessEqual(max(seen), QUOTA)
        self.assertLessEqual(self.stored(), QUOTA)
        return self.stored()

    def upload(self, daemon: Daemon, number: int) -> list[int]:
        chance = random.Random(number)
        with requests.Session() as session:
            sizes = [chance.choice((1, 500, 5000, 69_000)) for _ in range(15)]
            return [
                session.put(f"{daemon.url}/data/pets", chance.randbytes(size), timeout=PATIENCE).status_code
                for size in sizes
            ]

    def replace(self, *daemons: Daemon) -> None:
        """Upload and remove the same few objects from all sides."""
        bodies = [bytes([number]) * 20_000 for number in range(6)]

        def work(number: int) -> None:
            chance = random.Random(number)
            url = f"{daemons[number % 2].url}/data/pets"
            with requests.Session() as session:
                for _ in range(10):
                    answer = session.put(url, chance.choice(bodies), timeout=PATIENCE)
                    if answer.status_code == 201:
                        session.delete(f"{url}/{answer.json()['oid']}", timeout=PATIENCE)
                    else:
                        page: Any = session.get(f"{url}?limit=3", timeout=PATIENCE).json()["objects"]
                        # Others may have removed all of them.
                        for each in chance.sample(page, min(1, len(page))):
                            session.delete(f"{url}/{each['oid']}", timeout=PATIENCE)

        in_threads(8, work)

    def test_reload_takes_limits_over(self) -> None:
        config = self.directory / "filestoraged.conf"
        config.write_text(f"[filestoraged]\nstore = {self.store}\nworkers = 2\n")
        with running("--config", str(config)) as daemon:
            config.write_text(config.read_text() + "limit = data/*=quota:10\n")
            daemon.reload()
            self.assertEqual([507, 201], [self.status(daemon, data) for data in (b"hello world", b"hello")])

            config.write_text(f"[filestoraged]\nstore = {self.store}\nworkers = 2\n")
            daemon.reload()
            self.assertEqual(201, self.status(daemon, b"hello world"))

    def status(self, daemon: Daemon, data: bytes) -> int:
        return int(requests.put(f"{daemon.url}/data/pets", data, timeout=PATIENCE).status_code)

    def test_limits_of_spaces_hold_whether_a_file_or_the_command_line_has_them(self) -> None:
        rules = ("names/bazel=write-once,digest-names:cas/", "names/*=quota:10")
        config = self.directory / "filestoraged.conf"
        lines = "".join(f"    {rule}\n" for rule in rules)
        config.write_text(f"[filestoraged]\nstore = {self.directory / 'other'}\nlimit =\n{lines}")
        with running("--config", str(config)) as daemon:
            self.assert_limits_of_spaces(daemon)
        with self.running(*(option for rule in rules for option in ("--limit", rule))) as daemon:
            self.assert_limits_of_spaces(daemon)

    def assert_limits_of_spaces(self, daemon: Daemon) -> None:
        def put(path: str, data: bytes) -> int:
            return int(requests.put(f"{daemon.url}/names/{path}", data, timeout=PATIENCE).status_code)

        wrong, long = "0" * 64, b"longer than the quota of others"
        digest = hashlib.sha256(long).hexdigest()
        self.assertEqual([400, 201], [put(f"bazel/cas/{wrong}", long), put(f"bazel/cas/{digest}", long)])
        self.assertEqual([201, 409, 200], [put("bazel/a", each) for each in (b"one", b"two", b"one")])
        self.assertEqual([507, 201], [put("ccache/a", each) for each in (long, b"ten bytes!")])
        self.assertEqual(507, put("ccache/b", b"x"))
        requests.delete(f"{daemon.url}/names/ccache/a", timeout=PATIENCE).raise_for_status()
        self.assertEqual(201, put("ccache/b", b"x"))
        metrics = requests.get(f"{daemon.url}/-/metrics", timeout=PATIENCE).text
        self.assertIn('\nfilestoraged_area_bytes{area="names/ccache"} 1\n', metrics)
        self.assertIn('\nfilestoraged_area_quota_bytes{area="names/ccache"} 10\n', metrics)


class LimitsInS3Test(TempCase):
    """Limits of areas in an S3 store, whose objects no directory lists."""

    def setUp(self) -> None:
        super().setUp()
        self.bucket = shared(Rclone).make_bucket()

    def running(self, *limits: str) -> contextlib.AbstractContextManager[Daemon]:
        options = ("--store", str(self.directory / "store"), "--s3", self.bucket.url, "--workers", "2")
        return running(
            *options, *(option for limit in limits for option in ("--limit", limit)), environment=self.environment
        )

    @property
    def environment(self) -> dict[str, str]:
        return self.bucket.server.environment

    def stored(self, prefix: str) -> int:
        return sum(len(self.bucket.get(key)) for key in self.bucket.keys(prefix))

    def fill(self, url: str) -> None:
        """Upload from many sides at once, more than the quota."""
        statuses = in_threads(8, lambda number: [self.put(url, number, each) for each in range(3)])
        self.assertEqual({201, 507}, {status for each in statuses for status in each})

    def test_clients_at_once_never_exceed_the_quota_of_a_repository(self) -> None:
        with self.running("data/*=quota:50K") as daemon:
            self.fill(f"{daemon.url}/data/pets")

            self.assertLessEqual(self.stored("repositories/pets/"), 50 * 1024)
            self.assertGreater(self.stored("repositories/pets/"), 45 * 1024)

    def test_clients_at_once_never_exceed_the_quota_of_a_space(self) -> None:
        with self.running("names/*=quota:50K") as daemon:
            self.fill(f"{daemon.url}/names/pets/{{}}")
            # Bytes of uploads that were refused at the end are removed later, and do not count.
            found = requests.get(f"{daemon.url}/names/pets", timeout=PATIENCE).json()["names"]

            self.assertLessEqual(sum(each["size"] for each in found), 50 * 1024)
            self.assertGreater(sum(each["size"] for each in found), 45 * 1024)

    def put(self, url: str, number: int, each: int) -> int:
        body = b"%d %d " % (number, each) * 1000
        return int(requests.put(url.format(f"{number}/{each}"), body, timeout=PATIENCE).status_code)

    def test_objects_that_were_stored_before_the_limit_count_after_a_start(self) -> None:
        with self.running() as daemon:
            self.put(f"{daemon.url}/data/pets", 1, 1)
        with self.running("data/pets=quota:5000") as daemon:
            # The count is written beside the store.
            url, store = f"{daemon.url}/data/pets", self.directory / "store"
            wait_for_change("they are counted", store, lambda: self.put(url, 2, 2) != 503)

            self.assertEqual(507, self.put(url, 2, 2))
            self.assertEqual(4000, self.stored("repositories/pets/"))

    def test_quota_is_not_judged_by_what_was_counted_before_a_time_without_limits(self) -> None:
        for limits in (["data/pets=quota:5000"], []):
            with self.running(*limits) as daemon:
                self.assertEqual(201, self.put(f"{daemon.url}/data/pets", len(limits), 1))
        with contextlib.closing(sqlite3.connect(self.directory / "store" / "names.sqlite")) as database:
            counts = database.execute("SELECT complete FROM areas WHERE area = 'data/pets'").fetchall()

        self.assertEqual([(0,)], counts)
        with self.running("data/pets=quota:9000") as daemon:
            # Until it is counted, and then.
            self.assertIn(self.put(f"{daemon.url}/data/pets", 2, 2), (503, 507))
