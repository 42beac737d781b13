"""Hashing on another thread: same digest, at most one thread per core, and no caller that waits after a failure."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

from filestoraged.digest import Bytes, Expected, Hasher
from filestoraged.errors import DigestMismatch
from filestoraged.store.disk.store import DiskStore
from filestoraged.store.hashing import COPY_SIZE, HashThreads, OverlappedHasher
from tests.clock import VirtualClock
from tests.support import PATIENCE, TempCase

PIECE = b"x" * COPY_SIZE


def threads() -> int:
    return sum(thread.name == "hash" for thread in threading.enumerate())


class HasherCase(TempCase):
    def new_hasher(self, limit: int = 2, expected: Any = ()) -> OverlappedHasher:
        hasher = OverlappedHasher("sha256", expected, HashThreads(limit, VirtualClock()))
        self.addCleanup(hasher.close)
        return hasher

    def in_time(self, work: Callable[[], None]) -> BaseException:
        """Run `work` on a thread: it must raise in time. Returns the exception."""
        raised: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        self.assertFalse(thread.is_alive(), "it does not return")
        self.assertTrue(raised, "it did not raise")
        return raised[0]


class OverlappedHasherTest(HasherCase):
    def test_small_object_needs_no_thread(self) -> None:
        hasher = self.new_hasher()

        hasher.update(b"tea")

        self.assertEqual(0, threads())
        self.assertEqual(hashlib.sha256(b"tea").hexdigest(), hasher.finish())

    def test_large_object_is_hashed_on_another_thread(self) -> None:
        hasher = self.new_hasher()

        for _ in range(20):
            hasher.update(PIECE)
        running = threads()
        digest = hasher.finish()

        self.assertEqual(1, running)
        self.assertEqual(hashlib.sha256(PIECE * 20).hexdigest(), digest)
        self.assertEqual(0, threads())

    def test_large_and_small_pieces_are_hashed_in_their_order(self) -> None:
        hasher, expected = self.new_hasher(), hashlib.sha256()
        buffer = bytearray(COPY_SIZE)

        for number in range(200):
            size = (COPY_SIZE, 1, 1000, 70_000)[number % 4]
            buffer[:size] = bytes([number]) * size
            expected.update(buffer[:size])
            hasher.update(memoryview(buffer)[:size])

        self.assertEqual(expected.hexdigest(), hasher.finish())

    def test_close_ends_the_thread_of_an_unfinished_object(self) -> None:
        hasher = self.new_hasher()
        for _ in range(20):
            hasher.update(PIECE)

        hasher.close()
        hasher.close()

        self.assertEqual(0, threads())

    def test_expected_digest_is_checked_at_the_end(self) -> None:
        hasher = self.new_hasher(expected=[Expected("md5", "00" * 16)])
        for _ in range(20):
            hasher.update(PIECE)

        self.assertRaises(DigestMismatch, hasher.finish)

    def test_small_pieces_of_a_slow_client_need_no_thread(self) -> None:
        hasher = self.new_hasher()
        for _ in range(4):
            hasher.update(PIECE)

        for _ in range(100):
            hasher.update(b"x" * 1000)

        self.assertEqual(0, threads())
        self.assertEqual(hashlib.sha256(PIECE * 4 + b"x" * 100_000).hexdigest(), hasher.finish())


class SharedBufferTest(HasherCase):
    """What the hash thread gets of a piece while it is still at an earlier one."""

    def setUp(self) -> None:
        super().setUp()
        self.hashed: list[Bytes] = []
        self.may_hash = threading.Event()
        self.addCleanup(self.may_hash.set)
        update = Hasher.update

        def update_later(hasher: Hasher, data: Bytes) -> None:
            if threading.current_thread().name == "hash":
                self.may_hash.wait(PATIENCE)
                self.hashed.append(data)
            update(hasher, data)

        patch = mock.patch.object(Hasher, "update", update_later)
        patch.start()
        self.addCleanup(patch.stop)
        self.hasher = self.new_hasher()
        for _ in range(4):
            self.hasher.update(PIECE)

    def test_view_of_bytes_is_hashed_without_a_copy_after_the_caller_released_it(self) -> None:
        data = os.urandom(COPY_SIZE)
        view = memoryview(data)

        self.hasher.update(view)
        view.release()
        self.may_hash.set()

        self.assertEqual(hashlib.sha256(PIECE * 4 + data).hexdigest(), self.hasher.finish())
        self.assertIs(data, self.hashed[0].obj)  # type: ignore[union-attr]

    def test_buffer_that_the_caller_reuses_is_copied(self) -> None:
        data = os.urandom(COPY_SIZE)
        buffer = bytearray(data)

        self.hasher.update(memoryview(buffer))
        buffer[:] = bytes(COPY_SIZE)
        self.may_hash.set()

        self.assertEqual(hashlib.sha256(PIECE * 4 + data).hexdigest(), self.hasher.finish())


class FailingHashTest(HasherCase):
    """The sixth piece raises MemoryError, on the hash thread."""

    def setUp(self) -> None:
        super().setUp()
        self.hashed = 0
        update = Hasher.update

        def update_or_fail(hasher: Hasher, data: Bytes) -> None:
            self.hashed += 1
            if self.hashed == 6:
                raise MemoryError("no memory for the hash")
            update(hasher, data)

        patch = mock.patch.object(Hasher, "update", update_or_fail)
        patch.start()
        self.addCleanup(patch.stop)

    def test_upload_whose_hash_fails_gets_the_error_and_does_not_wait(self) -> None:
        store = DiskStore(self.directory)

        def upload() -> None:
            with store.stage() as staging:
                for _ in range(40):
                    staging.write(PIECE)

        self.assertIsInstance(self.in_time(upload), MemoryError)
        self.assertEqual([], self.files_below(self.directory))
        self.assertEqual(0, threads())

    def test_hash_that_fails_at_any_piece_has_no_digest_and_closes_without_another_error(self) -> None:
        for pieces in (6, 40):
            self.hashed = 0
            hasher = self.new_hasher()

            def hash_all(pieces: int = pieces, hasher: OverlappedHasher = hasher) -> None:
                for _ in range(pieces):
                    hasher.update(PIECE)
                hasher.finish()

            self.assertIsInstance(self.in_time(hash_all), MemoryError)
            hasher.close()


class HashThreadsTest(HasherCase):
    def test_forty_large_uploads_use_one_hash_thread_per_core(self) -> None:
        store = DiskStore(self.directory, hash_threads=HashThreads(clock=VirtualClock()))
        with ExitStack() as uploads:
            stagings = [uploads.enter_context(store.stage()) for _ in range(40)]
            for _ in range(6):
                for number, staging in enumerate(stagings):
                    staging.write(bytes([number]) * COPY_SIZE)
            running = threads()
            digests = [staging.commit().result(PATIENCE) for staging in stagings]

        expected = [hashlib.sha256(bytes([number]) * COPY_SIZE * 6).hexdigest() for number in range(40)]
        self.assertEqual(expected, digests)
        self.assertIn(running, range(1, len(os.sched_getaffinity(0)) + 1))
        self.assertEqual(0, threads())

    def test_namespaces_share_the_threads_of_their_store(self) -> None:
        store = DiskStore(self.directory)

        self.assertIs(store.hash_threads, store.namespace("repositories").namespace("cats").hash_threads)

    def test_slot_is_free_after_its_upload_ends(self) -> None:
        pool = HashThreads(1, VirtualClock())
        for _ in range(3):
            hasher = OverlappedHasher("sha256", (), pool)
            for _ in range(6):
                hasher.update(PIECE)
            self.assertEqual(1, threads())
            hasher.close()

    def test_slot_is_free_while_its_upload_pauses(self) -> None:
        clock = VirtualClock()
        pool = HashThreads(1, clock)
        first, second = (OverlappedHasher("sha256", (), pool) for _ in range(2))
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        for hasher in (first, second):
            for _ in range(6):
                hasher.update(PIECE)

        # It may wait for the last piece for the first time, or for the next one.
        def has_ended() -> bool:
            clock.advance(1)
            return threads() == 0

        self.wait_until("the first one's thread has ended", has_ended)
        second.update(PIECE)

        self.assertEqual(1, threads())
        self.assertEqual(hashlib.sha256(PIECE * 7).hexdigest(), second.finish())
        self.assertEqual(hashlib.sha256(PIECE * 6).hexdigest(), first.finish())

    def test_upload_is_stored_if_no_thread_can_be_started(self) -> None:
        store = DiskStore(self.directory)
        self.addCleanup(store.close)
        # The thread of the committer runs by then.
        store.remove(store.put(b"first"))
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            digest = store.put(PIECE * 6)

        self.assertEqual(hashlib.sha256(PIECE * 6).hexdigest(), digest)
        self.assertEqual(1, len(self.files_below(self.directory)))

    def test_thread_that_could_not_be_started_leaves_its_slot_free(self) -> None:
        pool = HashThreads(1)
        with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
            self.assertIsNone(pool.start(lambda: None))

        self.assertIsNotNone(pool.start(lambda: None))

    def test_forked_child_has_slots_of_its_own(self) -> None:
        pool, ends = HashThreads(1), threading.Event()
        self.addCleanup(ends.set)

        def wait() -> None:
            ends.wait(PATIENCE)

        pool.start(wait)
        child = multiprocessing.get_context("fork").Process(target=_start_one, args=(pool,))
        child.start()
        child.join(PATIENCE)

        self.assertEqual(0, child.exitcode)
        self.assertIsNone(pool.start(lambda: None))

    def test_staging_is_discarded_if_closing_its_hasher_fails(self) -> None:
        store = DiskStore(self.directory)
        staging = store.stage()
        staging.write(PIECE)
        with mock.patch.object(OverlappedHasher, "close", side_effect=RuntimeError("can't start new thread")):
            self.assertRaises(RuntimeError, staging.close)

        self.assertEqual([], self.files_below(self.directory))
        # The staging area stays open, for its owner lock.
        self.assertEqual([True], [os.path.isdir(path) for path in self.open_paths()])

    def open_paths(self) -> list[str]:
        """The files below the test's directory that this process has open. Other tests' threads may have others."""
        paths = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        return [path for path in paths if path.startswith(str(self.directory))]


def _start_one(pool: HashThreads) -> None:
    assert pool.start(lambda: None) is not None
