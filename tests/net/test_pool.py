from __future__ import annotations

import threading
import unittest
from unittest import mock

from filestoraged.net.pool import Breaker, IdlePool, ServerSuspect
from tests.clock import VirtualClock


class Socket:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class IdlePoolTest(unittest.TestCase):
    def test_connection_that_was_used_last_is_acquired_first(self) -> None:
        pool: IdlePool[Socket] = IdlePool()
        old, new = Socket(), Socket()
        pool.release(old)
        pool.release(new)

        self.assertEqual([new, old, None], [pool.acquire() for _ in range(3)])

    def test_connection_that_was_idle_for_longest_is_closed_beyond_the_size(self) -> None:
        pool: IdlePool[Socket] = IdlePool(1)
        old, new = Socket(), Socket()
        pool.release(old)
        pool.release(new)

        self.assertEqual((True, False, 1), (old.is_closed, new.is_closed, len(pool)))

    def test_forked_process_neither_uses_nor_closes_the_connections_of_its_parent(self) -> None:
        pool: IdlePool[Socket] = IdlePool()
        kept = Socket()
        pool.release(kept)

        with mock.patch("os.getpid", return_value=-1):
            self.assertIsNone(pool.acquire())

        self.assertFalse(kept.is_closed)


class BreakerTest(unittest.TestCase):
    def setUp(self) -> None:
        self.clock = VirtualClock()
        self.breaker = Breaker("the server", self.clock)

    def test_one_thread_waits_for_a_silent_server_and_others_fail_at_once(self) -> None:
        self.breaker.note_failure(TimeoutError(), self.clock.now())
        outcomes: list[BaseException] = []

        def call_from_another_thread() -> None:
            thread = threading.Thread(target=self.call_and_note, args=(outcomes,))
            thread.start()
            thread.join()

        self.breaker.call(call_from_another_thread)

        self.assertEqual([ServerSuspect], [type(each) for each in outcomes])
        self.assertEqual("the server has not answered lately", str(outcomes[0]))

    def call_and_note(self, outcomes: list[BaseException]) -> None:
        try:
            self.breaker.call(lambda: None)
        except ServerSuspect as error:
            outcomes.append(error)

    def test_server_that_answered_another_call_meanwhile_is_not_suspect(self) -> None:
        started = self.clock.now()
        self.clock.advance(1)
        self.breaker.note_answer()

        self.breaker.note_failure(TimeoutError(), started)

        self.assertFalse(self.breaker.suspect)

    def test_failure_other_than_silence_and_a_fork_make_a_server_usable(self) -> None:
        for name in ("failure", "fork"):
            self.breaker.note_failure(TimeoutError(), self.clock.now())
            self.assertTrue(self.breaker.suspect)
            with self.subTest(name):
                if name == "failure":
                    self.breaker.note_failure(ConnectionResetError(), self.clock.now())
                else:
                    with mock.patch("os.getpid", return_value=-1):
                        self.breaker.call(lambda: None)
                self.assertFalse(self.breaker.suspect)
