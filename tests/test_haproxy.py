"""Three daemons behind HAProxy, on one PostgreSQL and one S3 store, as systemd/haproxy.cfg puts them there."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from tests.haproxy import running_daemons, running_haproxy
from tests.postgresql import PostgresServer
from tests.scale import interfaces
from tests.scale.program import wait_until
from tests.store.s3.servers import Rclone


class ThreeDaemonsTest(interfaces.InterfacesContract):
    objects: Rclone

    @classmethod
    def setUpClass(cls) -> None:
        stack = contextlib.ExitStack()
        cls.addClassCleanup(stack.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="filestoraged-")))
        database = PostgresServer()
        stack.callback(database.remove)
        database.start()
        cls.objects = Rclone()
        stack.callback(cls.objects.kill)
        url = database.url(database.create_database())
        options = ("--s3", cls.objects.make_bucket().url, "--database", url, "--store", str(directory / "{name}"))
        cls.daemons = stack.enter_context(
            running_daemons(*options, "--workers", "1", environment=cls.objects.environment)
        )
        cls.haproxy = stack.enter_context(running_haproxy(directory, cls.daemons))

    def test_download_from_a_killed_daemon_is_answered_by_another(self) -> None:
        digest = self.send("POST", "/", b"cat").json()["hash"]
        one = self.daemons[0]
        one.kill()
        self.addCleanup(self.wait_until_all_are_ready)
        self.addCleanup(one.start)

        statuses = [self.send("GET", f"/{digest}").status_code for _ in range(6)]

        self.assertEqual([200] * 6, statuses)
        wait_until("HAProxy has noticed", lambda: self.haproxy.status(one) == "DOWN")

    def test_drained_daemon_gets_no_requests(self) -> None:
        two = self.daemons[1]

        self.haproxy.command("set server filestoraged/two state drain")
        self.addCleanup(self.wait_until_all_are_ready)
        self.addCleanup(self.haproxy.command, "set server filestoraged/two state ready")
        before = self.haproxy.statistics()["two"]["lbtot"]
        statuses = [self.send("PUT", "/data/pets", b"cat").status_code for _ in range(6)]

        self.assertEqual([201] * 6, statuses)
        self.assertEqual(("DRAIN", before), (self.haproxy.status(two), self.haproxy.statistics()["two"]["lbtot"]))

    def test_requests_that_need_no_store_go_on_while_it_cannot_be_reached(self) -> None:
        self.objects.kill()
        self.addCleanup(self.wait_until_all_are_ready)
        self.addCleanup(self.objects.start)
        wait_until("no daemon is ready", lambda: set(self.haproxy.statuses()) == {"NOLB"})

        refused = self.send("PUT", "/data/pets", b"dog")
        set_ = self.send("POST", "/kv/set", json={"cup": 1})
        health = self.send("GET", "/-/health")

        self.assertEqual((503, True), (refused.status_code, "Retry-After" in refused.headers))
        self.assertEqual((201, 200), (set_.status_code, health.status_code))

    def test_error_of_haproxy_itself_is_json_and_says_when_to_retry(self) -> None:
        self.addCleanup(self.wait_until_all_are_ready)
        for daemon in self.daemons:
            daemon.kill()
            self.addCleanup(daemon.start)

        answer = self.send("POST", "/kv/commit")

        # 502 on a connection that was kept.
        self.assertIn(answer.status_code, (502, 503))
        self.assertIn("retry later", answer.json()["message"])
        self.assertGreater(int(answer.headers["Retry-After"]), 0)

    def wait_until_all_are_ready(self) -> None:
        try:
            wait_until("all daemons are ready", lambda: set(self.haproxy.statuses()) == {"UP"})
        except AssertionError as error:
            lines = [f"{daemon.name}: {line}" for daemon in self.daemons for line in daemon.lines()[-10:]]
            raise AssertionError("\n".join([str(error), *lines])) from error
