"""Unfinished uploads in an S3 store and PostgreSQL: several engines, as daemons on several machines have them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

from filestoraged.clock import SYSTEM_CLOCK
from filestoraged.daemon.values import parse_database
from filestoraged.digest import Expected
from filestoraged.errors import (
    ChecksumMismatch,
    CorruptObject,
    Error,
    Gone,
    NotFound,
    StorageFull,
    StoreUnavailable,
    TooLarge,
    UploadLocked,
)
from filestoraged.store import layout
from filestoraged.store.contract import Store
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import HashThreads
from filestoraged.store.postgresql import transactions
from filestoraged.store.postgresql.connection import Connector
from filestoraged.store.postgresql.transactions import PostgresTransactions
from filestoraged.store.s3.client import S3Client
from filestoraged.store.s3.credentials import CredentialSource
from filestoraged.store.s3.segment_objects import SegmentObjects
from filestoraged.store.s3.store import S3Store
from filestoraged.store.s3.transport import StoreConnection
from filestoraged.store.s3.url import parse_url
from filestoraged.store.uploads import hold_rows, segments
from filestoraged.store.uploads.reception import Reception
from filestoraged.store.uploads.registry import Draft, Registry, Upload
from filestoraged.store.uploads.remote_storage import RemoteStorage
from filestoraged.store.uploads.segments import MAX_SEGMENT
from filestoraged.store.uploads.uploads import Uploads
from tests.clock import PATIENT_CLOCK, DatedClock, VirtualClock
from tests.postgresql import PostgresCase
from tests.store.postgresql.opened import after_statement
from tests.store.s3.proxy import Fault, flip_bit, hang, leave_unanswered, refuse, start_proxy
from tests.store.s3.servers import Rclone, shared
from tests.support import PATIENCE, ago, in_threads
from tests.tcp_proxy import TcpProxy

# Seconds: longer than any machine with other tests takes from one step to the next.
_SILENCE = 600.0

TEA = b"tea and milk"
TEA_HASH = hashlib.sha256(TEA).hexdigest()
TEA_KEY = f"{TEA_HASH[:2]}/{TEA_HASH}"


class ImpatientConnection(StoreConnection):
    silence_timeout = 0.5


class Target:
    """Counts what became visible."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.published = 0

    def announce(self) -> None:
        return None

    def publish(self, upload: Upload, name: str | None) -> None:
        self.published += 1

    def retract(self, name: str | None) -> None:
        pass


