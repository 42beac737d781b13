"""Faults between a server and its S3 store: clear refusals, nothing half-visible, and no restart to recover."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import json
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from filestoraged.store import layout
from filestoraged.store.janitors import DropsJanitor
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.transport import StoreConnection
from filestoraged.store.s3.url import parse_url
from tests.clock import HastyClock
from tests.daemon.process import Daemon, running
from tests.store.s3.proxy import (
    cut_request,
    cut_response,
    flip_bit,
    hang,
    hang_in_response,
    leave_unanswered,
    refuse,
    respond,
    shorten,
    start_proxy,
    take_nothing,
    trickle,
)
from tests.store.s3.servers import Rclone, SwiftAhead, shared, start_server
from tests.support import PATIENCE, Answer, ServerCase, TempCase, read_all

SMALL = b"tea" * 1000
# Above what is sent in one piece, and what is staged in memory.
LARGE = os.urandom(3 * 1024 * 1024)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class S3ServerCase(ServerCase):
    """A server whose S3 store is behind a faulty proxy. Its pauses are short."""

    bucket_name = ""
    clock = HastyClock()

    def setUp(self) -> None:
        rclone = shared(Rclone)
        self.bucket = rclone.make_bucket()
        self.proxy = start_proxy(self, rclone)
        url = self.proxy.url(self.bucket_name or self.bucket.name)
        self.config = {"s3": parse_url(url), **self.more_config()}
        patched = mock.patch.dict(os.environ, rclone.environment)
        patched.start()
        self.addCleanup(patched.stop)
        super().setUp()

    def more_config(self) -> dict[str, Any]:
        return {}

    @contextlib.contextmanager
    def impatient(self, *, silence: float = 0.5, operation: float = 2.0) -> Iterator[None]:
        """Wait for the store for a short time, in a block of requests that cannot succeed."""
        with (
            mock.patch.object(StoreConnection, "silence_timeout", silence),
            mock.patch.object(S3Client, "deadline", lambda client, timeout=operation: client.clock.now() + timeout),
        ):
            yield

    def upload(self, data: bytes) -> Answer:
        return self.post("/", data, Accept="text/plain")

    def upload_announced(self, data: bytes) -> Answer:
        """Upload with a digest and a size, so that the bytes are streamed through."""
        return self.post(f"/?hash={sha256(data)}", data)

    def download(self, data: bytes) -> Answer:
        return self.get(f"/{sha256(data)}")

    def put_behind(self, data: bytes) -> str:
        """Store an object without the server. Returns its key."""
        digest = sha256(data)
        self.bucket.put(f"{digest[:2]}/{digest}", data)
        return f"{digest[:2]}/{digest}"

    def assert_unavailable(self, answer: Answer) -> None:
        self.assertEqual(503, answer.status, answer)
        self.assertIn("retry-after", answer.fields)
        self.assertEqual("Service Unavailable", json.loads(answer.body)["error"])

    def assert_recovered(self) -> None:
        """The store is usable again, without a restart."""
        self.proxy.mend()
        self.wait_until("the server is ready", lambda: self.get("/-/ready").status == 200)
        self.assertEqual(200, self.upload(SMALL).status)
        self.assertEqual(SMALL, self.download(SMALL).body)

    def logged_text(self) -> str:
        return "\n".join(f"{each.getMessage()} {each.exc_info}" for each in list(self.logged))


class UploadTest(S3ServerCase):
    def test_fault_that_passes_is_not_noticed(self) -> None:
        for fault, times, data in (
            (cut_request, 1, SMALL),
            (cut_request, 1, LARGE),
            (leave_unanswered, 1, SMALL),
            (refuse(500, "InternalError"), 2, SMALL),
            (refuse(503, "SlowDown"), 2, SMALL),
            (trickle(0.1), None, LARGE),
        ):
            self.proxy.fail(fault, method="PUT", times=times)

            self.assertEqual(200, self.upload(data).status)
            self.proxy.mend()
            self.assertEqual(data, self.download(data).body)

    def test_fault_that_stays_refuses_each_upload_and_what_was_not_sent_is_not_stored(self) -> None:
        for fault, status in (
            (cut_request, 503),
            (refuse(507, "InsufficientStorage"), 507),
            (refuse(403, "QuotaExceeded"), 507),
            (leave_unanswered, 503),
        ):
            self.assertEqual([], self.bucket.keys())
            self.proxy.fail(fault, method="PUT")

            # The last one breaks while it is written: no buffer holds it.
            for answer in (self.upload(SMALL), self.upload(LARGE), *map(self.upload_announced, (LARGE, LARGE * 8))):
                self.assertEqual(status, answer.status, answer)
                self.assertEqual(status == 503, "retry-after" in answer.fields)
        self.assert_recovered()

    def test_errors_of_a_store_answer_503(self) -> None:
        for fault in (
            refuse(500, "InternalError"),
            refuse(503, "SlowDown"),
            refuse(403, "AccessDenied"),
            refuse(403, "RequestTimeTooSkewed"),
            refuse(404, "NoSuchBucket"),
            refuse(400, "AuthorizationHeaderMalformed"),
            respond(400, b"<Error><Code>"),
            respond(400, b"<html>" * 100_000),
            respond(400, b"\xff\xfe\x00"),
            respond(301, b""),
            respond(404, b"<html>no such page</html>"),
        ):
            self.proxy.fail(fault)

            for answer in (self.upload(SMALL), self.upload_announced(LARGE), self.download(SMALL)):
                self.assert_unavailable(answer)
        self.assertEqual([], self.bucket.keys())
        self.assert_recovered()

    def test_disk_that_takes_only_a_part_of_the_last_bytes_fails_the_upload(self) -> None:
        self.announce(r"answering 500: OSError: \[Errno 27\] File too large$")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(LARGE) - 100, limits[1]))
        try:
            answer = self.upload(LARGE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        self.assertEqual(500, answer.status)
        self.assertIn("File too large", self.logged_text())
        self.assertEqual([], self.bucket.keys())


class DownloadTest(S3ServerCase):
    def test_connection_that_is_cut_in_mid_download_is_continued(self) -> None:
        key = self.put_behind(LARGE)
        self.proxy.fail(cut_response, method="GET", target=key, times=2)

        self.assertEqual(LARGE, self.download(LARGE).body)

        self.assertEqual(3, sum(each.startswith("GET") and key in each for each in self.proxy.requests))

    def test_download_that_cannot_be_continued_is_incomplete(self) -> None:
        self.announce("connection of client 127.0.0.1 broke off: (IncompleteRead|TimeoutError)")
        key = self.put_behind(LARGE)
        for fault in (cut_response, hang_in_response):
            self.proxy.fail(fault, method="GET", target=key)

            # On a busy machine, the head of the answer may come too late as well.
            with self.impatient(), contextlib.suppress(http.client.IncompleteRead):
                self.assert_unavailable(self.download(LARGE))
            self.proxy.mend()
        self.assertEqual(LARGE, self.download(LARGE).body)

    def test_small_download_that_is_always_cut_or_hangs_answers_503_within_its_operation(self) -> None:
        key = self.put_behind(SMALL)
        for fault in (cut_response, hang_in_response):
            self.proxy.fail(fault, method="GET", target=key)

            with self.impatient(silence=1000.0, operation=0.3):
                self.assert_unavailable(self.download(SMALL))
        self.proxy.mend()
        self.assertEqual(SMALL, self.download(SMALL).body)

    def test_part_of_an_object_is_cut_where_the_store_cuts_it(self) -> None:
        self.announce("connection of client 127.0.0.1 broke off: IncompleteRead")
        key = self.put_behind(LARGE)
        self.proxy.fail(cut_response, method="GET", target=key)

        with self.assertRaises(http.client.IncompleteRead):
            self.get(f"/{sha256(LARGE)}", Range="bytes=1000-2000000")

    def test_bytes_that_the_store_changes_or_omits_are_never_a_complete_download(self) -> None:
        self.announce("(answering 500|connection of client 127.0.0.1 broke off): .*The object is damaged")
        for data, fault in itertools.product((SMALL, LARGE), (flip_bit, shorten)):
            key = self.put_behind(data)
            self.proxy.fail(fault, method="GET", target=key)

            # A small object is checked before the first byte goes out.
            with self.subTest(size=len(data), fault=fault), contextlib.suppress(http.client.IncompleteRead):
                answer = self.download(data)
                self.assertEqual((500, "Corrupt Object"), (answer.status, json.loads(answer.body)["error"]))
            self.proxy.mend()
            self.assertEqual(data, self.download(data).body)


class DropTest(S3ServerCase):
    def test_drop_outlives_an_outage_and_is_given_once(self) -> None:
        target = self.bring(SMALL)
        for fault in (refuse(503, "SlowDown"), refuse(404, "NoSuchBucket")):
            self.proxy.fail(fault)
            # More often than downloads may break off.
            for _ in range(6):
                self.assert_refused(self.get(target))
        self.proxy.mend()

        self.assertEqual(SMALL, self.get(target).body)
        self.assertEqual(410, self.get(target).status)

    def test_drop_is_never_given_in_part_or_with_other_bytes(self) -> None:
        self.announce("(answering 500|connection of client 127.0.0.1 broke off): .*The object is damaged")
        self.announce("connection of client 127.0.0.1 broke off: IncompleteRead")
        for data in (SMALL, LARGE):
            target = self.bring(data)
            for fault in (cut_response, flip_bit, shorten):
                self.proxy.fail(fault, method="GET", target="/drops/")
                # A large one breaks off.
                with self.subTest(size=len(data)), contextlib.suppress(http.client.IncompleteRead):
                    self.assertIn(self.get_released(target).status, (500, 503))
                self.proxy.mend()

            self.assertEqual(data, self.get_released(target).body)
            self.assertEqual(410, self.get(target).status)

    def test_download_that_the_store_breaks_off_does_not_use_up_the_drop(self) -> None:
        self.announce("connection of client 127.0.0.1 broke off: IncompleteRead")
        for data, kinds in ((SMALL, {"StoreUnavailable": 7}), (LARGE, {"StoreUnavailable": 14})):
            target = self.bring(data)
            self.proxy.fail(cut_response, method="GET", target="/drops/")
            # More often than downloads may break off.
            for _ in range(7):
                connection = self.connect()
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                self.assertLess(len(read_all(connection)), max(len(data), 1000))
                # The server closes a connection after all else.
                janitor = self.services.resources.janitors[0]
                assert isinstance(janitor, DropsJanitor)
                janitor._drops.flush()
            self.proxy.mend()

            self.assertEqual(kinds, self.server_metrics.totals()["drops", "GET"].kinds)
            self.assertEqual(data, self.get(target).body)

    def test_drop_that_cannot_be_stored_is_refused(self) -> None:
        self.proxy.fail(refuse(507, "QuotaExceeded"), method="PUT")

        self.assertEqual(507, self.send(SMALL).status)
        self.assertEqual([], self.bucket.keys())

    def get_released(self, target: str) -> Answer:
        """Download a drop, as soon as an earlier download has ended."""
        answers: list[Answer] = []

        def is_released() -> bool:
            answers.append(self.get(target))
            return answers[-1].status != 410

        self.wait_until("the drop is released", is_released)
        return answers[-1]

    def assert_refused(self, answer: Answer) -> None:
        self.assertEqual(503, answer.status, answer)
        self.assertIn("retry-after", answer.fields)

    def bring(self, data: bytes) -> str:
        """Make a drop. Returns its path."""
        sent = self.send(data)
        self.assertEqual(201, sent.status, sent)
        return str(urlsplit(json.loads(sent.body)["url"]).path)

    def send(self, data: bytes) -> Answer:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="cup"\r\n\r\n'
        fields = {"Content_Type": "multipart/form-data; boundary=b"}
        return self.put("/vimeo/api/v1.0/file", head + data + b"\r\n--b--\r\n", **fields)


class HangingStoreTest(S3ServerCase):
    def test_requests_of_all_kinds_answer_503_and_others_go_on(self) -> None:
        self.put_behind(SMALL)
        self.proxy.fail(hang)

        with self.impatient(), self.requests_in_flight():
            self.assertEqual(200, self.get("/-/health").status)
            self.assertEqual(201, self.post("/kv/set", b'{"cup": 1}').status)
            self.assertEqual(204, self.post("/kv/commit", b"").status)
            self.assertEqual(b'{"cup": 1}', self.get("/kv/cup").body.strip())
        with self.impatient():
            self.assertEqual(503, self.get("/-/ready").status)
        self.assert_recovered()

    def test_metrics_are_shown_while_all_threads_for_other_machines_wait(self) -> None:
        self.put_behind(SMALL)
        self.proxy.fail(hang)
        ended: list[Answer] = []
        downloads = [threading.Thread(target=lambda: ended.append(self.download(SMALL))) for _ in range(self.threads)]

        with self.impatient(silence=PATIENCE, operation=PATIENCE):
            for each in downloads:
                each.start()
            self.wait_until("all hang", lambda: len(self.proxy.requests) >= self.threads)
            shown = self.get("/-/metrics")
            ended_before = list(ended)
            self.proxy.mend()
            for each in downloads:
                each.join()

        self.assertEqual((200, []), (shown.status, ended_before))
        self.assertIn(b'filestoraged_s3_requests_total{result="failed"}', shown.body)

    def test_streamed_upload_waits_for_a_store_that_was_silent_no_more_than_others(self) -> None:
        for fault, data in ((hang, LARGE), (take_nothing, bytes(32 * 1024 * 1024))):
            self.proxy.fail(fault)
            with self.impatient():
                self.assert_unavailable(self.upload_announced(data))
                self.proxy.requests.clear()
                self.assert_unavailable(self.upload_announced(data))

            # It was asked whether it answers, and got no body.
            self.assertEqual(["GET"], [each.split()[0] for each in self.proxy.requests])
            self.assert_recovered()

    @contextlib.contextmanager
    def requests_in_flight(self) -> Iterator[None]:
        """Requests that need the store, for the length of a block; all are refused in the end."""
        answers: list[Answer] = []
        requests = (
            lambda: self.upload(SMALL),
            lambda: self.upload_announced(LARGE),
            lambda: self.download(SMALL),
            lambda: self.delete(f"/{sha256(SMALL)}"),
            lambda: self.put("/data/pets", SMALL),
        )
        threads = [threading.Thread(target=lambda each=each: answers.append(each())) for each in requests]
        for thread in threads:
            thread.start()
        self.wait_until("a request hangs", lambda: bool(self.proxy.requests))
        yield
        for thread in threads:
            thread.join()
        self.assertEqual(len(threads), len(answers))
        for answer in answers:
            self.assert_unavailable(answer)


class MissingBucketTest(S3ServerCase):
    bucket_name = "made-later"

    def test_server_starts_without_its_bucket_and_serves_once_it_is_made(self) -> None:
        self.assertIn("NoSuchBucket", self.logged_text())
        self.assertEqual(503, self.get("/-/ready").status)
        # Nobody knows whether the objects are missing.
        for answer in (self.upload(SMALL), self.download(SMALL), self.delete(f"/{sha256(SMALL)}")):
            self.assert_unavailable(answer)

        self.addCleanup(self.bucket.server.request, "DELETE", self.bucket_name)
        self.bucket.server.request("PUT", self.bucket_name)

        self.wait_until("the server is ready", lambda: self.get("/-/ready").status == 200)
        self.assertEqual(404, self.download(SMALL).status)


class ClockTest(ServerCase):
    def setUp(self) -> None:
        store = start_server(self, SwiftAhead)
        self.config = {"s3": parse_url(f"http://{store.address}/bucket")}
        patch = mock.patch.dict(os.environ, store.environment)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()

    def test_clock_that_is_off_by_20_minutes_answers_503_and_is_named_in_the_log(self) -> None:
        answer = self.post("/", SMALL)

        self.assertEqual(503, answer.status)
        self.assertIn("retry-after", answer.fields)
        self.assertEqual(503, self.get("/-/ready").status)
        logged = "\n".join(f"{each.getMessage()} {each.exc_info}" for each in list(self.logged))
        self.assertRegex(logged, "RequestTimeTooSkewed.* the clock of this machine is off by -1[12][0-9]{2} s")


class CredentialsTest(S3ServerCase):
    def test_refused_credentials_answer_503_until_the_file_has_others(self) -> None:
        self.write_credentials("wrong")

        for answer in (self.upload(SMALL), self.download(SMALL)):
            self.assert_unavailable(answer)
        self.assertEqual(503, self.get("/-/ready").status)
        self.assertNotIn("wrong", self.logged_text())

        self.write_credentials("secret")
        self.assert_recovered()

    def more_config(self) -> dict[str, Any]:
        self.credentials = Path(tempfile.mkdtemp(), "credentials")
        self.addCleanup(shutil.rmtree, self.credentials.parent)
        self.write_credentials("secret")
        return {"s3_credentials": str(self.credentials)}

    def write_credentials(self, secret: str) -> None:
        self.credentials.write_text(f"[default]\naws_access_key_id = key\naws_secret_access_key = {secret}\n")


class ProcessTest(TempCase):
    """A daemon and a store of its own, each of which is killed."""

    def setUp(self) -> None:
        super().setUp()
        self.server = start_server(self, Rclone)
        self.bucket = self.server.make_bucket()

    def test_killed_daemon_leaves_nothing_of_an_upload_visible(self) -> None:
        for target in ("/", f"/?hash={sha256(LARGE)}"):
            with self.subTest(target=target), self.running() as daemon:
                upload = http.client.HTTPConnection("127.0.0.1", daemon.ports[0])
                self.addCleanup(upload.close)
                upload.putrequest("POST", target)
                upload.putheader("Content-Length", str(len(LARGE)))
                upload.endheaders(LARGE[:-1])
                self.request(daemon, "POST", "/", SMALL)

                daemon.kill()

                self.assertEqual([f"{sha256(SMALL)[:2]}/{sha256(SMALL)}"], self.bucket.keys())
                # A file loses its name as soon as it is made; killed in between, the next start removes it.
                left = self.files_below(self.directory / "store")
                self.assertEqual([], [path for path in left if not path.startswith(f"{layout.STAGING}/")])

    def test_daemon_recovers_from_a_killed_and_restarted_store(self) -> None:
        with self.running() as daemon:
            self.assertEqual(200, self.request(daemon, "POST", "/", SMALL).status)

            self.server.kill()
            refused = self.request(daemon, "GET", f"/{sha256(SMALL)}")
            self.assertEqual(503, refused.status)
            self.assertTrue(refused.getheader("Retry-After"))
            self.assertEqual(503, self.request(daemon, "GET", "/-/ready").status)
            self.assertEqual(200, self.request(daemon, "GET", "/-/health").status)

            self.server.start()
            self.wait_until("the daemon is ready", lambda: self.request(daemon, "GET", "/-/ready").status == 200)
            self.assertEqual(SMALL, self.request(daemon, "GET", f"/{sha256(SMALL)}").read())

    def running(self) -> contextlib.AbstractContextManager[Daemon]:
        arguments = ("--s3", self.bucket.url, "--store", str(self.directory / "store"), "--workers", "1")
        return running(*arguments, environment=self.server.environment)

    def request(self, daemon: Daemon, method: str, target: str, body: bytes = b"") -> http.client.HTTPResponse:
        client = http.client.HTTPConnection("127.0.0.1", daemon.ports[0], timeout=PATIENCE * 4)
        self.addCleanup(client.close)
        client.request(method, target, body=body)
        return client.getresponse()
