"""`filestoraged s3-check`: what it says of real stores and of faulty ones, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import threading
from email.utils import formatdate
from pathlib import Path

from tests.daemon.process import Daemon, fork_command
from tests.store.s3.proxy import (
    Exchange,
    Fault,
    FaultyProxy,
    flip_bit,
    hang,
    pass_on,
    refuse,
    replace_field,
    respond,
    start_proxy,
)
from tests.store.s3.servers import Bucket, Rclone, S3Server, Swift, SwiftAhead, shared, start_server
from tests.support import TempCase, ago, free_port


class S3CheckCase(TempCase):
    kind: type[S3Server] = Rclone

    def setUp(self) -> None:
        super().setUp()
        self.server = shared(self.kind)
        self.bucket = self.server.make_bucket()
        self.write_credentials(self.server.access_key, self.server.secret_key)

    def write_credentials(self, access_key: str, secret_key: str) -> None:
        text = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        self.credentials.write_text(text)

    @property
    def credentials(self) -> Path:
        return self.directory / "credentials"

    def check(self, url: str) -> tuple[int, str]:
        """Run the command, and return its exit status and its output."""
        status, output, errors = fork_command(
            "s3-check", url, "--s3-credentials", str(self.credentials), cwd=self.directory
        )
        return status, output + errors

    def assert_empty(self, bucket: Bucket) -> None:
        self.assertEqual([], bucket.keys() + bucket.uploads())


class StoresTest(S3CheckCase):
    def test_rclone_is_unfit_since_it_accepts_a_wrong_digest(self) -> None:
        status, output = self.check(f"{self.bucket.url}/prefix")

        self.assertEqual(1, status, output)
        bad = [line for line in output.splitlines() if line.startswith("BAD")]
        self.assertEqual(1, len(bad), output)
        self.assertIn("accepts bytes with a wrong digest", bad[0])
        self.assertRegex(output, "(?m)^note .*If-None-Match")
        self.assert_empty(self.bucket)

    def test_swift_is_fit_although_it_has_no_conditional_writes(self) -> None:
        bucket = shared(Swift).make_bucket()
        self.write_credentials(Swift.access_key, Swift.secret_key)

        status, output = self.check(bucket.url)

        self.assertEqual(0, status, output)
        for text in (
            "is reachable",
            "accepts the credentials",
            "has the bucket",
            "its clock and",
            "refuses bytes with a wrong digest",
            "reads, lists and deletes what was written last",
            "sends ranges",
            "lists in order",
            "lists by directories",
            "accepts objects in parts",
            "aborts uploads in parts",
        ):
            self.assertRegex(output, f"(?m)^good .*{text}")
        self.assertRegex(output, "(?m)^note .*If-None-Match")
        self.assert_empty(bucket)

    def test_malformed_url_is_a_usage_error(self) -> None:
        for url in ("ftp://host/bucket", "http://host", "https://host/bucket?x", "bucket", "http://host:99999/b"):
            with self.subTest(url=url):
                status, output = self.check(url)

                self.assertEqual(2, status)
                self.assertIn("https://HOST[:PORT]/BUCKET[/PREFIX]", output)

    def test_missing_bucket_is_named(self) -> None:
        status, output = self.check(f"http://{self.server.address}/missing")

        self.assertEqual(1, status)
        self.assertIn("BAD  has no such bucket", output)

    def test_wrong_credentials_are_reported(self) -> None:
        self.write_credentials("stranger", "secret")

        status, output = self.check(self.bucket.url)

        self.assertEqual(1, status)
        self.assertIn("BAD  does not accept the credentials", output)

    def test_missing_credentials_are_reported(self) -> None:
        self.credentials.write_text("")

        status, output = self.check(self.bucket.url)

        self.assertEqual(1, status)
        self.assertIn("has no section [default]", output)

    def test_unreachable_store_is_reported(self) -> None:
        status, output = self.check(f"http://127.0.0.1:{free_port()}/bucket")

        self.assertEqual(1, status)
        self.assertIn("BAD  cannot be reached: ", output)


class ClockTest(S3CheckCase):
    def setUp(self) -> None:
        TempCase.setUp(self)
        self.server = start_server(self, SwiftAhead)
        self.write_credentials(Swift.access_key, Swift.secret_key)

    def test_clock_that_is_off_by_20_minutes_is_bad(self) -> None:
        status, output = self.check(f"http://{self.server.address}/bucket")

        self.assertEqual(1, status)
        self.assertIn("BAD  refuses the clock of this machine: the S3 store answered 403 RequestTimeTooSkewed", output)
        self.assertRegex(output, "(?m)^BAD  its clock and this machine's are 1[12][0-9]{2} s apart")


class FaultsTest(S3CheckCase):
    def setUp(self) -> None:
        super().setUp()
        self.proxy = start_proxy(self, self.server)

    def check_with(self, fault: Fault, *, method: str = "", target: str = "", skip: int = 0) -> tuple[int, str]:
        self.proxy.fail(fault, method=method, target=target, skip=skip)
        return self.check(self.proxy.url(self.bucket.name))

    def test_clock_that_is_off_by_5_minutes_is_noted(self) -> None:
        _, output = self.check_with(replace_field("Date", formatdate(ago(300), usegmt=True)))

        self.assertRegex(output, "(?m)^note its clock and this machine's are (29|30|31)[0-9] s apart")

    def test_stale_read_is_bad(self) -> None:
        status, output = self.check_with(refuse(404, "NoSuchKey"), method="GET", target="/consistent/")

        self.assertEqual(1, status)
        self.assertIn("BAD  does not read what was just written", output)
        self.assert_empty(self.bucket)

    def test_wrong_range_is_bad(self) -> None:
        status, output = self.check_with(flip_bit, method="GET", target="/range")

        self.assertEqual(1, status)
        self.assertIn("BAD  does not send ranges", output)

    def test_listing_that_is_no_listing_is_bad(self) -> None:
        status, output = self.check_with(respond(200, b"<html>"), target="list-type", skip=1)

        self.assertEqual(1, status)
        self.assertIn("BAD  listing: cannot be examined", output)

    def test_full_store_is_bad(self) -> None:
        status, output = self.check_with(refuse(507, "QuotaExceeded"), method="PUT")

        self.assertEqual(1, status)
        self.assertIn("QuotaExceeded", output)

    def test_store_that_makes_an_object_once_has_conditional_writes(self) -> None:
        _, output = self.check_with(make_once(), method="PUT")

        self.assertIn("good lets one alone of several uploads at once make an object", output)

    def test_store_that_lets_two_at_once_make_an_object_has_no_conditional_writes(self) -> None:
        _, output = self.check_with(refuse(412, "PreconditionFailed"), target="/condition", method="PUT", skip=1)

        self.assertIn("note lets several uploads at once make an object", output)

    def test_signal_ends_the_check_and_leaves_nothing(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number=number):
                self.proxy.fail(hang, method="GET", target="/consistent/1")
                daemon = self.start_check(self.proxy)
                self.wait_until("a request hangs", lambda: any("consistent/1" in each for each in self.proxy.requests))
                daemon.process.send_signal(number)
                self.proxy.mend()

                self.assertEqual(2, daemon.process.wait(40), daemon.lines())
                self.assert_empty(self.bucket)
                self.proxy.requests.clear()

    def start_check(self, proxy: FaultyProxy) -> Daemon:
        url = proxy.url(self.bucket.name)
        daemon = Daemon("s3-check", url, "--s3-credentials", str(self.credentials))
        self.addCleanup(daemon.log.close)
        self.addCleanup(daemon.kill)
        return daemon


def make_once() -> Fault:
    """Refuse to make an object again, as stores with conditional writes do."""
    made: set[str] = set()
    lock = threading.Lock()

    def fault(exchange: Exchange) -> bool:
        if b"\r\nif-none-match: *" not in exchange.head.lower():
            return pass_on(exchange)
        with lock:
            is_first = exchange.target not in made
            made.add(exchange.target)
        return (pass_on if is_first else refuse(412, "PreconditionFailed"))(exchange)

    return fault