class RemoteCase(PostgresCase):
    def setUp(self) -> None:
        super().setUp()
        self.rclone = shared(Rclone)
        self.bucket = self.rclone.make_bucket()
        self.proxy = start_proxy(self, self.rclone)
        self.clock = VirtualClock()
        self.store_clock = DatedClock()
        self.target: Target
        self.uploads = self.open("one")
        self.other = self.open("two")
        self.upload = self.uploads.create(Draft("files", len(TEA))).id

    def open(
        self,
        name: str,
        url: str = "",
        *,
        connect: type[StoreConnection] = StoreConnection,
        max_segment: int = MAX_SEGMENT,
        **settings: Any,
    ) -> Uploads:
        """A daemon's engine, with a directory, a session and connections of its own; it may have a way of its own to
        the database.
        """
        disk = DiskStore(self.directory / name)
        disk.prepare()
        self.addCleanup(disk.close)
        credentials = CredentialSource(None, self.rclone.environment)
        location = parse_url(self.proxy.url(self.bucket.name))
        client = S3Client(location, credentials, connect=connect, clock=self.store_clock)
        self.addCleanup(client.close)
        self.target = target = Target(S3Store(client, disk.volume.staging_area))
        # A database that fails is asked again after pauses.
        clock = SYSTEM_CLOCK if url else PATIENT_CLOCK
        transactions = PostgresTransactions(Connector(parse_database(url or self.url), clock=clock))
        self.addCleanup(transactions.close)
        objects = SegmentObjects(client, disk.volume.staging_area, HashThreads())
        registry = Registry(transactions, ttl=3600, clock=self.clock)
        storage = RemoteStorage(
            transactions,
            transactions,
            objects,
            silence=_SILENCE,
            max_segment=max_segment,
            clock=self.clock,
        )
        return Uploads(registry, storage, lambda _: target, clock=self.clock, **settings)

    def begin(self, uploads: Uploads, data: bytes, *, checksum: Expected | None = None) -> Reception:
        """Hold the upload, and add bytes that are not recorded yet."""
        held = uploads.receive(self.upload)
        self.addCleanup(held.close)
        held.begin(held.received, length=None, size=None, checksum=checksum)
        held.write(data)
        return held

    def append(self, data: bytes, uploads: Uploads | None = None, *, checksum: Expected | None = None) -> Upload:
        uploads = uploads or self.uploads
        with self.begin(uploads, data, checksum=checksum) as held:
            held.finish()
            return uploads.complete_if_whole(held)

    def received(self, uploads: Uploads | None = None) -> int:
        return (uploads or self.other).settle(self.upload).received

    def silence(self) -> None:
        """The holder has been silent for long enough."""
        self.query("UPDATE upload_holds SET touched = touched - %s", _SILENCE + 1)

    def end_sessions(self) -> None:
        """End all sessions of owners."""
        self.query(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

    def keys(self) -> list[str]:
        return self.bucket.keys("uploads/")

    def pass_time(self, seconds: float) -> None:
        """Let the only thread in the background that waits do what it does after that time."""
        self.clock.wait_for_waiting()
        self.clock.advance(seconds)
        self.clock.wait_for_waiting()


class HoldTest(RemoteCase):
    def test_upload_goes_on_at_another_machine_and_leaves_nothing_but_the_object(self) -> None:
        self.append(TEA[:4])
        self.append(TEA[4:8], self.other)

        complete = self.append(TEA[8:])

        self.assertEqual((TEA_HASH, len(TEA)), (complete.digest, complete.received))
        self.assertEqual([TEA_KEY], self.bucket.keys())
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))
        self.assertEqual([], self.query("SELECT * FROM upload_segments"))
        left = [path for path in self.files_below(self.directory) if "staging" not in path]
        self.assertEqual([], [path for path in left if not path.endswith(f"/{layout.JOURNAL}")])

    def test_segments_are_recorded_while_they_arrive_and_numbers_are_used_once(self) -> None:
        uploads = self.open("three", record_size=2)
        with mock.patch.object(segments, "SMALL_SEGMENT", 0):
            held = self.begin(uploads, TEA[:2])
            held.write(TEA[2:4])
            held.close()
            self.append(TEA[4:6], self.other)

        numbers = [number for (number,) in self.query("SELECT number FROM upload_segments ORDER BY start")]
        self.assertEqual([1_000_000, 1_000_001, 2_000_000], numbers)
        self.assertEqual([f"uploads/{self.upload}/{number}" for number in numbers], self.keys())
        self.assertEqual(6, self.received())

    def test_record_of_more_bytes_than_a_segment_may_have_becomes_several(self) -> None:
        checksum = Expected("sha256", hashlib.sha256(TEA[:10]).hexdigest())
        self.append(TEA[:10], self.open("three", max_segment=4), checksum=checksum)

        rows = self.query("SELECT start, size FROM upload_segments ORDER BY start")
        self.assertEqual([(0, 4), (4, 4), (8, 2)], rows)
        self.append(TEA[10:], self.other)
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_last_small_segment_is_written_anew_with_the_bytes_that_follow(self) -> None:
        data = os.urandom(40)
        self.upload = self.uploads.create(Draft("files", len(data))).id
        for position in range(len(data) - 1):
            self.append(data[position : position + 1], (self.uploads, self.other)[position % 2])

            ((number, start, size),) = self.query("SELECT number, start, size FROM upload_segments")
            self.assertEqual((0, position + 1), (start, size))
            self.assertEqual([f"uploads/{self.upload}/{number}"], self.keys())
        self.assertEqual(39, self.received())
        digest = self.append(data[39:]).digest or ""
        self.assertEqual((hashlib.sha256(data).hexdigest(), data), (digest, self.bucket.get(f"{digest[:2]}/{digest}")))

    def test_slow_request_writes_its_own_small_segment_anew(self) -> None:
        with self.begin(self.open("three", record_size=2), TEA[:2]) as held:
            for position in (2, 4, 6):
                held.write(TEA[position : position + 2])
                self.assertEqual([(0, position + 2)], self.query("SELECT start, size FROM upload_segments"))
                self.assertEqual(1, len(self.keys()))
            with self.assertRaises(TooLarge):
                held.write(TEA)

        self.assertEqual((0, []), (self.received(), self.keys()))
        self.append(TEA)
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_segment_that_is_not_small_stays(self) -> None:
        with mock.patch.object(segments, "SMALL_SEGMENT", 4):
            for start, stop in ((0, 3), (3, 6), (6, 8), (8, 10)):
                self.append(TEA[start:stop])

        rows = self.query("SELECT start, size FROM upload_segments ORDER BY start")
        self.assertEqual([(0, 6), (6, 4)], rows)
        self.append(TEA[10:])
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_request_that_wrote_a_segment_anew_takes_back_only_its_own_bytes(self) -> None:
        self.append(TEA[:8])
        before = self.keys()

        with self.begin(self.open("three", record_size=2), TEA[8:10]) as held:
            self.assertEqual([(0, 10)], self.query("SELECT start, size FROM upload_segments"))
            with self.assertRaises(TooLarge):
                held.write(TEA)

        self.assertEqual([(0, 8)], self.query("SELECT start, size FROM upload_segments"))
        self.assertEqual((8, before), (self.received(), self.keys()))
        self.append(TEA[8:])
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_small_segment_that_cannot_be_read_stays(self) -> None:
        self.append(TEA[:8])
        before = self.keys()

        self.proxy.fail(refuse(503, "SlowDown"), method="GET", target="uploads/")
        with self.uploads.receive(self.upload) as held:
            held.begin(8, length=None, size=None, checksum=None)
            with self.assertRaises(StoreUnavailable):
                held.write(TEA[8:9])
        self.assertEqual((8, before), (self.received(), self.keys()))

        self.proxy.fail(flip_bit, method="GET", target="uploads/")
        self.assertEqual(9, self.append(TEA[8:9]).received)
        self.assertLess(set(before), set(self.keys()))

        self.proxy.mend()
        self.append(TEA[9:])
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_holder_that_was_taken_over_replaces_no_segment(self) -> None:
        self.append(TEA[:8])
        before = self.keys()
        for record in (False, True):
            with self.subTest(record=record):
                stopped = self.begin(self.uploads, TEA[8:9])
                self.silence()
                self.other.receive(self.upload).close()
                with self.assertRaises(UploadLocked):
                    stopped.record() if record else stopped.finish()
                stopped.close()

                self.assertEqual(before, self.keys())
        self.append(TEA[8:])
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    # Uploads that arrive in one request.

    def test_upload_in_one_request_is_sent_once_and_takes_five_round_trips_to_the_database(self) -> None:
        for checksum in (None, Expected("sha256", TEA_HASH)):
            with self.subTest(checksum=checksum):
                self.upload = self.uploads.create(Draft("files", len(TEA))).id
                self.proxy.requests.clear()

                with self.round_trips() as calls:
                    # The interface looks it up.
                    self.uploads.get(self.upload)
                    complete = self.append(TEA, checksum=checksum)

                self.assertEqual((TEA_HASH, len(TEA)), (complete.digest, complete.received))
                self.assertEqual([f"PUT /{self.bucket.name}/{TEA_KEY}"], self.proxy.requests)
                self.assertEqual(5, len(calls))
                self.assertEqual(complete._replace(expires=0), self.other.get(self.upload)._replace(expires=0))
                self.assertEqual([(None, 0)], self.query(
                    "SELECT holder, has_bytes FROM upload_holds WHERE id = %s", self.upload
                ))  # fmt: skip

    def test_upload_that_arrived_in_one_request_expires_after_its_last_byte(self) -> None:
        self.query("UPDATE uploads SET expires = expires - 1000")
        ((before,),) = self.query("SELECT expires FROM uploads")

        self.append(TEA)

        ((after,),) = self.query("SELECT expires FROM uploads")
        self.assertLess(before + 999, after)

    def test_upload_in_one_request_whose_object_is_not_stored_acknowledges_nothing(self) -> None:
        self.proxy.fail(refuse(503, "SlowDown"), method="PUT")
        with self.assertRaises(StoreUnavailable):
            self.append(TEA)
        self.proxy.mend()

        self.assertEqual((0, []), (self.received(), self.keys()))
        self.append(TEA, self.other)
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def test_upload_in_one_request_removes_what_a_crashed_one_left(self) -> None:
        self.begin(self.uploads, TEA[:4]).close()
        self.query("UPDATE uploads SET received = 0")
        self.query("DELETE FROM upload_segments")
        self.assertEqual(1, len(self.keys()))

        self.append(TEA, self.other)

        self.assertEqual([TEA_KEY], self.bucket.keys())

    @contextlib.contextmanager
    def round_trips(self) -> Iterator[list[str]]:
        """Records the queries and the transactions of all engines within the block."""
        calls: list[str] = []
        real = PostgresTransactions

        def recording(name: str) -> Any:
            call = getattr(real, name)

            def record(*values: Any) -> Any:
                calls.append(name)
                return call(*values)

            return record

        with mock.patch.multiple(real, read=recording("read"), write=recording("write")):
            yield calls

    def test_empty_upload_becomes_an_object_without_segments(self) -> None:
        self.upload = self.uploads.create(Draft("files", 0)).id

        complete = self.append(b"")

        self.assertEqual(hashlib.sha256(b"").hexdigest(), complete.digest)
        self.assertEqual([], self.keys())

    # Holds.

    def test_second_request_is_locked_out_and_a_silent_holder_is_taken_over(self) -> None:
        held = self.begin(self.uploads, TEA[:4])
        with self.assertRaises(UploadLocked):
            self.received()
        self.silence()

        offset = self.received()
        self.append(TEA[:6], self.other)
        with self.assertRaises(UploadLocked):
            held.finish()
        held.close()

        self.assertEqual((0, 6), (offset, self.received()))
        self.assertEqual(1, len(self.keys()))
        self.append(TEA[6:])
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_holder_that_was_taken_over_notices_while_bytes_arrive(self) -> None:
        held = self.begin(self.uploads, b"t")
        self.silence()
        self.received()

        self.clock.advance(1)
        held.write(b"")
        noting = held.held.hold._noting  # type: ignore[attr-defined]
        self.assertIsInstance(noting.exception(PATIENCE), UploadLocked)
        self.clock.advance(1)
        with self.assertRaises(UploadLocked):
            held.write(b"")

        held.close()
        self.assertEqual(0, self.received())

    def test_holder_that_was_taken_over_cannot_take_back_what_was_recorded(self) -> None:
        checksum = Expected("sha256", TEA_HASH)
        held = self.begin(self.uploads, TEA[:4], checksum=checksum)
        self.silence()
        self.append(TEA[:6], self.other)

        for act in (held.finish, lambda: held.write(bytes(100)), held.record):
            with self.assertRaises(UploadLocked):
                act()
        held.close()

        self.assertEqual(6, self.received())
        self.append(TEA[6:])
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_bytes_that_a_silent_request_has_recorded_count_for_the_one_that_takes_over(self) -> None:
        held = self.begin(self.open("three", record_size=4), TEA[:4])
        held.write(TEA[4:6])
        self.silence()
        self.assertEqual(4, self.received())
        self.append(TEA[4:], self.other)
        with self.assertRaises(UploadLocked):
            held.finish()
        held.close()

        self.assertEqual(TEA, self.bucket.get(TEA_KEY))
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def test_bytes_of_a_slow_request_are_recorded_after_5_s(self) -> None:
        held = self.begin(self.uploads, TEA[:2])
        self.clock.advance(4.9)
        held.write(TEA[2:4])
        self.assertEqual([], self.keys())
        self.clock.advance(0.1)
        held.write(TEA[4:6])
        self.assertEqual(1, len(self.keys()))
        held.write(TEA[6:])
        held.finish()
        self.uploads.complete_if_whole(held)
        held.close()

        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_hold_of_a_process_whose_session_ended_is_free_at_once(self) -> None:
        self.begin(self.uploads, TEA[:4])

        self.end_sessions()

        self.wait_until("the session has ended", lambda: not self.other._storage.is_held(self.upload))
        self.assertEqual(TEA_HASH, self.append(TEA, self.other).digest)

    def test_holder_keeps_its_upload_when_its_session_is_another(self) -> None:
        held = self.begin(self.uploads, TEA[:4])
        self.end_sessions()

        def is_recorded() -> bool:
            with contextlib.suppress(StoreUnavailable):
                held._hold.confirm()
                return True
            return False

        self.wait_until("the session is new", is_recorded)
        with self.assertRaises(UploadLocked):
            self.received()
        held.finish()
        held.close()
        self.assertEqual(4, self.received())

    def test_hold_that_is_released_while_another_request_asks_for_it_is_free(self) -> None:
        held = self.other.receive(self.upload)

        with after_statement("UPDATE upload_holds SET generation", held.close), self.uploads.receive(self.upload):
            self.assertRaises(UploadLocked, self.other.receive, self.upload)

    def test_upload_that_completes_while_it_is_found_again_is_made_anew(self) -> None:
        draft = Draft("files", len(TEA), reuse="alice")
        (self.upload,) = self.other.find_or_create([draft])

        with after_statement("INSERT INTO uploads", lambda: self.append(TEA, self.other)):
            made = self.uploads.find_or_create([draft, draft])

        self.assertNotEqual(self.upload, made[0])
        self.assertEqual([made[0]] * 2, made)
        self.assertEqual(made[:1], self.other.find_or_create([draft]))

    def test_thousand_uploads_are_found_by_few_round_trips(self) -> None:
        drafts = [Draft("files", len(TEA), reuse=f"alice {number}") for number in range(1000)]
        made = self.uploads.find_or_create(drafts)
        real = transactions._Transaction
        with (
            mock.patch.object(real, "execute", autospec=True, side_effect=real.execute) as execute,
            mock.patch.object(real, "executemany", autospec=True, side_effect=real.executemany) as executemany,
        ):
            self.assertEqual(made, self.uploads.find_or_create(drafts))

        self.assertEqual(1000, len(set(made)))
        self.assertLess(execute.call_count + executemany.call_count, 10)

    def test_bytes_whose_hold_gets_no_thread_are_unavailable_and_arrive_later(self) -> None:
        for data in (TEA[:4], TEA):
            held = self.begin(self.uploads, data)
            with mock.patch.object(hold_rows, "start_thread", return_value=None), self.assertRaises(StoreUnavailable):
                held.finish()
                self.uploads.complete_if_whole(held)
            held.close()

            self.assertEqual(0, self.received())
        self.append(TEA)
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))

    def test_many_requests_at_once_get_one_hold(self) -> None:
        engines = [self.uploads, self.other] * 4
        is_over = threading.Barrier(len(engines))

        def receive(number: int) -> bool:
            try:
                with engines[number].receive(self.upload):
                    is_over.wait(PATIENCE)
                    return True
            except UploadLocked:
                is_over.wait(PATIENCE)
                return False

        self.assertEqual(1, in_threads(len(engines), receive).count(True))

    def test_holder_that_makes_the_object_is_active_until_it_is_over(self) -> None:
        with self.uploads.receive(self.upload) as held:
            held.become_object()
            self.silence()
            before = self.touched()
            self.pass_time(1)
            self.assertLess(before, self.touched())
            with self.assertRaises(UploadLocked):
                self.other.receive(self.upload)

        self.assertEqual(0, self.received())

    def test_only_one_of_two_that_complete_an_upload_publishes_it(self) -> None:
        self.append(TEA[:6])
        second = self.target
        self.uploads = self.open("three")
        first = self.target
        confirm = hold_rows.RowHold.confirm

        def be_taken_over(hold: hold_rows.RowHold) -> None:
            with mock.patch.object(hold_rows.RowHold, "confirm", confirm):
                self.silence()
                self.assertTrue(self.other.settle(self.upload).is_complete)
                confirm(hold)

        with mock.patch.object(hold_rows.RowHold, "confirm", be_taken_over), self.assertRaises(UploadLocked):
            self.append(TEA[6:])

        self.assertEqual((0, 1), (first.published, second.published))
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def touched(self) -> float:
        ((touched,),) = self.query("SELECT touched FROM upload_holds")
        return float(touched)


