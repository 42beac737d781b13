"""The pages `/-/metrics` and `/-/ready`: exact counts, in a format that promtool accepts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterable
from unittest import mock

import requests

from filestoraged.api import metrics
from filestoraged.store.contract import Usage
from filestoraged.store.disk.usage import DiskUsage
from filestoraged.store.shared_count import Pause
from filestoraged.web.metrics import Metrics
from filestoraged.web.response import Response
from filestoraged.wire.exposition import Family
from tests.clock import VirtualClock
from tests.daemon.process import KILLED_WORKER, PATIENCE, running
from tests.support import ServerCase, TempCase, in_threads
from tests.web.simulation import SimulatedCase


def samples(text: str) -> dict[str, float]:
    """The values by their names and labels."""
    pairs = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def bounded_calls() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "bounded call"]


def _error_of(part: str) -> str:
    return f'filestoraged_scrape_errors{{part="{part}"}}'


class MetricsTest(ServerCase):
    def metrics(self) -> dict[str, float]:
        answer = self.get("/-/metrics")
        self.assertEqual(200, answer.status)
        return samples(answer.body.decode())

    def count(self, interface: str, method: str, status: int) -> float:
        labels = f'interface="{interface}",method="{method}",status="{status}"'
        return self.metrics().get(f"filestoraged_requests_total{{{labels}}}", 0)

    def test_promtool_accepts_the_page_which_is_not_cached(self) -> None:
        self.post("/", b"tea")
        self.get("/nothing")
        self.raw(b"nonsense\r\n\r\n")

        answer = self.get("/-/metrics")
        checked = subprocess.run(["promtool", "check", "metrics"], input=answer.body, check=False, capture_output=True)

        self.assertEqual((0, b"", b""), (checked.returncode, checked.stdout, checked.stderr))
        self.assertEqual("text/plain; version=0.0.4; charset=utf-8", answer.fields["content-type"])
        self.assertEqual("no-store", answer.fields["cache-control"])

    def test_requests_are_counted_by_interface_method_and_status(self) -> None:
        digest = self.post("/", b"tea").body.decode()[10:74]
        for _ in range(3):
            self.get(f"/{digest}")
        self.get("/nothing")
        self.put("/data/pets", b"cat")
        self.put("/data/no+pets", b"cat")
        self.post("/kv/set", b'{"key": 1}')
        self.get("/vimeo/api/v1.0/file/0")
        self.request("HEAD", "/")
        self.request("BREW", "/")
        self.raw(b"nonsense\r\n\r\n")
        # No page of the daemon's leads there, but the files' own does.
        self.get("/a/b")

        expected = {
            ("files", "POST", 200): 1,
            ("files", "GET", 200): 3,
            ("files", "GET", 404): 2,
            ("repositories", "PUT", 201): 1,
            ("repositories", "PUT", 400): 1,
            ("kv", "POST", 201): 1,
            ("drops", "GET", 404): 1,
            ("files", "other", 405): 2,
            ("none", "other", 400): 1,
        }
        self.assertEqual(expected, {each: self.count(*each) for each in expected})

    def test_response_is_counted_when_the_client_has_it(self) -> None:
        for number in range(1, 30):
            self.post("/", b"tea")
            self.assertEqual(number, self.count("files", "POST", 200))

    def test_errors_are_counted_by_kind(self) -> None:
        self.get("/nothing")
        self.get("/nothing")
        self.request("BREW", "/")
        self.raw(b"nonsense\r\n\r\n")

        seen = self.metrics()

        self.assertEqual(2, seen['filestoraged_errors_total{kind="NotFound"}'])
        self.assertEqual(1, seen['filestoraged_errors_total{kind="MethodNotAllowed"}'])
        self.assertEqual(1, seen['filestoraged_errors_total{kind="MalformedRequest"}'])

    def test_received_and_sent_bytes_of_bodies_are_counted(self) -> None:
        digest = self.post("/", bytes(100_000)).body.decode()[10:74]
        self.get(f"/{digest}")
        self.get(f"/{digest}", Range="bytes=0-9")

        received = 'filestoraged_received_bytes_total{interface="files",method="POST"}'
        sent = 'filestoraged_sent_bytes_total{interface="files",method="GET"}'
        # What a thread sends is counted behind it.
        self.wait_until("counted", lambda: self.metrics().get(sent) == 100_010)
        self.assertEqual(100_000, self.metrics()[received])

    def test_durations_are_counted_in_their_buckets(self) -> None:
        for _ in range(5):
            self.get("/nothing")

        name = "filestoraged_request_duration_seconds"
        labels = 'interface="files",method="GET"'
        seen = {key: value for key, value in self.metrics().items() if key.startswith(name) and labels in key}
        buckets = [value for key, value in seen.items() if "_bucket" in key]

        self.assertEqual(sorted(buckets), buckets)
        self.assertEqual(5, seen[f'{name}_bucket{{{labels},le="+Inf"}}'])
        self.assertEqual(5, seen[f"{name}_count{{{labels}}}"])
        self.assertLess(0, seen[f"{name}_sum{{{labels}}}"])

    def test_stored_objects_are_counted_with_their_bytes(self) -> None:
        digest = self.post("/", b"tea").body.decode()[10:74]
        self.post("/", b"coffee")
        self.put("/data/pets", b"cat")
        self.put("/data/others", b"cat")
        self.wait_until("counted", lambda: self.metrics().get('filestoraged_objects{interface="files"}') == 2)
        first = self.metrics()
        self.delete(f"/{digest}")
        self.wait_until("counted anew", lambda: self.metrics()['filestoraged_objects{interface="files"}'] == 1)
        second = self.metrics()

        self.assertEqual([2, 2, 0], [first[f'filestoraged_objects{{interface="{name}"}}'] for name in INTERFACES])
        self.assertEqual([9, 6, 0], [first[f'filestoraged_object_bytes{{interface="{name}"}}'] for name in INTERFACES])
        self.assertEqual(6, second['filestoraged_object_bytes{interface="files"}'])

    def test_age_of_the_count_is_exposed(self) -> None:
        self.wait_until("counted", lambda: "filestoraged_objects_age_seconds" in self.metrics())

        self.assertLess(self.metrics()["filestoraged_objects_age_seconds"], 10)

    def test_objects_are_missing_until_the_first_count_and_other_metrics_are_not(self) -> None:
        ends = threading.Event()
        self.addCleanup(ends.set)
        count = DiskUsage.count

        def wait_and_count(census: DiskUsage, pause: Pause) -> dict[str, Usage]:
            # The client gives up before.
            ends.wait(2 * PATIENCE)
            return count(census, pause)

        with mock.patch.object(DiskUsage, "count", wait_and_count):
            seen = self.metrics()
            ends.set()
            self.wait_until("counted", lambda: 'filestoraged_objects{interface="files"}' in self.metrics())

        self.assertFalse([name for name in seen if name.startswith("filestoraged_object")])
        self.assertEqual(0, seen['filestoraged_scrape_errors{part="objects"}'])
        self.assertIn('filestoraged_connections{state="active"}', seen)

    def test_failed_count_is_exposed_as_a_scrape_error(self) -> None:
        with mock.patch.object(DiskUsage, "count", side_effect=PermissionError(13, "Permission denied")):
            self.wait_until("failed", lambda: self.metrics()['filestoraged_scrape_errors{part="objects"}'] == 1)

    def test_drops_by_state_and_queued_keys_are_counted(self) -> None:
        form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ntea\r\n--b--\r\n'
        kind = "multipart/form-data; boundary=b"
        link = self.put("/vimeo/api/v1.0/file", form, Content_Type=kind).body.decode().split('"')[-2]
        self.put("/vimeo/api/v1.0/file", form, Content_Type=kind)
        self.get("/" + link.split("/", 3)[3])
        for key in ("a", "b", "a"):
            self.post("/kv/set", f'{{"{key}": 1}}'.encode())
        self.wait_until("fetched", lambda: self.metrics()['filestoraged_drops{state="gone"}'] == 1)

        seen = self.metrics()

        self.assertEqual(1, seen['filestoraged_drops{state="available"}'])
        self.assertEqual(3, seen["filestoraged_queued_keys"])

    def test_requests_in_flight_and_connections_by_state_are_counted(self) -> None:
        upload = self.connect()
        upload.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nt")
        self.wait_until(
            "parked",
            lambda: (
                self.metrics()["filestoraged_requests_in_flight"] == 2
                and self.metrics()['filestoraged_connections{state="idle"}'] >= 1
            ),
        )

        upload.close()

        self.wait_until("over", lambda: self.metrics()["filestoraged_requests_in_flight"] == 1)
        self.assertEqual(1, self.count("files", "POST", 499))
        self.assertEqual(1, self.metrics()['filestoraged_received_bytes_total{interface="files",method="POST"}'])

    def test_failed_part_hides_no_other(self) -> None:
        (self.store_path / "kv.sqlite").write_bytes(bytes(8192))

        seen = self.metrics()

        self.assertEqual(1, seen['filestoraged_scrape_errors{part="keys"}'])
        self.assertEqual(0, seen['filestoraged_scrape_errors{part="drops"}'])
        self.assertNotIn("filestoraged_queued_keys", seen)
        self.wait_until("counted", lambda: 'filestoraged_objects{interface="files"}' in self.metrics())


INTERFACES = ("files", "repositories", "drops")


class MetricsOfWorkersTest(TempCase):
    def test_every_worker_exposes_the_counts_of_all(self) -> None:
        self.announce(KILLED_WORKER)
        with running("--workers", "3", "--store", str(self.directory / "store")) as daemon:

            def ask(_: int) -> None:
                requests.get(f"{daemon.url}/nothing", timeout=PATIENCE)

            def counted() -> list[float]:
                texts = [requests.get(f"{daemon.url}/-/metrics", timeout=PATIENCE).text for _ in range(10)]
                key = 'filestoraged_requests_total{interface="files",method="GET",status="404"}'
                return [samples(text)[key] for text in texts]

            in_threads(60, ask)
            self.assertEqual([60] * 10, counted())

            for pid in daemon.workers():
                # What it has counted stays.
                os.kill(pid, signal.SIGKILL)
            daemon.lines_with("died after", 3)
            in_threads(60, ask)
            self.assertEqual([120] * 10, counted())

            def text() -> str:
                return str(requests.get(f"{daemon.url}/-/metrics", timeout=PATIENCE).text)

            self.wait_until("all there again", lambda: samples(text())["filestoraged_workers"] == 3)
            self.assertRegex(text(), re.compile(r'^filestoraged_build_info\{version="[^"]+",python="3', re.MULTILINE))


class DurationTest(SimulatedCase):
    def test_duration_of_a_request_ends_with_its_response(self) -> None:
        client = self.connect()
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nt")
        self.pass_time(1.5)
        client.sendall(b"ea")
        self.pass_time(7.0)

        seen = samples(self.get("/-/metrics").body.decode())

        labels = 'interface="files",method="POST"'
        self.assertEqual(1.5, seen[f"filestoraged_request_duration_seconds_sum{{{labels}}}"])


class HangingTest(TempCase):
    def test_parts_that_hang_are_left_out_and_hide_no_other(self) -> None:
        clock, ends = VirtualClock(), threading.Event()
        self.addCleanup(ends.set)
        calls: list[None] = []

        def hang() -> Iterable[Family]:
            calls.append(None)
            ends.wait(PATIENCE)
            return []

        gauges: dict[str, metrics.Gauge] = {"first": list, "second": hang, "third": list, "fourth": hang}
        route = metrics.routes(Metrics(()), gauges, clock).match("GET", "/").route
        assert route is not None

        def show() -> dict[str, float]:
            answer = route.page(mock.Mock())
            assert isinstance(answer, Response)
            return samples(bytes(answer.body).decode())

        def collect(number: int) -> dict[str, float]:
            if number == 0:
                clock.wait_for_waiting()
                self.wait_until("the others have ended", lambda: len(bounded_calls()) == 2)
                clock.advance(5)
                return {}
            return show()

        _, seen = in_threads(2, collect)
        again = show()

        for each in (seen, again):
            self.assertEqual(["second", "fourth"], [part for part in gauges if each[_error_of(part)]])
        # Not once more while it hangs: each costs a thread.
        self.assertEqual(2, len(calls))


class ReadyTest(ServerCase):
    clock: VirtualClock

    def setUp(self) -> None:
        self.clock = VirtualClock()
        super().setUp()

    def test_ready_daemon_answers_200(self) -> None:
        answer = self.get("/-/ready")

        self.assertEqual((200, b'{"status": "ready"}\n'), (answer.status, answer.body))
        self.assertEqual([], self.files_below(self.store_path))

    def test_store_that_cannot_be_written_answers_503_and_the_result_is_reused_for_a_second(self) -> None:
        (self.store_path / "staging").rmdir()
        (self.store_path / "staging").touch()

        answer = self.get("/-/ready")
        (self.store_path / "staging").unlink()
        self.clock.advance(0.9)
        again = self.get("/-/ready")
        self.clock.advance(0.2)
        later = self.get("/-/ready")

        self.assertEqual(503, answer.status)
        self.assertEqual("5", answer.fields["retry-after"])
        self.assertIn(b'"The store cannot be written."', answer.body)
        self.assertEqual(503, again.status)
        self.assertEqual(200, later.status)
        self.assertEqual(200, self.get("/-/health").status)

    def test_store_is_probed_once_a_second_for_many_requests(self) -> None:
        area = self.services.disk.volume.staging_area
        with mock.patch.object(area, "create", wraps=area.create) as create:
            # No time passes.
            in_threads(50, lambda _: self.get("/-/ready").status)

        create.assert_called_once()
