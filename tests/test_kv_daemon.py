"""The key-value database in a daemon of its own: workers, kills, failing and full disks."""

from __future__ import annotations

import contextlib

import requests

from tests.daemon.process import Daemon, running, traced
from tests.support import TempCase, in_threads
from tests.test_faults import PrivateDiskCase


class KvDaemonTest(TempCase):
    def running(self, *arguments: str) -> contextlib.AbstractContextManager[Daemon]:
        return running("--mount", "kv=/", "--store", str(self.directory / "store"), *arguments)

    def test_workers_share_queued_and_committed_keys(self) -> None:
        with self.running("--workers", "3") as daemon:

            def work(number: int) -> list[int]:
                # Each request has a connection of its own, and so any worker.
                statuses = [
                    requests.post(f"{daemon.url}/set", json={f"key{number}": step}).status_code for step in (1, 2)
                ]
                statuses.append(requests.post(f"{daemon.url}/commit").status_code)
                statuses += [requests.get(f"{daemon.url}/key{number}").json()[f"key{number}"] for _ in range(4)]
                return statuses

            results = in_threads(12, work)

        # The second is an update where another client has committed the first.
        self.assertEqual([[201, result[1], 204, 2, 2, 2, 2] for result in results], results)
        self.assertLessEqual({result[1] for result in results}, {200, 201})

    def test_kill_loses_no_answered_key(self) -> None:
        with self.running() as daemon:
            requests.post(f"{daemon.url}/set", json={"committed": 1})
            requests.post(f"{daemon.url}/commit")
            requests.post(f"{daemon.url}/set", json={"queued": 2})
            daemon.kill()
        with self.running() as daemon:
            visible = [requests.get(f"{daemon.url}/{key}").status_code for key in ("committed", "queued")]
            requests.post(f"{daemon.url}/commit")
            queued = requests.get(f"{daemon.url}/queued").json()

        self.assertEqual(([200, 404], {"queued": 2}), (visible, queued))

    def test_disk_that_fails_or_is_full_refuses_changes_and_loses_nothing(self) -> None:
        self.announce("answering 500: OperationalError: disk I/O error$")
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            for fault, statuses in (
                ("pwrite64:error=ENOSPC", [507, 507, 404]),
                ("fdatasync,fsync:error=EDQUOT", [201, 507, 404]),
                # Since the last one the log is in doubt, and is to be rewritten first.
                ("fdatasync,fsync:error=EIO", [500, 500, 404]),
            ):
                with self.subTest(fault), traced(daemon, "-o", "/dev/null", "-e", f"inject={fault}"):
                    changes = [
                        requests.post(f"{daemon.url}/set", json={"other": 1}),
                        requests.post(f"{daemon.url}/commit"),
                    ]
                    changes.append(requests.get(f"{daemon.url}/key"))
                    self.assertEqual(statuses, [answer.status_code for answer in changes])
            committed = requests.post(f"{daemon.url}/commit")
            values = [requests.get(f"{daemon.url}/{key}").json() for key in ("key", "other")]

        self.assertEqual((204, [{"key": 1}, {"other": 1}]), (committed.status_code, values))

    def test_commit_is_synced_before_it_is_answered(self) -> None:
        trace = self.directory / "trace"
        with self.running("--workers", "1") as daemon:
            requests.post(f"{daemon.url}/set", json={"key": 1})
            with traced(daemon, "-e", "trace=fdatasync,fsync", "-o", str(trace)):
                self.assertEqual(204, requests.post(f"{daemon.url}/commit").status_code)
                synced = trace.read_text().count("sync(")

        self.assertGreaterEqual(synced, 1)


class FullFromTheStartTest(PrivateDiskCase):
    def test_daemon_on_a_full_disk_starts_and_accepts_keys_when_space_is_free(self) -> None:
        store = self.disk("1M", "head -c 2M /dev/zero >filler", "--mount", "kv=/")
        refused = [requests.post(f"{self.daemon.url}/set", json={"key": 1}), requests.get(f"{self.daemon.url}/key")]
        (store.parent / "filler").unlink()

        taken = requests.post(f"{self.daemon.url}/set", json={"key": 1})
        committed = requests.post(f"{self.daemon.url}/commit")

        self.assertEqual([507, 507], [answer.status_code for answer in refused])
        self.assertEqual([201, 204], [taken.status_code, committed.status_code])
        self.assertEqual({"key": 1}, requests.get(f"{self.daemon.url}/key").json())