class EndTest(RemoteCase):
    def test_checksum_that_lies_counts_nothing_and_leaves_nothing(self) -> None:
        self.append(TEA[:4])
        before = self.keys()

        with self.assertRaises(ChecksumMismatch):
            self.append(b"lies", checksum=Expected("sha256", TEA_HASH))

        self.assertEqual((4, before), (self.received(), self.keys()))

    def test_bytes_beyond_the_length_take_those_of_the_request_with_them(self) -> None:
        self.append(TEA[:4])
        before = self.keys()

        held = self.begin(self.open("three", record_size=1), TEA[4:8])
        with self.assertRaises(TooLarge):
            held.write(bytes(5))
        held.close()

        self.assertEqual((4, before), (self.received(), self.keys()))
        self.assertEqual(1, len(self.query("SELECT * FROM upload_segments")))

    def test_announced_digest_that_does_not_match_removes_everything(self) -> None:
        self.upload = self.uploads.create(Draft("files", 4, expected=[Expected("sha256", TEA_HASH)])).id

        with self.assertRaises(ChecksumMismatch):
            self.append(b"lies")

        self.assertEqual([], self.bucket.keys())
        self.assertEqual([], self.query("SELECT * FROM uploads WHERE id = %s", self.upload))
        self.assertEqual([], self.query("SELECT * FROM upload_holds"))

    def test_termination_and_expiry_remove_segments_and_what_crashed_requests_left(self) -> None:
        for end in (self.terminate, self.expire):
            self.upload = self.uploads.create(Draft("files", len(TEA))).id
            self.append(TEA[:4])
            self.bucket.put(f"uploads/{self.upload}/7", b"left")

            end()

            self.assertEqual([], self.bucket.keys())
            self.assertEqual([], self.query("SELECT * FROM upload_segments"))
            self.assertEqual([], self.query("SELECT * FROM uploads WHERE id = %s", self.upload))

    def test_segments_of_a_complete_upload_that_were_left_go_when_it_expires(self) -> None:
        self.append(TEA[:4])
        self.proxy.fail(refuse(503, "SlowDown"), method="DELETE")
        self.append(TEA[4:])
        self.proxy.mend()
        # The segment of the first request, the one that replaced it, and the object.
        self.assertEqual(3, len(self.bucket.keys()))

        self.expire()

        self.assertEqual([TEA_KEY], self.bucket.keys())

    def test_clock_of_a_daemon_that_is_off_ends_no_upload(self) -> None:
        # The S3 store refuses requests that are 15 minutes off.
        self.uploads._registry._ttl = 300
        for off in (-600, 600):
            with self.subTest(off=off):
                self.set_clock(off)
                self.upload = self.uploads.create(Draft("files", len(TEA))).id
                self.append(TEA[:4])
            # By a daemon whose clock is right.
            self.set_clock(0)
            self.other.expire()

            self.set_clock(-off)
            self.assertEqual(4, self.received())

    def test_upload_that_is_held_does_not_expire(self) -> None:
        self.begin(self.uploads, TEA[:4])

        self.expire()

        self.assertEqual(1, len(self.query("SELECT * FROM uploads")))

    def test_terminated_upload_whose_objects_cannot_be_removed_is_left_to_the_janitor(self) -> None:
        self.append(TEA[:4])
        self.proxy.fail(refuse(503, "SlowDown"), method="DELETE")
        self.terminate()
        with self.assertRaises(Gone):
            self.uploads.get(self.upload)
        self.proxy.mend()

        self.other.expire()

        self.assertEqual([], self.bucket.keys())
        with self.assertRaises(NotFound):
            self.uploads.get(self.upload)

    def set_clock(self, off: float) -> None:
        """Let the clock of the daemons be off by so many seconds."""
        self.store_clock.off = off
        self.clock.set_date(ago(-off))

    def terminate(self) -> None:
        self.other.terminate(self.upload)

    def expire(self) -> None:
        self.query("UPDATE uploads SET expires = %s", ago(1))
        self.other.expire()

    # Faults.

    def test_store_that_fails_acknowledges_nothing_and_recovers(self) -> None:
        self.uploads = self.open("three", connect=ImpatientConnection)
        for fault, error in (
            (refuse(503, "SlowDown"), StoreUnavailable),
            (refuse(507, "InsufficientStorage"), StorageFull),
            (leave_unanswered, StoreUnavailable),
            (hang, StoreUnavailable),
        ):
            with self.subTest(fault=fault):
                self.assert_nothing_acknowledged(fault, error)

        self.wait_until("the store answers", self.completes)
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def assert_nothing_acknowledged(self, fault: Fault, error: type[Error]) -> None:
        self.proxy.fail(fault, method="PUT")
        held = self.begin(self.uploads, TEA[:4])
        with self.assertRaises(error):
            held.finish()
        held.close()
        self.proxy.mend()

        self.assertEqual(0, self.received())

    def completes(self, uploads: Uploads | None = None) -> bool:
        uploads = uploads or self.uploads
        with contextlib.suppress(StoreUnavailable):
            self.append(TEA[self.received(uploads) :], uploads)
            return uploads.get(self.upload).is_complete
        return False

    def test_database_that_is_lost_while_bytes_are_promised_takes_back_none(self) -> None:
        proxy = TcpProxy(self.server.port)
        self.addCleanup(proxy.close)
        uploads = self.open("three", self.server.url(self.database, port=proxy.port))
        held = self.begin(uploads, TEA[:4])
        proxy.break_behind(b"COMMIT", before=b"INSERT INTO upload_segments")
        with self.assertRaises(StoreUnavailable):
            held.finish()
        held.close()
        # The change was made, though its answer was lost.
        self.assertEqual(4, self.received())

        self.wait_until("it is connected again", lambda: self.holds(uploads))
        held = self.begin(uploads, TEA[4:8])
        proxy.cut()
        with self.assertRaises(StoreUnavailable):
            held.finish()
        held.close()
        self.silence()
        self.assertEqual(4, self.received())
        proxy.mend()

        self.wait_until("it is complete", lambda: self.completes(uploads))
        self.assertEqual(TEA, self.bucket.get(TEA_KEY))
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def holds(self, uploads: Uploads) -> bool:
        with contextlib.suppress(StoreUnavailable):
            uploads.receive(self.upload).close()
            return True
        return False

    def test_all_bytes_without_an_object_become_one_by_the_next_request(self) -> None:
        self.append(TEA[:4])
        self.proxy.fail(refuse(503, "SlowDown"), method="PUT", target=TEA_HASH[:2] + "/")
        with self.assertRaises(StoreUnavailable):
            self.append(TEA[4:])
        self.proxy.mend()

        settled = self.other.settle(self.upload)

        self.assertTrue(settled.is_complete)
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def test_segment_that_decayed_in_the_store_never_becomes_an_object(self) -> None:
        self.append(TEA[:4])
        self.proxy.fail(flip_bit, method="GET", target="uploads/")

        with self.assertRaises(CorruptObject):
            self.append(TEA[4:])
        self.proxy.mend()

        self.assertTrue(self.other.settle(self.upload).is_complete)
        self.assertEqual([TEA_KEY], self.bucket.keys())

    def test_segment_that_is_missing_is_an_upload_that_is_gone(self) -> None:
        self.append(TEA[:4])
        self.bucket.delete(self.keys()[0])

        with self.assertRaises(Gone):
            self.append(TEA[4:])

    def test_promise_without_a_name_for_its_bytes_is_an_upload_that_is_gone(self) -> None:
        self.append(TEA[:4])
        self.query("DELETE FROM upload_segments")

        with self.assertRaises(NotFound):
            self.received()
        with self.assertRaises(Gone):
            self.append(TEA[4:])
