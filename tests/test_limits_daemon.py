"""Limits of areas in daemons of their own: several that share a store, kills, and reloads."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import threading
from pathlib import Path
from typing import Any

import requests

from tests.daemon.process import PATIENCE, Daemon, fork_command, running
from tests.support import TempCase, in_threads

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
                        session.delete(f"{url}/{chance.choice(page)['oid']}", timeout=PATIENCE)

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
