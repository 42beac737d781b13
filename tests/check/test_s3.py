"""The check of objects in an S3 store, on real stores: it reports damage, foreign keys and leftovers alone."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable
from typing import Any

from filestoraged.check.findings import Finding
from filestoraged.check.prune import Prune
from filestoraged.check.s3 import CheckedS3, check_s3
from filestoraged.check.throttle import Throttle
from filestoraged.digest import Expected
from filestoraged.errors import StoreUnavailable
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.store import S3Store
from filestoraged.store.s3.url import parse_url
from tests.store.s3.proxy import Exchange, Fault, cut_response, flip_bit, leave_unanswered, pass_on, refuse, start_proxy
from tests.store.s3.servers import Rclone, S3Server, Swift, shared
from tests.support import PATIENCE, TempCase, ago

TEA = b"tea" * 1000
POT = bytes(range(256)) * 1000
ID = "0123456789abcdef0123456789abcdef"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def key_of(data: bytes, algorithm: str = "sha256") -> str:
    digest = hashlib.new(algorithm, data).hexdigest()
    return f"{digest[:2]}/{digest}"


class S3CheckCase(TempCase):
    kind: type[S3Server] = Rclone

    def setUp(self) -> None:
        super().setUp()
        self.server = shared(self.kind)
        self.bucket = self.server.make_bucket()
        self.proxy = start_proxy(self, self.server)
        location = parse_url(f"{self.proxy.url(self.bucket.name)}/some/prefix")
        self.client = S3Client(location, CredentialSource(None, self.server.environment))
        self.addCleanup(self.client.close)

    def put(self, data: bytes, key: str | None = None) -> str:
        """Store an object, under its digest unless a key is given. Returns its key."""
        key = key or key_of(data)
        self.bucket.put(f"some/prefix/{key}", data)
        return key

    def keys(self) -> list[str]:
        return [key.removeprefix("some/prefix/") for key in self.bucket.keys("some/prefix/")]

    def check(self, **settings: Any) -> list[Finding]:
        throttle = Throttle()
        defaults = {"algorithm": "sha256", "throttle": throttle, "threads": 2}
        self.s3_check = check_s3(self.client, **{**defaults, **settings})
        return sorted(found for found in self.s3_check.findings(PATIENCE) if found is not None)


class DamageTest(S3CheckCase):
    def test_whole_store_has_no_findings(self) -> None:
        self.put(TEA)
        self.put(POT)
        self.put(POT, key_of(POT, "sha512"))
        self.put(TEA, f"repositories/pets/{key_of(TEA)}")
        self.put(b"", f"drops/01/{ID}")
        self.put(b"part", "uploads/abc/1")
        self.put(b"bad", f"quarantine/{key_of(TEA)}")
        self.bucket.put("some/other", b"of another program")

        self.assertEqual([], self.check(repair=True))
        self.assertEqual(4, self.s3_check.totals.objects)
        self.assertEqual(2 * len(TEA) + 2 * len(POT), self.s3_check.totals.size)

    def test_damaged_object_is_reported_and_stays(self) -> None:
        self.put(TEA)
        key = self.put(POT[:-1], key_of(POT))

        self.assertEqual([Finding("damaged", key, "its bytes have another digest")], self.check())
        self.assertEqual(sorted([key, key_of(TEA)]), self.keys())

    def test_repair_moves_a_damaged_object_and_keeps_what_was_moved_before(self) -> None:
        key = f"repositories/pets/{key_of(POT)}"
        for number in ("", ".1"):
            self.put(POT[: -1 - len(number)], key)
            target = f"quarantine/{key}{number}"

            self.assertEqual(
                [Finding("damaged", key, "its bytes have another digest", f"moved to {target}")],
                self.check(repair=True),
            )
        self.assertEqual([f"quarantine/{key}", f"quarantine/{key}.1"], self.keys())
        self.assertEqual(POT[:-1], self.bucket.get(f"some/prefix/quarantine/{key}"))
        self.assertEqual([], self.check())

    def test_object_of_a_repository_is_named_by_sha256_alone(self) -> None:
        key = f"repositories/pets/{key_of(TEA, 'sha3_256')}"
        self.put(TEA, key)

        self.assertEqual(["damaged"], [each.kind for each in self.check()])

    def test_foreign_keys_are_reported_and_stay(self) -> None:
        keys = sorted(
            (
                "README",
                f"ab/{ID}",
                "ab/cd",
                "drops/01/not-an-id",
                "quarantine",
                "repositories/pets",
                f"repositories/pe%ts/{key_of(TEA)}",
                "zz/zz",
            )
        )
        for key in keys:
            self.put(TEA, key)

        found = self.check(repair=True)

        self.assertEqual([Finding("foreign", key, "the store has no such name here") for key in keys], found)
        self.assertEqual(keys, self.keys())


def recording(heads: list[bytes]) -> Fault:
    """Pass requests on, and record their heads."""

    def fault(exchange: Exchange) -> bool:
        heads.append(exchange.head)
        return pass_on(exchange)

    return fault


class SwiftDamageTest(DamageTest):
    kind = Swift


class ChangesTest(S3CheckCase):
    """What happens to an object while it is checked."""

    def test_object_that_is_replaced_while_it_is_read_is_read_again(self) -> None:
        key = self.put(POT[:-1], key_of(POT))
        self.proxy.fail(self.after(lambda: self.put(POT, key)), method="GET", target=key, times=1)

        self.assertEqual([], self.check(repair=True))
        self.assertEqual([key], self.keys())

    def test_object_that_is_removed_while_it_is_read_is_no_finding(self) -> None:
        key = self.put(POT[:-1], key_of(POT))
        self.proxy.fail(self.after(lambda: self.bucket.delete(f"some/prefix/{key}")), method="GET", target=key)

        self.assertEqual([], self.check())

    def test_object_that_is_replaced_while_it_is_moved_keeps_its_name(self) -> None:
        key = self.put(POT[:-1], key_of(POT))
        self.proxy.fail(self.after(lambda: self.put(POT, key)), method="GET", target=f"quarantine/{key}", times=1)

        self.assertEqual([], self.check(repair=True))
        self.assertEqual([key], self.keys())
        self.assertEqual(POT, self.bucket.get(f"some/prefix/{key}"))

    def test_object_that_is_uploaded_again_while_it_is_pruned_stays(self) -> None:
        key = self.put(POT, f"repositories/pets/{key_of(POT)}")
        path = self.server.directory / "objects" / self.bucket.name / "some/prefix" / key
        os.utime(path, (1e9, 1e9))
        store = CheckedS3(self.client, Throttle())
        prune = Prune(store, "pets", frozenset(), before=ago(1000), throttle=Throttle())
        self.proxy.fail(self.after(lambda: os.utime(path)), method="GET", target=f"quarantine/{key}", times=1)

        self.assertEqual([], list(prune.run()))
        self.assertEqual([key], self.keys())

    def test_object_whose_copy_differs_or_is_refused_stays(self) -> None:
        key = self.put(POT[:-1], key_of(POT))
        for fault, method, reason in (
            (flip_bit, "GET", "the store's copy has other bytes"),
            (refuse(507, "QuotaExceeded"), "PUT", "the S3 store answered 507 QuotaExceeded"),
        ):
            self.proxy.fail(fault, method=method, target="quarantine")

            (found,) = self.check(repair=True)

            self.assertIsNone(found.remedy)
            self.assertIn(f"and it cannot be moved: {reason}", found.reason)
            self.assertEqual([key], self.keys())

    def after(self, change: Callable[[], object]) -> Fault:
        """Pass a response on after a change that another client makes."""

        def fault(exchange: Exchange) -> bool:
            with exchange.sent() as answer:
                body = b"".join(answer.body)
                change()
                exchange.client.sendall(answer.head + body)
            return True

        return fault


class FaultsTest(S3CheckCase):
    def test_connection_that_breaks_off_or_flips_a_bit_once_is_no_damage(self) -> None:
        key = self.put(POT)
        for fault, times in ((cut_response, 2), (flip_bit, 1)):
            self.proxy.fail(fault, method="GET", target=key, times=times)

            self.assertEqual([], self.check(repair=True))
            self.assertEqual([key], self.keys())

    def test_object_that_cannot_be_read_is_reported_and_the_check_goes_on(self) -> None:
        key = self.put(POT)
        self.put(TEA[:-1], key_of(TEA))
        self.proxy.fail(refuse(403, "AccessDenied"), method="GET", target=key)

        found = self.check()

        self.assertEqual({"unreadable": key, "damaged": key_of(TEA)}, {each.kind: each.path for each in found})

    def test_store_that_is_gone_ends_the_check(self) -> None:
        key = self.put(POT)
        self.proxy.fail(leave_unanswered, method="GET", target=key)

        with self.assertRaises(StoreUnavailable):
            self.check()

    def test_listing_is_read_page_by_page(self) -> None:
        # More than a page. rclone's objects are files.
        directory = self.server.directory / "objects" / self.bucket.name / "some/prefix/zz"
        directory.mkdir(parents=True)
        for number in range(1200):
            (directory / str(number)).touch()

        self.assertEqual(1200, len(self.check()))


class LeftoversTest(S3CheckCase):
    def test_forgotten_upload_in_parts_is_reported_and_aborted(self) -> None:
        for key in ("some/prefix/ab", "other"):
            self.assertEqual(200, self.server.request("POST", f"{self.bucket.name}/{key}", uploads="").status)

        self.assertEqual([], self.check())
        (found,) = self.check(forgotten_after=-60)
        (removed,) = self.check(forgotten_after=-60, repair=True)

        self.assertEqual(("half-made", "ab", None), (found.kind, found.path, found.remedy))
        self.assertEqual("removed", removed.remedy)
        self.assertEqual(["other"], self.bucket.uploads())


class SwiftLeftoversTest(LeftoversTest):
    kind = Swift


class ChecksumTest(S3CheckCase):
    """Objects with a SHA-256 of the store's own. No store of the tests has one: the proxy adds the fields."""

    def setUp(self) -> None:
        super().setUp()
        self.key = self.put(POT)
        self.reads = f"GET /{self.bucket.name}/some/prefix/{self.key}"

    def test_object_with_a_digest_of_the_store_is_not_downloaded(self) -> None:
        self.proxy.fail(self.digest_of(POT, "FULL_OBJECT"), method="HEAD")

        self.assertEqual([], self.check())
        self.assertNotIn(self.reads, self.proxy.requests)
        self.assertEqual(len(POT), self.s3_check.totals.size)

    def test_upload_gives_the_store_its_digest(self) -> None:
        area = DiskStore(self.directory / "staging").volume.staging_area
        self.addCleanup(area.release)
        store = S3Store(self.client, area)
        heads: list[bytes] = []
        self.proxy.fail(recording(heads), method="PUT")

        for data, expected in ((TEA, ()), (POT * 8, ()), (POT * 9, (Expected("sha256", sha256(POT * 9)),))):
            with store.stage(len(data), expected=expected) as staging:
                staging.write(data[:-1])
                staging.write(data[-1:])
                staging.commit().result(PATIENCE)

            digest = base64.b64encode(hashlib.sha256(data).digest())
            self.assertIn(b"x-amz-checksum-sha256: " + digest + b"\r\n", heads[-1])

    def test_digest_of_the_store_that_is_wrong_or_of_parts_or_has_no_type_is_verified_by_a_download(self) -> None:
        for data, type_ in ((TEA, "FULL_OBJECT"), (POT, "COMPOSITE"), (POT, "")):
            self.proxy.fail(self.digest_of(data, type_), method="HEAD")
            self.proxy.requests.clear()

            with self.subTest(type_):
                self.assertEqual([], self.check())
                self.assertIn(self.reads, self.proxy.requests)

    def digest_of(self, data: bytes, type_: str) -> Fault:
        """Add the fields with which stores answer HEAD for objects that have a checksum."""
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        fields = f"\r\nx-amz-checksum-sha256: {digest}\r\nx-amz-checksum-type: {type_}\r\n".encode()

        def fault(exchange: Exchange) -> bool:
            with exchange.sent() as answer:
                exchange.client.sendall(answer.head.replace(b"\r\n", fields, 1))
            return True

        return fault
